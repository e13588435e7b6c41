"""What can be decoded: models, tokenizers, policies and prompts checked against each other.

Start with `checks.py`. A new check comes before any decoding, and its error names the remedy.
"""
