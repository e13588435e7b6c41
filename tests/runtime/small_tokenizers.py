"""Small tokenizers whose texts are joined from tokens in different ways."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skipkv import tiny
from skipkv.testing import toy_tokenizer


def sentencepiece() -> PreTrainedTokenizerFast:
    """Words begin with an underscore; the first space of a text is dropped in decoding."""
    words = ["<unk>", "▁so", "▁x", "x", "▁", ".", "<0x0A>", "y▁"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """A token per byte, as byte-level BPE before any merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's: what has no token of its own is spelt in bytes, and a run of them is one."""
    words = ["<unk>", "▁", "▁so", "x", "<0x0A>", "<0xE2>", "<0x82>", "<0xAC>", "</s>"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


def cleaning() -> PreTrainedTokenizerFast:
    """Spaces before full stops and inside contractions are taken out of the text decoded."""
    words = ["<unk>", " ", "do", " n", "'", "t", " .", "ve", "\n", " so", "n't", "'s", "</s>"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="</s>",
        clean_up_tokenization_spaces=True,
    )


def cleaned(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.clean_up_tokenization_spaces = True
    return tokenizer


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: spaces between words are put in when the text is decoded."""
    words = ["<unk>", "so", "##me", "x", ".", "'", "##.", "</s>"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


def _tiny() -> Any:
    return tiny.load(device="cpu")[1]


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "toy": toy_tokenizer,
    "tiny": _tiny,
    "sentencepiece": sentencepiece,
    "bytes": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback, cleaning": lambda: cleaned(byte_fallback()),
    "cleaning": cleaning,
    "word pieces": word_pieces,
}
