"""The words of the embedded reasoner, and the tokenizer that splits text into them."""

import json
import re
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

UNKNOWN, PAD, EOS = "<unk>", "<pad>", "<eos>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
THINK, END_THINK = "<think>", "</think>"
SPECIAL = (UNKNOWN, PAD, EOS, USER, ASSISTANT, THINK, END_THINK)

NAMES = string.ascii_lowercase
DIGITS = string.digits
VALUES = tuple("=" + digit for digit in DIGITS)
SYMBOLS = (":", "+", "-")
# Words with their spaces: joining the tokens gives the text, and splitting the text the tokens.
WORDS = (
    "\n", "\n\n", ".\n", ".\n\n", ". ", ", ", "; ", " and ",
    "Start at ", ", find ",
    ", so ", ", yes ", " again: ",
    "Wait, ", "Hmm, ", "let me ", "check ", "verify ", "double-check: ",
    "Alternatively, ", "from ", " we need ",
    "So ", ", the code is ", "The code is ", r"\boxed{", "}.",
)  # fmt: skip
TOKENS = (*SPECIAL, *NAMES, *DIGITS, *VALUES, *SYMBOLS, *WORDS)
"""All tokens; a token's id is its index."""

IDS = {token: number for number, token in enumerate(TOKENS)}

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '<|user|>' + message['content'] + '\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '<|assistant|>' + message['content'] }}"
    "{{ '<eos>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|><think>\n' }}{%- endif -%}"
)
"""A question, then the open think block, as in DeepSeek-R1's template."""


def tokenizer(tokens: Sequence[str] = TOKENS) -> PreTrainedTokenizerFast:
    """A new tokenizer of a vocabulary; encoding and decoding a text gives the same text.

    Args:
        tokens: the vocabulary, in the order of the ids; it has the `SPECIAL` tokens.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    model = Tokenizer(WordLevel(vocab=ids, unk_token=UNKNOWN))
    # the longest word first, so that "\n\n" is one token
    longest_first = sorted(
        (token for token in tokens if token not in SPECIAL), key=len, reverse=True
    )
    words = "|".join(map(re.escape, longest_first))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(words), behavior="isolated")
    model.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    # not special tokens: like R1's, they belong to the text of a completion
    fast.add_tokens([THINK, END_THINK])
    fast.chat_template = CHAT_TEMPLATE
    return fast


_CLASS = Path(__file__).parent / "weights" / "tokenization_tiny.py"


def save_tokenizer(folder: str | Path, tokens: Sequence[str] = TOKENS) -> None:
    """Save a tokenizer beside a model, so that AutoTokenizer reads it as it is.

    Args:
        folder: folder of the model.
        tokens: the vocabulary, in the order of the ids.
    """
    tokenizer(tokens).save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    declared = {"AutoTokenizer": [None, f"{_CLASS.stem}.TinyTokenizer"]}
    path.write_text(json.dumps({"auto_map": declared, **config}, indent=2) + "\n")
    if Path(folder).resolve() != _CLASS.parent.resolve():
        shutil.copy(_CLASS, folder)
