"""A toy model and tokenizer: stock transformers classes, small enough to run in milliseconds.

The model has random weights, so its text has no meaning. Everything else is real: RoPE, grouped KV
heads, caches, `generate()`.
"""

from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

_SPECIAL = ["<pad>", "<eos>", "<unk>", "<think>", "</think>"]
_LINE_ENDS = ["\n", ".\n", ")\n", "\n\n", ".\n\n", ")\n\n", "?\n\n"]
_WORDS = [
    *" .,?()+-=*0123456789abcdefghijklmnopqrstuvwxyz",
    *("so", "then", "now", "if", "let", "me", "check", "wait", "again", "verify"),
    *("alternatively", "another", "way", "plus", "minus", "times", "is", "the", "sum"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
]
VOCABULARY = tuple(dict.fromkeys(_SPECIAL + _LINE_ENDS + _WORDS))

_CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of about a hundred tokens, line ends and think marks included.

    Example:
        >>> tokenizer = toy_tokenizer()
        >>> tokenizer.decode(tokenizer("so one plus two is three.\\n\\n")["input_ids"])
        'so one plus two is three.\\n\\n'
    """
    inner = Tokenizer(
        WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = Split(Regex(r"[.)?]?\n\n?|[A-Za-z]+|[^A-Za-z\n]"), behavior="isolated")
    inner.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<think>", "</think>"],
        padding_side="left",
    )


def toy_model(
    family: Literal["llama", "qwen2", "qwen3"] = "llama",
    *,
    layers: int = 2,
    heads: int = 2,
    groups: int = 2,
    dim: int = 16,
    hidden_size: int | None = None,
    seed: int = 0,
    eos: bool = False,
    sliding_window: int | None = None,
) -> PreTrainedModel:
    """A random model of a stock architecture over the toy tokenizer's vocabulary, in float32.

    Args:
        family: which architecture.
        layers: decoder layers.
        heads: KV heads.
        groups: query heads per KV head.
        dim: head size.
        hidden_size: hidden size; by default query heads times head size.
        seed: seed of the weights.
        eos: whether it may produce "<eos>"; by default it decodes for ever.
        sliding_window: gives every second layer a window of this many tokens (Qwen families).

    Example:
        >>> toy_model("qwen3", layers=3).config.num_hidden_layers
        3
    """
    size = hidden_size or heads * groups * dim
    options: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": heads,
        "head_dim": dim,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    if sliding_window is not None:
        kinds = ["full_attention", "sliding_attention"]
        options["sliding_window"] = sliding_window
        options["use_sliding_window"] = True
        options["layer_types"] = [kinds[i % 2] for i in range(layers)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _CONFIGS[family](**options)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if not eos:
        # An all-zero row has logit 0, which some other token always exceeds.
        model.lm_head.weight.data[1] = 0
    model.train(False)
    return model
