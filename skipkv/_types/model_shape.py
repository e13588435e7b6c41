"""The shape of the model that a part was made for."""

import attrs

from skipkv._validators import is_a
from skipkv.errors import ConfigError

_SIZE = is_a(int, least=1, optional=True)
# Weights rounded to bfloat16, on one side or both, differ by less than this share.
_ROUNDING = 2**-7
# This share of the largest weight is rounding too, in formats that lack small numbers.
_NOTHING = 1e-4


@attrs.frozen(kw_only=True)
class ModelShape:
    """What is known of the model that learned numbers belong to, so that others are refused.

    A part with weights or statistics of one model says so in `Needs(model=...)`. What is None may
    be anything.

    Args:
        layers: layers of the model.
        heads: KV heads of a layer.
        groups: query heads per KV head.
        dim: head size.
        width: hidden size.
        frequencies: angle per position of each pair of the rotation, in radians.
        imprint: weights of the model's last norm, by which models of one shape are told apart.
        name: of the model, for errors. It is not compared.

    Raises:
        ConfigError: a size is below 1.
    """

    layers: int | None = attrs.field(default=None, validator=_SIZE)
    heads: int | None = attrs.field(default=None, validator=_SIZE)
    groups: int | None = attrs.field(default=None, validator=_SIZE)
    dim: int | None = attrs.field(default=None, validator=_SIZE)
    width: int | None = attrs.field(default=None, validator=_SIZE)
    frequencies: tuple[float, ...] | None = None
    imprint: tuple[float, ...] | None = attrs.field(default=None, repr=False)
    name: str = attrs.field(default="", validator=is_a(str), eq=False)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that are known."""
        found = {name: getattr(self, name) for name in ("layers", "heads", "groups", "dim")}
        return {name: n for name, n in {**found, "width": self.width}.items() if n is not None}

    def differences(self, other: "ModelShape") -> list[str]:
        """What both know and differ in; rotations differ by more than rounding.

        Args:
            other: of another part, or of the model that is about to decode.
        """
        ours, theirs = self.sizes, other.sizes
        both = [name for name in ours if name in theirs]
        found = [f"{name} {ours[name]} and not {theirs[name]}" for name in both]
        found = [text for text, name in zip(found, both, strict=True) if ours[name] != theirs[name]]
        if self.frequencies is not None and other.frequencies is not None:
            pairs = list(zip(self.frequencies, other.frequencies, strict=False))
            near = all(abs(a - b) <= 1e-5 * max(abs(a), abs(b)) for a, b in pairs)
            if len(self.frequencies) != len(other.frequencies) or not near:
                found.append("another rotation of positions")
        return found

    def has_weights_of(self, other: "ModelShape") -> bool:
        """Whether the weights may be the same, as far as both know their imprints.

        Args:
            other: the model that is about to decode, perhaps in another dtype.
        """
        if self.imprint is None or other.imprint is None or self.imprint == other.imprint:
            return True
        pairs = list(zip(self.imprint, other.imprint, strict=False))
        none = _NOTHING * max(map(abs, self.imprint), default=0.0)
        near = all(abs(a - b) <= _ROUNDING * max(abs(a), abs(b)) + none for a, b in pairs)
        return near and len(self.imprint) == len(other.imprint)

    def __or__(self, other: "ModelShape") -> "ModelShape":
        """What either knows.

        Raises:
            ConfigError: they differ.
        """
        differences = self.differences(other)
        if not self.has_weights_of(other):
            differences.append("other weights")
        if differences:
            raise ConfigError(
                f"Two parts of a policy were made for different models, {self.name or 'one'} and "
                f"{other.name or 'another'}: {', '.join(differences)}. Take parts made for the "
                "model that decodes."
            )
        known = {name: v for name, v in attrs.asdict(other).items() if v not in (None, "")}
        return attrs.evolve(self, **known)
