"""What a caller may pass to a model that a policy is attached to: pure checks of arguments."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache

from skipkv.errors import InputError
from skipkv.runtime.seam.cache import SlotCache


def keywords(
    config: PretrainedConfig, args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of a call of the model.

    Raises:
        InputError: they are given in order, or ask for attention weights.
    """
    if len(args) > 1:
        raise InputError("Under skipkv.attach, call the model with keyword arguments.")
    if kwargs.get("output_attentions") or config.output_attentions:
        raise InputError(
            "Under skipkv.attach attention weights are not returned: most kernels never have "
            "them. Remove output_attentions=True, or write a scorer that sees view.attention."
        )
    return {"input_ids": args[0], **kwargs} if args else kwargs


def real_tokens(kwargs: dict[str, Any]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The tokens of this pass and which of them are not padding."""
    ids = kwargs.get("input_ids")
    if ids is None:
        raise InputError("Under skipkv.attach, generation needs input_ids (not inputs_embeds).")
    if kwargs.get("use_cache") is False:
        raise InputError("use_cache=False leaves no cache to bound. Remove it under skipkv.attach.")
    if kwargs.get("labels") is not None:
        raise InputError("skipkv.attach is for generation; compute a loss outside of it.")
    mask = kwargs.get("attention_mask")
    if mask is None:
        return ids, torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise InputError("Under skipkv.attach, attention_mask must be [batch, tokens] or None.")
    return ids, mask[:, -ids.shape[1] :].bool()


def aligned(
    ids: Int[Tensor, "B T"], real: Bool[Tensor, "B T"], *, last_only: bool
) -> tuple[Int[Tensor, "B T"], list[int]]:
    """The tokens with all padding on the left, and how many of each row are no padding.

    Padding lies inside where a further turn is padded on the left: before it stands the last token
    of the turn before. Moving it changes which column is whose, but not the last one.
    """
    counts: list[int] = real.sum(dim=1).tolist()
    if not bool((real[:, :-1] & ~real[:, 1:]).any()):
        return ids, counts
    if not last_only or not bool((real[:, -1] | ~real.any(dim=1)).all()):
        raise InputError(
            "The batch is padded on the right (or inside). Decoding needs left padding: set "
            "tokenizer.padding_side = 'left'."
        )
    order = real.long().argsort(dim=1, stable=True)  # padding first, tokens in order
    return ids.gather(1, order), counts


def check_cache(cache: Any) -> None:
    """Raise `InputError` for a cache that a new generation cannot begin with."""
    if isinstance(cache, SlotCache):
        raise InputError(
            "This generation's cache is no longer the attached one: another generation began under "
            "the same skipkv.attach, in another thread, or by guidance_scale, whose unconditional "
            "passes have a cache of their own. One generation at a time, without guidance."
        )
    if isinstance(cache, Cache) and cache.get_seq_length() > 0:
        raise InputError(
            "Under skipkv.attach a generation must start with an empty cache: do not pass a cache "
            "that already holds something."
        )
    if cache is None or (type(cache) is DynamicCache and not getattr(cache, "offloading", False)):
        return
    raise InputError(
        f"Under skipkv.attach the policy's cache takes the place of {type(cache).__name__}"
        f"{' with offloading' if type(cache) is DynamicCache else ''}. Remove "
        "cache_implementation, or the cache you passed."
    )


def check_history(mask: Tensor | None, columns: int, seen: Sequence[int]) -> None:
    """Raise `InputError` if a mask hides tokens of earlier turns, whose entries are stored."""
    if mask is None or mask.shape[1] == columns:
        return
    for row, (known, held) in enumerate(
        zip(mask[:, :-columns].sum(dim=1).tolist(), seen, strict=False)
    ):
        if known != held:
            raise InputError(
                f"Row {row}: the attention mask shows {known} tokens of earlier turns, but the "
                f"cache has seen {held}. Entries cannot be hidden afterwards, such as the padding "
                "that generate() feeds to a row that ended early. Feed each conversation alone, or "
                "start anew without a cache."
            )


def check_positions(given: Tensor | None, real: Bool[Tensor, "B T"], seen: Sequence[int]) -> None:
    """Raise `InputError` for positions other than those that follow from the mask."""
    if given is None:
        return
    if given.ndim != 2 or given.shape[1] != real.shape[1]:
        raise InputError(
            f"Under skipkv.attach position_ids must be [batch, tokens], got {list(given.shape)}."
        )
    start = torch.tensor(seen[: len(real)], device=real.device)[:, None]
    expected = start + real.long().cumsum(dim=1) - 1
    if bool(((given != expected) & real).any()):
        raise InputError(
            "Under skipkv.attach positions count a row's tokens from 0, without gaps; the "
            "position_ids given differ. Remove them."
        )
