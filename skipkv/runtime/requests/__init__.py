"""What was asked, from the caller's prompts and settings to a sequence and its answer.

Start with `orders.py`, then `sequence.py`: the one record of a sequence that runs.
"""
