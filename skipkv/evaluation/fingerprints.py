"""Digests of models and prompts, so that a resumed run uses the same ones."""

import hashlib
from collections.abc import Sequence
from typing import Any


def of_model(model: Any) -> dict[str, Any]:
    """The identity of a model, in any folder: its kind, its size, and a digest of its weights.

    The digest uses some values of every weight, so that it changes with further training.

    Args:
        model: a torch module with a transformers `config`.
    """
    digest = hashlib.sha256()
    parameters = 0
    for name, weight in model.named_parameters():
        parameters += weight.numel()
        values = weight.detach().flatten()
        some = values[:: max(1, values.numel() // 64)][:64]
        digest.update(name.encode() + some.float().cpu().numpy().tobytes())
    return {
        "type": model.config.model_type,
        "parameters": parameters,
        "weights": digest.hexdigest()[:16],
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """The tokens at which a model's texts end: its generation config's, and the tokenizer's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, getattr(tokenizer, "eos_token_id", None)] if i is not None})


def of_prompts(ids: Sequence[Sequence[int]]) -> str:
    """A digest of token ids, and so of questions, instruction, chat template and tokenizer."""
    return hashlib.sha256(repr([tuple(i) for i in ids]).encode()).hexdigest()[:16]


def seed_of(seed: int, data: str, problem: str, sample: int) -> int:
    """The seed of one sample; it does not depend on what else is decoded.

    All policies get the same seed for a sample, so that only eviction makes them differ.

    Example:
        >>> seed_of(0, "tiny", "7", 0) == seed_of(0, "tiny", "7", 1)
        False
    """
    name = f"{seed}/{data}/{problem}/{sample}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
