"""What a model's queries are like on average, and the files that say so."""

import os
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._learned import Copies, naming, own, read_tensors, write_tensors
from skipkv._types import ModelShape
from skipkv._validators import is_a
from skipkv.errors import ConfigError

_WHAT = "query statistics"
_PARTS = ("mean", "length", "frequencies")


@attrs.frozen(kw_only=True, repr=False)
class QueryStatistics:
    """Mean queries of each query head, from before the rotation of positions, and their lengths.

    Queries of one head lie close to one centre before RoPE, whatever the text. So a few thousand
    tokens of any traces are enough; `skipkv calibrate --queries FILE` makes such a file.

    Source: TriAttention (arXiv 2604.04921).

    Args:
        mean: mean query, [N, H, G, D], for a model of N layers.
        length: mean length of each pair of turned dimensions, [N, H, G, F].
        frequencies: angle per position of each pair, [F], in radians.
        tokens: tokens that they are means of.
        model: name of the model.
        imprint: weights of that model's last norm, `skipkv.models.imprint_of(model)`. With them
            another model of the same shape is noticed.

    Raises:
        ConfigError: the shapes do not fit together, or a number is not finite.

    Example:
        >>> statistics = QueryStatistics(
        ...     mean=torch.ones(2, 1, 2, 4),
        ...     length=torch.ones(2, 1, 2, 2),
        ...     frequencies=torch.tensor([1.0, 0.1]),
        ...     tokens=100,
        ...     model="toy",
        ... )
        >>> statistics
        <QueryStatistics of toy: layers 2, KV heads 1, 100 tokens>
    """

    mean: Float[Tensor, "N H G D"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=torch.equal), hash=False
    )
    length: Float[Tensor, "N H G F"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=torch.equal), hash=False
    )
    frequencies: Float[Tensor, "F"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=torch.equal), hash=False
    )
    tokens: int = attrs.field(validator=is_a(int, least=1))
    model: str = attrs.field(default="", validator=is_a(str))
    imprint: tuple[float, ...] | None = None
    _source: str = attrs.field(default="", alias="_source", eq=False)
    _copies: Copies[tuple[Tensor, Tensor]] = attrs.field(init=False, factory=Copies, eq=False)

    def __attrs_post_init__(self) -> None:
        shapes = []
        for name in _PARTS:
            part = getattr(self, name)
            if not isinstance(part, Tensor) or not part.is_floating_point():
                raise ConfigError(f"QueryStatistics({name}=...) must be a tensor of floats.")
            if not part.isfinite().all():
                raise ConfigError(f"QueryStatistics({name}=...) must hold finite numbers.")
            shapes.append(tuple(part.shape))
        mean, length, frequencies = shapes
        fits = len(mean) == 4 and all(mean) and frequencies == length[-1:] and frequencies
        if not fits or length[:-1] != mean[:-1] or 2 * frequencies[0] > mean[-1]:
            raise ConfigError(
                "QueryStatistics takes mean [N, H, G, D], length [N, H, G, F] and frequencies [F], "
                f"with 2 F at most D; it got the shapes {mean}, {length} and {frequencies}."
            )

    @property
    def shape(self) -> ModelShape:
        """The model that they are of."""
        layers, heads, groups, dim = self.mean.shape
        return ModelShape(
            layers=layers,
            heads=heads,
            groups=groups,
            dim=dim,
            frequencies=tuple(self.frequencies.tolist()),
            imprint=self.imprint,
            name=self.model or "a model",
        )

    def on(self, device: torch.device) -> tuple[Float[Tensor, "N H G D"], Float[Tensor, "N H G F"]]:
        """Mean and length on a device; the transfer is done once.

        Args:
            device: any device.
        """
        if device not in self._copies:
            with torch.inference_mode(False):
                self._copies[device] = self.mean.to(device), self.length.to(device)
        return self._copies[device]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with metadata that names the model and the number of tokens.

        Args:
            path: where to write.

        Raises:
            InputError: the file cannot be written.
        """
        about = {"model": self.model, "tokens": str(self.tokens)}
        parts = {name: getattr(self, name) for name in _PARTS}
        write_tensors(path, _WHAT, parts, about, self.imprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "QueryStatistics":
        """Read a file that `save` wrote.

        Args:
            path: the file.

        Raises:
            InputError: no such file, a file of another kind, or tensors that do not fit together.
        """
        tensors, about, imprint = read_tensors(path, _WHAT, set(_PARTS))
        count = about.get("tokens", "")
        parts: dict[str, Any] = {name: tensors[name] for name in _PARTS}
        parts |= {
            "tokens": int(count) if count.isdecimal() else 0,
            "model": about.get("model", ""),
            "imprint": imprint,
            "_source": f"load({str(path)!r})",
        }
        return naming(path, lambda: cls(**parts))

    def __repr__(self) -> str:
        # Statistics from a file can be pasted back; thousands of numbers would be unreadable.
        if self._source:
            return f"QueryStatistics.{self._source}"
        sizes = self.shape.sizes
        return (
            f"<QueryStatistics of {self.shape.name}: layers {sizes['layers']}, KV heads "
            f"{sizes['heads']}, {self.tokens} tokens>"
        )
