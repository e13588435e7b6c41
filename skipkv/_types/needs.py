"""What a part must be shown beyond keys, values and positions."""

import attrs

from skipkv._validators import is_a


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

    Example:
        >>> Needs(queries=8) | Needs(queries=1, sentences=True)
        Needs(queries=8, sentences=True)
    """

    queries: int = attrs.field(default=0, validator=is_a(int, least=0))
    attention: bool = attrs.field(default=False, validator=is_a(bool))
    sentences: bool = attrs.field(default=False, validator=is_a(bool))
    rotary: bool = attrs.field(default=False, validator=is_a(bool))

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            queries=max(self.queries, other.queries),
            attention=self.attention or other.attention,
            sentences=self.sentences or other.sentences,
            rotary=self.rotary or other.rotary,
        )

    def __repr__(self) -> str:
        given = {name: value for name, value in attrs.asdict(self).items() if value}
        return f"Needs({', '.join(f'{name}={value}' for name, value in given.items())})"


def needs_of(part: object) -> Needs:
    """What `part` declares in its attribute `needs`; nothing where it has none."""
    needs = getattr(part, "needs", None)
    return needs if isinstance(needs, Needs) else Needs()
