"""The entries of all sequences, and where a pass puts and finds them.

Start with `store.py` and `slots.py`; `forward.py` and `decode.py` are the two kinds of passes. To
attend in another way, add a form to `kernels.py`.
"""
