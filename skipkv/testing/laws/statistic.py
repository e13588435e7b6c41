"""The laws of statistics of attention."""

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from skipkv._types import Statistic
from skipkv.testing.laws.common import check_same, check_tensor, protocol_law
from skipkv.testing.laws.law import Broken, Case, Law, hold_all

_FEW, _SOME = st.integers(1, 3), st.integers(1, 5)


def _drawn(statistic: Any, case: Case, *, rows: Any = _FEW) -> tuple[Tensor, Tensor, Tensor]:
    """Values of entries, and the attention that some tokens pay to them; some are padding."""
    b, h, g = (case.draw(name, axis) for name, axis in zip("BHG", (rows, _FEW, _FEW), strict=True))
    tokens, slots = case.draw("T", _SOME), case.draw("L", _SOME)
    random = torch.Generator().manual_seed(case.draw("seed", st.integers(0, 2**16)))
    padding = [case.draw(f"padding of row {row}", st.integers(0, tokens)) for row in range(b)]
    columns = torch.arange(tokens)
    start = torch.randint(0, 50, (b, 1), generator=random)
    real = columns >= torch.tensor(padding)[:, None]
    positions = (start + columns).masked_fill(~real, -1)
    weights = torch.rand(b, h, g, tokens, slots, generator=random)
    weights = weights / weights.sum(dim=-1, keepdim=True) * real[:, None, None, :, None]
    fresh = torch.rand(b, h, slots, generator=random) < 0.5
    held = statistic.start + torch.rand(b, h, slots, generator=random)
    return held.masked_fill(fresh, statistic.start), weights, positions


def _answer(statistic: Any, case: Case) -> None:
    held, weights, positions = _drawn(statistic, case)
    found = statistic.update(held, weights, positions)
    check_tensor(found, "[B, H, L]", held, torch.float32, "update")
    if not torch.isfinite(found).all():
        raise Broken(f"update gave {found}.")


def _pure(statistic: Any, case: Case) -> None:
    given = _drawn(statistic, case)
    before = [tensor.clone() for tensor in given]
    statistic.update(*given)
    for name, now, old in zip(("held", "weights", "positions"), given, before, strict=True):
        if not torch.equal(now, old):
            raise Broken(f"update changed {name} in place.")


def _streaming(statistic: Any, case: Case) -> None:
    held, weights, positions = _drawn(statistic, case)
    whole = statistic.update(held, weights, positions)
    one = held
    for column in range(positions.shape[1]):
        at = slice(column, column + 1)
        one = statistic.update(one, weights[..., at, :], positions[:, at])
    check_same(whole, one, torch.ones_like(held, dtype=torch.bool), "with tokens one by one")


def _padding(statistic: Any, case: Case) -> None:
    held, weights, positions = _drawn(statistic, case)
    before = statistic.update(held, weights, positions)
    more = torch.zeros_like(weights[..., :1, :])
    padded = statistic.update(
        held,
        torch.cat([more, weights], dim=3),
        torch.cat([torch.full_like(positions[:, :1], -1), positions], dim=1),
    )
    check_same(before, padded, torch.ones_like(held, dtype=torch.bool), "with more padding")


def _rows(statistic: Any, case: Case) -> None:
    held, weights, positions = _drawn(statistic, case, rows=st.integers(2, 3))
    whole = statistic.update(held, weights, positions)
    alone = statistic.update(held[:1], weights[:1], positions[:1])
    everywhere = torch.ones_like(alone, dtype=torch.bool)
    check_same(whole[:1], alone, everywhere, "with that row alone")


LAWS = (
    protocol_law(Statistic, "the statistic"),
    Law(
        name="answer",
        says="update returns finite float32 numbers [B, H, L], one for every slot.",
        why="they are stored beside the entries.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="pure",
        says="update changes none of its arguments.",
        why="the weights go on to the values, and `held` is the cache itself.",
        check=_pure,
        basic=True,
    ),
    Law(
        name="streaming",
        says="Tokens that come one by one and many at once give the same.",
        why="a prompt comes in pieces of any size, and a decoded token alone.",
        check=_streaming,
    ),
    Law(
        name="padding",
        says="Padding changes nothing.",
        why="how much of it there is depends on the other prompts of a pass.",
        check=_padding,
    ),
    Law(
        name="rows",
        says="A row's values depend on that row alone.",
        why="rows are sequences of different users.",
        check=_rows,
    ),
)


def check_statistic(
    statistic: Statistic, *, claims: Mapping[str, str] | None = None, examples: int = 50
) -> None:
    """Hold a statistic of attention to the laws of its protocol.

    Args:
        statistic: any statistic.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: cases tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the smallest case in which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv import Peak
        >>> check_statistic(Peak(), examples=5)
    """
    hold_all(LAWS, statistic, claims, examples)
