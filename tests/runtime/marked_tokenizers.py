"""Small tokenizers of models that mark their thinking in different ways."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from skipkv.testing.fakes import VOCABULARY

HARMONY = {
    "=": "<|channel|>",
    "*": "<|message|>",
    "+": "<|end|>",
    "-": "<|start|>",
    "7": "analysis",
    "8": "final",
    "9": "assistant",
}
"""Tokens of the toy tokenizer -> tokens of gpt-oss that stand in their place."""


def messages(max_size: int = 8) -> st.SearchStrategy[list[str]]:
    """Tokens of gpt-oss: whole headers, parts of headers, and words."""
    opens, answers = [["<|channel|>", name, "<|message|>"] for name in ("analysis", "final")]
    alone = [[token] for token in (*HARMONY.values(), "so", " ", ".\n\n")]
    part = st.sampled_from([opens, answers]) | st.sampled_from(alone)
    return st.lists(part, max_size=max_size).map(lambda parts: [t for part in parts for t in part])


def renamed(names: Mapping[str, str], *, template: str | None = None) -> PreTrainedTokenizerFast:
    """The toy tokenizer with other names for some tokens: a model speaks both alike.

    Args:
        names: tokens of the toy tokenizer -> what they are called. Names in angle brackets are
            special tokens.
        template: chat template.
    """
    words = {names.get(token, token): i for i, token in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[.)?]?\n\n?|[A-Za-z]+|[^A-Za-z\n]"), behavior="isolated"
    )
    inner.decoder = decoders.Fuse()
    special = [word for word in words if word[0] + word[-1] in ("<>", "[]")]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=special,
        padding_side="left",
    )
    tokenizer.chat_template = template
    return tokenizer


def in_bytes(corpus: Sequence[str], *, template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in whose vocabulary marks are no tokens of their own."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>", "<|user|>"],
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", additional_special_tokens=["<|user|>"]
    )
    tokenizer.chat_template = template
    return tokenizer
