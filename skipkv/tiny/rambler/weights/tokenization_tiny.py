"""The class that `tokenizer_config.json` names, so that AutoTokenizer reads this tokenizer right.

AutoTokenizer gives a Qwen2 model the tokenizer of its family, with other ids and without a warning,
unless its folder names its own class. Without trust_remote_code transformers then reads
`tokenizer.json`; with it, it uses this class, which does the same.
"""

from transformers import PreTrainedTokenizerFast


class TinyTokenizer(PreTrainedTokenizerFast):
    """Reads `tokenizer.json` as it is."""
