"""What a caller is told: completions, pieces of text, and what observers see.

Start with `completion.py` and `observers.py`. Whatever else shall be told is an observer.
"""
