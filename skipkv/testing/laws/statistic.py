"""The laws of statistics of attention."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from skipkv._types import PairedStatistic, Record, Statistic
from skipkv._types.records import updated
from skipkv.testing.laws.common import check_same, check_tensor, protocol_law
from skipkv.testing.laws.law import Broken, Case, Law, hold_all

_FEW, _SOME = st.integers(1, 3), st.integers(1, 5)
_EARLIER = 3  # tokens before the ones that are drawn


Drawn = tuple[dict[Record, Tensor], Tensor, Tensor]
"""Values of a statistic, and of the one that it reads; weights; positions."""


def _drawn(statistic: Any, case: Case, *, rows: Any = _FEW) -> Drawn:
    """Values of entries, and the attention that some tokens pay to them; some are padding."""
    b, h, g = (case.draw(name, axis) for name, axis in zip("BHG", (rows, _FEW, _FEW), strict=True))
    tokens, slots = case.draw("T", _SOME), case.draw("L", _SOME)
    random = torch.Generator().manual_seed(case.draw("seed", st.integers(0, 2**16)))
    padding = [case.draw(f"padding of row {row}", st.integers(0, tokens)) for row in range(b)]

    def attention(count: int) -> Tensor:
        weights = torch.rand(b, h, g, count, slots, generator=random)
        return weights / weights.sum(dim=-1, keepdim=True)

    columns = torch.arange(_EARLIER + tokens)
    positions = torch.randint(0, 50, (b, 1), generator=random) + columns
    earlier, positions = positions.split([_EARLIER, tokens], dim=1)
    real = torch.arange(tokens) >= torch.tensor(padding)[:, None]
    fresh = torch.rand(b, h, slots, generator=random) < 0.5
    held = statistic.start + torch.rand(b, h, slots, generator=random)
    values: dict[Record, Tensor] = {statistic: held.masked_fill(fresh, statistic.start)}
    if isinstance(statistic, PairedStatistic):
        # as some tokens before have left it: its values are not any numbers, but positions, say
        other: dict[Record, Tensor] = {
            statistic.reads: torch.full_like(held, statistic.reads.start)
        }
        values |= updated(other, attention(_EARLIER), earlier)
    weights = attention(tokens) * real[:, None, None, :, None]
    return values, weights, positions.masked_fill(~real, -1)


def _answer(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    found = updated(values, weights, positions)[statistic]
    check_tensor(found, "[B, H, L]", values[statistic], torch.float32, "update")
    if not torch.isfinite(found).all():
        raise Broken(f"update gave {found}.")


def _pure(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    names = ("held", "read")
    given = dict(zip(names, values.values(), strict=False))
    given |= {"weights": weights, "positions": positions}
    before = {name: tensor.clone() for name, tensor in given.items()}
    updated(values, weights, positions)
    for name, now in given.items():
        if not torch.equal(now, before[name]):
            raise Broken(f"update changed {name} in place.")


def _streaming(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    whole = updated(values, weights, positions)[statistic]
    for column in range(positions.shape[1]):
        at = slice(column, column + 1)
        values = updated(values, weights[..., at, :], positions[:, at])
    everywhere = torch.ones_like(whole, dtype=torch.bool)
    check_same(whole, values[statistic], everywhere, "with tokens one by one")


def _later(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    before = case.draw("tokens before the entries", st.integers(0, positions.shape[1] - 1))
    values = {record: torch.full_like(held, record.start) for record, held in values.items()}
    weights[..., :before, :] = 0
    whole = updated(values, weights, positions)[statistic]
    own = updated(values, weights[..., before:, :], positions[:, before:])[statistic]
    everywhere = torch.ones_like(whole, dtype=torch.bool)
    check_same(own, whole, everywhere, "together with tokens before the entries")


def _empty_slots(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    more = case.draw("more empty slots", st.integers(1, 4))
    found = updated(values, weights, positions)[statistic]
    longer = {record: pad(held, (0, more), value=record.start) for record, held in values.items()}
    wider = updated(longer, pad(weights, (0, more)), positions)[statistic]
    everywhere = torch.ones_like(found, dtype=torch.bool)
    check_same(found, wider[..., : found.shape[-1]], everywhere, "with more empty slots")


def _padding(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case)
    before = updated(values, weights, positions)[statistic]
    more = torch.zeros_like(weights[..., :1, :])
    padded = updated(
        values,
        torch.cat([more, weights], dim=3),
        torch.cat([torch.full_like(positions[:, :1], -1), positions], dim=1),
    )[statistic]
    check_same(before, padded, torch.ones_like(before, dtype=torch.bool), "with more padding")


def _rows(statistic: Any, case: Case) -> None:
    values, weights, positions = _drawn(statistic, case, rows=st.integers(2, 3))
    whole = updated(values, weights, positions)[statistic]
    first = {record: held[:1] for record, held in values.items()}
    alone = updated(first, weights[:1], positions[:1])[statistic]
    everywhere = torch.ones_like(alone, dtype=torch.bool)
    check_same(whole[:1], alone, everywhere, "with that row alone")


def _protocol(statistic: Any, case: Case) -> None:
    paired = isinstance(statistic, PairedStatistic)
    protocol_law(PairedStatistic if paired else Statistic, "the statistic").check(statistic, case)


LAWS = (
    attrs.evolve(protocol_law(Statistic, "the statistic"), check=_protocol),
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
        name="later",
        says="Tokens before an entry's own, which give it no attention, change nothing of it.",
        why="of tokens that are counted together some come before an entry, which was not there.",
        check=_later,
    ),
    Law(
        name="empty slots",
        says="How many empty slots there are changes nothing.",
        why="there are as many as the longest sequence of a pass needs.",
        check=_empty_slots,
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
    statistic: Statistic | PairedStatistic,
    *,
    claims: Mapping[str, str] | None = None,
    examples: int = 50,
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
