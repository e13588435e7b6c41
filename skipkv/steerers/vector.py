"""A direction in the hidden states of one layer, and its files."""

import os
from pathlib import Path
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._learned import Copies, naming, own, read_tensors, write_tensors
from skipkv._types import ModelShape
from skipkv._validators import is_a, kind_of
from skipkv.errors import ConfigError, InputError

SIGN = "execution - non-execution"
"""The sign convention of all vectors, as it is written in their files."""

_WHAT = "steering vector"


@attrs.frozen(kw_only=True, repr=False)
class SteeringVector:
    r"""The mean hidden state of execution minus that of all other thoughts, at one layer's input.

    Thoughts of one kind begin in one region of the hidden states. So the difference of the means,
    added where a thought opens, makes execution more likely. A positive strength steers towards
    execution in every file and in every steerer of this library.

    Source: SEAL (arXiv 2504.07986), section 3. Differs: its published files hold the opposite
    difference, with a negative strength; `from_pt` reverses them.

    Args:
        vector: the difference of means, `[E]` for a model of hidden size E.
        layer: the layer, from 0, whose input it belongs to.
        model: name of the model it was made with.
        made: how it was made, as a text for people.
        imprint: weights of that model's last norm, `skipkv.models.imprint_of(model)`. With them
            another model of the same shape is noticed.

    Raises:
        ConfigError: `vector` is not one finite vector other than zero, or `layer` is negative.

    Example:
        >>> towards = SteeringVector(vector=torch.tensor([0.0, 2.0]), layer=1, model="toy")
        >>> towards
        <SteeringVector of 2 numbers for layer 1 of toy>
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     towards.save(f"{folder}/v.safetensors")
        ...     SteeringVector.load(f"{folder}/v.safetensors") == towards
        True
    """

    vector: Float[Tensor, "E"] = attrs.field(
        converter=own, eq=attrs.cmp_using(eq=torch.equal), hash=False
    )
    layer: int = attrs.field(validator=is_a(int, least=0))
    model: str = attrs.field(default="", validator=is_a(str))
    made: str = attrs.field(default="", validator=is_a(str))
    imprint: tuple[float, ...] | None = None
    _source: str = attrs.field(default="", alias="_source", eq=False)
    _copies: Copies[Tensor] = attrs.field(init=False, factory=Copies, eq=False)

    @vector.validator
    def _one_vector(self, _: object, vector: Any) -> None:
        if not isinstance(vector, Tensor) or not vector.is_floating_point():
            came = f"a tensor of {vector.dtype}" if isinstance(vector, Tensor) else repr(vector)
            raise ConfigError(f"SteeringVector(vector=...) must be a tensor of floats, got {came}.")
        if vector.ndim != 1 or not vector.numel():
            raise ConfigError(
                "SteeringVector(vector=...) must be one vector [E], got the shape "
                f"{list(vector.shape)}. Take the row of its layer."
            )
        if not vector.isfinite().all() or not vector.any():
            raise ConfigError(
                "SteeringVector(vector=...) must hold finite numbers, not all of them zero, since "
                "it is a direction."
            )

    @property
    def width(self) -> int:
        """The length of the vector: the hidden size of the models it fits."""
        return self.vector.shape[0]

    @property
    def shape(self) -> ModelShape:
        """What is known of the model that it belongs to."""
        return ModelShape(width=self.width, imprint=self.imprint, name=self.model or "a model")

    def on(self, device: torch.device) -> Float[Tensor, "E"]:
        """The vector on a device; the transfer is done once."""
        if device not in self._copies:
            with torch.inference_mode(False):
                self._copies[device] = self.vector.to(device)
        return self._copies[device]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with metadata that names layer, model and sign.

        Raises:
            InputError: the file cannot be written.
        """
        about = {"sign": SIGN, "layer": str(self.layer), "model": self.model, "made": self.made}
        write_tensors(path, _WHAT, {"vector": self.vector}, about, self.imprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SteeringVector":
        """Read a file that `save` wrote.

        Raises:
            InputError: no such file, or a file of another kind.
        """
        hint = " For a .pt file use SteeringVector.from_pt(path, layer=..., sign=...)."
        tensors, about, imprint = read_tensors(path, _WHAT, {"vector"}, hint=hint)
        if about.get("sign") != SIGN:
            raise InputError(
                f"{str(path)!r} must say sign={SIGN!r} in its metadata, the convention of all "
                f"vectors here; got {about.get('sign', '')!r}. Build a SteeringVector from its "
                "tensor, perhaps times -1, and save that."
            )
        layer = about.get("layer", "")
        if not layer.isdecimal():
            raise InputError(
                f"{str(path)!r} must name its layer in its metadata, a number from 0; got "
                f"{layer!r}."
            )
        texts = {name: about.get(name, "") for name in ("model", "made")}
        source = f"load({str(path)!r})"
        return naming(
            path,
            lambda: cls(
                vector=tensors["vector"],
                layer=int(layer),
                **texts,
                imprint=imprint,
                _source=source,
            ),
        )

    @classmethod
    def from_pt(
        cls,
        path: str | os.PathLike[str],
        *,
        layer: int,
        sign: int,
        model: str = "",
    ) -> "SteeringVector":
        """Read a vector from a `.pt` file, as SEAL and SkipKV publish theirs.

        Such a file contains neither its layer nor its sign, so the caller names them. Only tensors
        are unpickled.

        Args:
            path: a file with one tensor: `[E]`, or `[layers, E]` of which row `layer` is taken.
                More axes of length 1 are ignored.
            layer: the layer, from 0, whose input it belongs to.
            sign: 1 if the file holds execution minus non-execution, -1 if it holds the opposite,
                as the published ones do.
            model: name of the model it was made with.

        Raises:
            ConfigError: `sign` is neither 1 nor -1.
            InputError: there is no such file, or it does not hold one tensor of such a shape.
        """
        name = str(path)
        if sign not in (1, -1):
            raise ConfigError(
                f"SteeringVector.from_pt(sign={sign!r}) must be 1 (the file holds execution minus "
                "non-execution) or -1 (the opposite, as published)."
            )
        if not Path(name).is_file():
            raise InputError(f"No steering vector at {name!r}: there is no such file.")
        try:
            # A look without the numbers first: a shape or a stride may claim what no memory holds.
            _check_extent(torch.load(name, map_location="meta", weights_only=True), name)
            held = torch.load(name, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as cause:  # whatever strangers' bytes make torch raise
            raise InputError(
                f"{name!r} cannot be read. It must be a .pt file that holds tensors only; for "
                "safety nothing else is unpickled. Save its tensor alone with torch.save."
            ) from cause
        if not isinstance(held, Tensor):
            raise InputError(
                f"{name!r} must hold one tensor, got {kind_of(held)}. Save the vector of "
                "one layer alone with torch.save."
            )
        return cls(
            vector=sign * _row(held, layer, name),
            layer=layer,
            model=model,
            made=f"read from {Path(name).name}",
            _source=f"from_pt({name!r}, layer={layer}, sign={sign})",
        )

    def __repr__(self) -> str:
        # A vector from a file can be pasted back; thousands of numbers would be unreadable.
        if self._source:
            return f"SteeringVector.{self._source}"
        of = f" of {self.model}" if self.model else ""
        return f"<SteeringVector of {self.width} numbers for layer {self.layer}{of}>"


def _check_extent(held: Any, name: str) -> None:
    """Raise `InputError` for a tensor that claims more numbers than its file has bytes for."""
    if not isinstance(held, Tensor) or held.layout != torch.strided:
        return
    claimed = max(held.numel() * held.itemsize, held.untyped_storage().nbytes())
    there = Path(name).stat().st_size
    if claimed > there:
        raise InputError(
            f"{name!r} has {there} bytes and claims a tensor of {claimed} bytes, with the shape "
            f"{list(held.shape)}. Save the vector itself, torch.save(vector.clone(), path)."
        )


def _row(held: Tensor, layer: int, name: str) -> Float[Tensor, "E"]:
    """The vector of a layer in what a file holds."""
    shape = list(held.shape)
    if sum(size > 1 for size in shape) <= 1 and held.numel() > 1:
        return held.reshape(-1)
    rows = held.squeeze()
    if rows.ndim != 2:
        raise InputError(
            f"{name!r} must hold a vector [E] or one per layer [layers, E], got the shape {shape}."
        )
    if not 0 <= layer < rows.shape[0]:
        raise InputError(
            f"{name!r} holds the shape {shape}: vectors for layers 0 to {rows.shape[0] - 1}, and "
            f"layer {layer} was asked for."
        )
    return rows[layer]
