"""Prompts of unlike lengths for the toy tokenizer; the second one ends a paragraph."""

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a"]
