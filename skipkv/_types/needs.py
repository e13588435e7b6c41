"""What a part must be shown beyond keys, values and positions."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from skipkv._types.model_shape import ModelShape
from skipkv._types.records import Memory, PairedStatistic, Record, Statistic, Sum, Written
from skipkv._validators import is_a, kind_of
from skipkv.errors import ConfigError

SUM = Sum()
"""The record of `Needs(attention=True)`."""


def _with_read(given: Iterable[Any]) -> Iterator[Any]:
    """Records, and after each statistic the one that it reads."""
    for record in given:
        yield record
        if not isinstance(record, type) and isinstance(record, PairedStatistic):
            if isinstance(record.reads, PairedStatistic) or not isinstance(record.reads, Statistic):
                raise ConfigError(
                    f"{record!r}.reads must be a statistic that reads no other, got "
                    f"{record.reads!r}."
                )
            yield record.reads


def _records(given: Any) -> tuple[Record, ...]:
    """Records, each once."""
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ConfigError(f"Needs(records=...) must be a tuple of records, got {kind_of(given)}.")
    found: list[Record] = []
    for record in _with_read(given):
        if isinstance(record, type) or not isinstance(record, Memory | Statistic | Written):
            raise ConfigError(
                f"Needs(records=...) must hold records, got {kind_of(record)}. A record is a "
                "skipkv.Memory, a skipkv.Written, or a statistic with `start` and `update`, such "
                "as skipkv.Peak()."
            )
        try:
            hash(record)
        except TypeError:
            raise ConfigError(
                f"{record!r} in Needs(records=...) cannot be hashed. Make it a frozen class."
            ) from None
        if isinstance(record.start, bool) or not isinstance(record.start, int | float):
            raise ConfigError(f"{record!r}.start must be a number, got {kind_of(record.start)}.")
        if not math.isfinite(record.start):
            raise ConfigError(f"{record!r}.start must be finite, got {record.start}.")
        if record not in found:
            found.append(record)
    names = [record.name for record in found if isinstance(record, Memory)]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(
            f"Two memories of a policy have the name {twice[0]!r} and different starts. Give them "
            "different names."
        )
    return tuple(found)


@attrs.frozen(kw_only=True, repr=False)
class Needs:
    """What a part reads from a view that costs something to record.

    The runtime records the union of what a policy's parts need and nothing else, so a policy that
    looks at keys alone decodes at the speed of the model.

    Args:
        queries: how many of the most recent queries, in tokens; 0 for none.
        attention: the attention every entry has received since it was cached, summed over queries.
        sentences: the sentence table: embeddings and thoughts of the sentences closed so far.
        rotary: the rotation of positions, and with it the keys as they were before.
        records: numbers beside each entry that the part reads with `view.record(...)`: statistics
            of attention, a scorer's memory from event to event, and what a scorer says of entries
            when they are written. A statistic that another one reads comes with it.
        model: the model that the part was made for; None for any.

    Raises:
        ConfigError: a value is out of range, or something in `records` is not a record.

    Example:
        >>> Needs(queries=8) | Needs(queries=1, sentences=True)
        Needs(queries=8, sentences=True)
    """

    queries: int = attrs.field(default=0, validator=is_a(int, least=0))
    attention: bool = attrs.field(default=False, validator=is_a(bool))
    sentences: bool = attrs.field(default=False, validator=is_a(bool))
    rotary: bool = attrs.field(default=False, validator=is_a(bool))
    records: tuple[Record, ...] = attrs.field(default=(), converter=_records)
    model: ModelShape | None = attrs.field(default=None, validator=is_a(ModelShape, optional=True))

    @property
    def recorded(self) -> tuple[Record, ...]:
        """All records: `attention` is one too."""
        return (*((SUM,) if self.attention and SUM not in self.records else ()), *self.records)

    @property
    def written(self) -> tuple[Written, ...]:
        """The records that scorers write together with entries."""
        return tuple(record for record in self.records if isinstance(record, Written))

    @property
    def weights(self) -> bool:
        """Whether attention weights must be seen, which fused kernels do not give."""
        return any(isinstance(record, Statistic) for record in self.recorded)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            queries=max(self.queries, other.queries),
            attention=self.attention or other.attention,
            sentences=self.sentences or other.sentences,
            rotary=self.rotary or other.rotary,
            records=(*self.records, *(r for r in other.records if r not in self.records)),
            model=_joined(self.model, other.model),
        )

    def __repr__(self) -> str:
        fields = attrs.asdict(self, recurse=False)
        given = {name: value for name, value in fields.items() if value}
        return f"Needs({', '.join(f'{name}={value}' for name, value in given.items())})"


def _joined(first: ModelShape | None, second: ModelShape | None) -> ModelShape | None:
    if first is None or second is None:
        return first or second
    return first | second


def needs_of(part: object) -> Needs:
    """What `part` declares in its attribute `needs`; nothing where it has none."""
    needs = getattr(part, "needs", None)
    return needs if isinstance(needs, Needs) else Needs()
