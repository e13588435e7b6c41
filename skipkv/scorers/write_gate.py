"""A small network that says, when an entry is written, what it will be worth; and its files."""

import os
from collections.abc import Callable
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._learned import Copies, naming, own, read_tensors, same, write_tensors
from skipkv._types import ModelShape
from skipkv._validators import is_a, kind_of
from skipkv.errors import ConfigError

_WHAT = "write gate"
WORTH, RETENTION = "worth", "retention"
_PARTS = ("inner", "inner_bias", "outer", "outer_bias")


@attrs.frozen(kw_only=True, repr=False)
class WriteGate:
    """For each layer a network that maps the states that enter it to a number per KV head.

    The states are divided by their root mean square. Then comes one layer of M units with GELU, or
    none, and a linear map to the KV heads.

    Source: KVzap (arXiv 2601.07891) and TRIM-KV (arXiv 2512.03324), whose networks stand after the
    model's own norm. The weights of that norm can be multiplied into those of the first map.

    Args:
        inner: weights of the first map, [N, E, M] for a model of N layers and hidden size E. None
            leaves the first map out.
        inner_bias: its bias, [N, M].
        outer: weights of the map to H KV heads, [N, M, H]; without a first map [N, E, H].
        outer_bias: its bias, [N, H].
        says: what its number means: "worth", the logarithm of what an entry will be worth, as
            `GateScore` reads it; "retention", the logit of how much of it is left after a token, as
            `Retention` does; or "", unknown, which both take.
        model: name of the model it was made for.
        made: how it was made, as a text for people.
        imprint: weights of that model's last norm, `skipkv.models.imprint_of(model)`. With them
            another model of the same shape is noticed.

    Raises:
        ConfigError: the shapes do not fit together, a number is not finite, or `says` is unknown.

    Example:
        >>> gate = WriteGate(outer=torch.ones(2, 4, 1), outer_bias=torch.zeros(2, 1), model="toy")
        >>> gate
        <WriteGate of toy: layers 2, width 4, KV heads 1>
        >>> gate(torch.full((1, 1, 4), 3.0), layer=0).round(decimals=2)
        tensor([[[4.]]])
    """

    outer: Float[Tensor, "N M H"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=same), hash=False
    )
    outer_bias: Float[Tensor, "N H"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=same), hash=False
    )
    inner: Float[Tensor, "N E M"] | None = attrs.field(
        default=None, converter=own, eq=attrs.cmp_using(eq=same), hash=False
    )
    inner_bias: Float[Tensor, "N M"] | None = attrs.field(
        default=None, converter=own, eq=attrs.cmp_using(eq=same), hash=False
    )
    says: str = attrs.field(default="", validator=is_a(str))
    model: str = attrs.field(default="", validator=is_a(str))
    made: str = attrs.field(default="", validator=is_a(str))
    imprint: tuple[float, ...] | None = None
    _source: str = attrs.field(default="", alias="_source", eq=False)
    _copies: Copies[list[Tensor | None]] = attrs.field(init=False, factory=Copies, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.says not in ("", WORTH, RETENTION):
            raise ConfigError(
                f"WriteGate(says={self.says!r}) must be 'worth', 'retention' or '': what its "
                "number means."
            )
        for name in _PARTS:
            part = getattr(self, name)
            if part is None and name.startswith("inner"):
                continue
            if not isinstance(part, Tensor) or not part.is_floating_point():
                raise ConfigError(f"WriteGate({name}=...) must be a tensor of floats.")
            if not part.isfinite().all():
                raise ConfigError(f"WriteGate({name}=...) must hold finite numbers.")
        shapes = {n: tuple(p.shape) for n in _PARTS if (p := getattr(self, n)) is not None}
        n, m, h = shapes["outer"] if len(shapes["outer"]) == 3 else (0, 0, 0)
        wanted: dict[str, tuple[int, ...]] = {"outer": (n, m, h), "outer_bias": (n, h)}
        if "inner" in shapes or "inner_bias" in shapes:
            width = shapes["inner"][1] if len(shapes.get("inner", ())) == 3 else 0
            wanted |= {"inner": (n, width, m), "inner_bias": (n, m)}
        if shapes != wanted or not all(shapes["outer"]):
            raise ConfigError(
                "WriteGate takes outer [N, M, H] and outer_bias [N, H], and both or none of inner "
                f"[N, E, M] and inner_bias [N, M]; it got the shapes {shapes}."
            )

    @property
    def shape(self) -> ModelShape:
        """The model that it fits."""
        first = self.outer if self.inner is None else self.inner
        layers, width, _ = first.shape
        return ModelShape(
            layers=layers,
            heads=self.outer.shape[2],
            width=width,
            imprint=self.imprint,
            name=self.model or "a model",
        )

    def __call__(self, hidden: Float[Tensor, "B T E"], *, layer: int) -> Float[Tensor, "B H T"]:
        """A number per KV head and token, in float32.

        Args:
            hidden: the states that enter the layer.
            layer: its number in the model.
        """
        outer, outer_bias, inner, inner_bias = self._on(hidden.device)
        states = hidden.float()
        states = states * states.square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt()
        if inner is not None and inner_bias is not None:
            states = torch.nn.functional.gelu(states @ inner[layer] + inner_bias[layer])
        assert outer is not None  # held by the constructor, both
        assert outer_bias is not None
        return (states @ outer[layer] + outer_bias[layer]).mT

    def _on(self, device: torch.device) -> list[Tensor | None]:
        if device not in self._copies:
            with torch.inference_mode(False):
                parts = (self.outer, self.outer_bias, self.inner, self.inner_bias)
                self._copies[device] = [None if p is None else p.to(device) for p in parts]
        return self._copies[device]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with metadata that names the model and what the number means.

        Args:
            path: where to write.

        Raises:
            InputError: the file cannot be written.
        """
        parts = {name: p for name in _PARTS if (p := getattr(self, name)) is not None}
        about = {"says": self.says, "model": self.model, "made": self.made}
        write_tensors(path, _WHAT, parts, about, self.imprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "WriteGate":
        """Read a file that `save` wrote.

        Args:
            path: the file.

        Raises:
            InputError: no such file, a file of another kind, or tensors that do not fit together.
        """
        tensors, about, imprint = read_tensors(path, _WHAT, {"outer", "outer_bias"})
        parts: dict[str, Any] = {name: t for name, t in tensors.items() if name in _PARTS}
        texts = {name: about.get(name, "") for name in ("says", "model", "made")}
        source = f"load({str(path)!r})"
        return naming(path, lambda: cls(**parts, **texts, imprint=imprint, _source=source))

    def __repr__(self) -> str:
        # A gate from a file can be pasted back; thousands of numbers would be unreadable.
        if self._source:
            return f"WriteGate.{self._source}"
        sizes = self.shape.sizes
        return (
            f"<WriteGate of {self.shape.name}: layers {sizes['layers']}, width {sizes['width']}, "
            f"KV heads {sizes['heads']}>"
        )


def gate_for(meaning: str) -> Callable[[object, "attrs.Attribute[Any]", Any], None]:
    """A validator for a scorer's gate.

    Args:
        meaning: what the scorer takes the gate's number for.
    """

    def validate(self: object, field: "attrs.Attribute[Any]", value: Any) -> None:
        where = f"{type(self).__name__}({field.name}=...)"
        if not isinstance(value, WriteGate):
            raise ConfigError(
                f"{where} must be a WriteGate, got {kind_of(value)}. "
                "Read one with WriteGate.load(path)."
            )
        if value.says not in ("", meaning):
            raise ConfigError(
                f"{where} takes a gate that says {meaning!r}, and {value!r} says {value.says!r}. "
                "GateScore (kvzap) reads 'worth', Retention (trimkv) reads 'retention'."
            )

    return validate
