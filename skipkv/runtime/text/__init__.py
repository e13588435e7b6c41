"""What tokens say: the text of each, where it stops, which part of it is thinking.

Start with `token_text.py`. How a family marks its thinking is a value of `ThinkingMarks`.
"""
