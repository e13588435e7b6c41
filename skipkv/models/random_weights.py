"""Random weights of a given architecture, for measuring speed without the real weights."""

import math
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from skipkv.errors import InputError
from skipkv.models.families import check_sizes
from skipkv.models.placement import check_dtype, find_device

_SEED = 0
# Families of which all buffers are known: those that a config gives are lost on "meta".
_KNOWN = ("llama", "qwen2", "qwen3")
# One in this many invented words ends a sentence, and one in this many sentences a paragraph.
_SENTENCE, _PARAGRAPH = 16, 2


def random_model(
    path: str | Path, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of the architecture in a `config.json`, with random weights; and a tokenizer.

    The weights are drawn on the device itself, so that seven billion take seconds. They are the
    same for the same device and version of torch. The text of such a model has no meaning. Its time
    and memory are those of the architecture.

    Args:
        path: a transformers config.json.
        dtype: dtype of the weights; "auto" takes the config's.
        device: device of the weights.

    Raises:
        InputError: the file does not exist, or does not describe a supported model.
    """
    place = find_device(device)
    check_dtype(dtype)
    config = _config(Path(path))
    if isinstance(dtype, str):
        wanted = getattr(config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    else:
        wanted = dtype
    # transformers 5.0 does not store the dtype it is given
    weights = wanted if isinstance(wanted, torch.dtype) else torch.float32
    config.dtype = weights
    _check_memory(config, weights, place, str(path))
    tokenizer = synthetic_tokenizer(config.vocab_size)
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=weights)
        torch.nn.Module.to_empty(model, device=place)
        _draw(model, place)
        model.tie_weights()
    except Exception as cause:  # a wrong config raises errors of every type
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise InputError(f"Cannot make the model of {str(path)!r}: {reason}") from cause
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    return torch.nn.Module.train(model, False), tokenizer


def synthetic_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """A tokenizer that has a token for every id: bytes, invented words, and an end of text.

    It reads any text byte by byte, without loss. One invented word in sixteen ends a sentence, and
    every second sentence ends a paragraph, so that segmenters and steering have work with the text
    of a random model.

    Args:
        vocabulary: number of tokens.

    Raises:
        InputError: the vocabulary is too small for bytes and words.

    Example:
        >>> tokenizer = synthetic_tokenizer(1000)
        >>> tokenizer.decode(tokenizer("What now?")["input_ids"])
        'What now?'
        >>> tokenizer.decode([300, 301, 303])
        ' w300 w301 w303.\\n\\n'
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(letters) + 2 * _SENTENCE
    if vocabulary < least:
        raise InputError(
            f"A random model needs a vocab_size of at least {least} for its tokenizer, got "
            f"{vocabulary}. Raise it in the config."
        )
    words = [_word(i) for i in range(len(letters), vocabulary - 1)]
    tokens = [*letters, *words, "<|end|>"]
    inner = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )


def _word(number: int) -> str:
    """An invented word in the alphabet of byte-level tokenizers: G-dot is a space, C-dot a line."""
    if (number + 1) % _SENTENCE:
        return f"Ġw{number}"
    return f"Ġw{number}.{'ĊĊ' if (number + 1) // _SENTENCE % _PARAGRAPH else 'Ċ'}"


def _config(path: Path) -> PretrainedConfig:
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise InputError(f"No model config at {str(path)!r}: there is no such file.")
    try:
        written, _ = PretrainedConfig.get_config_dict(path)
        check_sizes(written)
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as cause:  # transformers raises errors of every type for a wrong config
        reason = " ".join(str(cause).split())
        raise InputError(f"Cannot read the model config {str(path)!r}: {reason}") from cause
    if config.model_type not in _KNOWN:
        raise InputError(
            f"{str(path)!r} is the config of a {config.model_type!r} model. Random weights are "
            f"made for {', '.join(_KNOWN)}."
        )
    return config


def _check_memory(
    config: PretrainedConfig, dtype: torch.dtype, device: torch.device, name: str
) -> None:
    """Raise `InputError` if the weights need more memory than the device has."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    layer = config.hidden_size * (2 * head * (heads + kv_heads) + 3 * config.intermediate_size)
    tables = 1 if config.tie_word_embeddings else 2
    numbers = config.num_hidden_layers * layer + tables * config.vocab_size * config.hidden_size
    needed, there = numbers * dtype.itemsize, _memory(device)
    if needed > there:
        raise InputError(
            f"The weights of {name!r} take {needed / 1e9:,.0f} GB, and {device} has "
            f"{there / 1e9:,.0f} GB. Take a smaller model, or a smaller dtype."
        )


def _memory(device: torch.device) -> float:
    """The total memory of a device, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):  # Windows does not report it
        return math.inf


@torch.no_grad()
def _draw(model: PreTrainedModel, device: torch.device) -> None:
    # Greedy decoding should vary, not repeat one token for ever. Tied embeddings are small, because
    # a token's embedding raises the logit of the same token. Untied ones are large, so that the
    # input token decides what follows.
    embedding = 0.02 if model.config.tie_word_embeddings else 1.0
    generator = torch.Generator(device).manual_seed(_SEED)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            std = embedding if "embed" in name else weight.shape[1] ** -0.5
            weight.normal_(std=std, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    for module in model.modules():
        if hasattr(module, "inv_freq"):  # a buffer computed from the config, lost on "meta"
            with device:
                fresh = type(module)(model.config)
            for name, buffer in fresh.named_buffers():
                setattr(module, name, buffer)
