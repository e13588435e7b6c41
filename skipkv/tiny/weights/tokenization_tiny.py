"""The class that `tokenizer_config.json` names, so that AutoTokenizer reads this tokenizer right.

A Qwen2 model gets the tokenizer of its family from AutoTokenizer, with other ids and no word said,
unless its folder names a class of its own. Without trust_remote_code the folder is then read as
`tokenizer.json` says; with it, by this class, which does the same.
"""

from transformers import PreTrainedTokenizerFast


class TinyTokenizer(PreTrainedTokenizerFast):
    """Reads `tokenizer.json` as it stands."""
