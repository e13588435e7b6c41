"""The calls of a policy's parts: sentences read, entries scored and chosen, states steered.

Start with `event.py`; every call of a part goes through `checked.py`. To give parts another signal,
add it to the view there.
"""
