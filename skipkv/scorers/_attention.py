"""Shared by scorers that observe attention: its sum, scaled logits, a softmax over some entries."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv.errors import ConfigError, InputError


def received(view: CacheView, reader: str) -> Float[Tensor, "R H L"]:
    """The attention that entries received since they were written, in float32.

    Args:
        view: what to read.
        reader: name of the scorer, for the error message.

    Raises:
        InputError: the view carries no attention.
    """
    if view.attention is None:
        raise InputError(
            f"{reader} reads CacheView.attention, which is None. Build the view with it; the "
            "runtime does where a part declares needs = Needs(attention=True)."
        )
    return view.attention.float()


def check_pool(part: object, pool: int) -> None:
    """Raise `ConfigError` unless a width of max-pooling over slots is an odd number from 1 on."""
    if pool < 1 or pool % 2 == 0:
        raise ConfigError(
            f"{type(part).__name__}(pool={pool}) must be odd and at least 1, so that it has a "
            "middle. Use 1 for no pooling."
        )


def newest_queries(view: CacheView, count: int, reader: str) -> Float[Tensor, "R H G W D"]:
    """The `count` newest queries, in float32.

    A view may hold more queries than one scorer asks for, since other parts may ask for more.

    Args:
        view: what to read.
        count: queries to read, in tokens.
        reader: name of the scorer, for the error message.

    Raises:
        InputError: the view holds fewer queries.
    """
    held = 0 if view.queries is None else view.queries.shape[3]
    if view.queries is None or held < count:
        raise InputError(
            f"{reader} reads the last {count} queries, but CacheView.queries holds {held}. Build "
            "the view with them; the runtime does where a part declares "
            f"needs = Needs(queries={count})."
        )
    return view.queries[:, :, :, held - count :].float()


def newest_logits(view: CacheView, count: int, reader: str) -> Float[Tensor, "R H G W L"]:
    """Logits of the `count` newest queries as the model computes them: see `logits_of`.

    Args:
        view: what to read.
        count: queries to read, in tokens.
        reader: name of the scorer, for the error message.

    Raises:
        InputError: the view holds fewer queries.
    """
    return logits_of(view, newest_queries(view, count, reader), view.keys.float())


def logits_of(
    view: CacheView, queries: Float[Tensor, "R H G W D"], keys: Float[Tensor, "R H L D"]
) -> Float[Tensor, "R H G W L"]:
    """Scaled logits q·k / sqrt(D), capped where the model caps them; one product per KV head.

    Args:
        view: the view they are of.
        queries: some of its queries, in float32.
        keys: its keys, in float32.
    """
    groups, count, head_size = queries.shape[2:]
    # [R, H, G * W, D] @ [R, H, D, L]
    logits = queries.flatten(2, 3) @ keys.mT / math.sqrt(head_size)
    if view.softcap is not None:
        logits = view.softcap * (logits / view.softcap).tanh()
    return logits.reshape(*logits.shape[:2], groups, count, -1)


def some_at_a_time(queries: Float[Tensor, "R H G W D"]) -> Iterator[slice]:
    """Stretches of queries whose logits take no more memory than the keys do, in float32."""
    groups, count, head_size = queries.shape[2:]
    step = max(1, head_size // groups)
    return (slice(start, start + step) for start in range(0, count, step))


def softmax_over(
    logits: Float[Tensor, "R H *axes L"],
    entries: Bool[Tensor, "R H L"],
    sinks: Float[Tensor, "R H ..."] | None = None,
) -> Float[Tensor, "R H *axes L"]:
    """Softmax over `entries` only; 0 elsewhere. A head without entries gets a constant.

    Args:
        logits: of all slots.
        entries: the slots that count.
        sinks: the logits of attention sinks, which take their share; the axes broadcast.
    """
    between = (1,) * (logits.dim() - entries.dim())
    mask = entries.reshape(*entries.shape[:2], *between, entries.shape[2])
    # the smallest float and not -inf: a head without entries must not become 0 / 0
    return with_sinks(logits.masked_fill(~mask, torch.finfo(torch.float32).min), sinks)


def with_sinks(
    logits: Float[Tensor, "*axes L"], sinks: Float[Tensor, "..."] | None
) -> Float[Tensor, "*axes L"]:
    """Softmax over the last axis, of which attention sinks, where there are some, take a share."""
    if sinks is None:
        return logits.softmax(dim=-1)
    apart = sinks[..., None].expand(*logits.shape[:-1], 1)
    return torch.cat([logits, apart], dim=-1).softmax(dim=-1)[..., :-1]
