"""What parts say of entries when they are written."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import watched, without_frames, written_of
from skipkv.errors import PartError, UnsupportedModelError
from skipkv.runtime.store.decode import SlotSteps
from skipkv.runtime.store.forward import SlotPrompts


class Writing:
    """Asks parts of each layer's new entries, and puts their answers beside the entries.

    A hook on every decoder layer sees the states that enter it. The cache tells of the entries that
    are written then, before the layer's attention.

    Args:
        writers: parts with `on_write`.
        numbers: of the layers of the store, in the model.
    """

    def __init__(self, writers: Sequence[object], numbers: Sequence[int]) -> None:
        self._writers = writers
        self.layers = numbers
        """The layers of the model that a hook is for."""
        self._entering: dict[int, Tensor] = {}
        self._fault: PartError | None = None

    def hook(self, layer: int) -> Callable[[torch.nn.Module, Any, Any], None]:
        """A forward pre-hook of a decoder layer of the model.

        Args:
            layer: its number in the model.
        """

        def enters(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            self._entering[layer] = args[0] if args else kwargs["hidden_states"]

        return enters

    def write(
        self,
        part: SlotPrompts | SlotSteps,
        at: int,
        layer: int,
        keys: Float[Tensor, "B H T D"],
        values: Float[Tensor, "B H T D"],
    ) -> None:
        """Ask of the new entries of a layer.

        Args:
            part: the pass under way, as the layer's group knows it.
            at: the layer's index in the group.
            layer: its number in the model.
            keys: of the new entries, and of padding.
            values: likewise.

        Raises:
            UnsupportedModelError: no hook has seen the states that enter the layer.
        """
        hidden = self._entering.pop(layer, None)
        if hidden is None or hidden.shape[:2] != (keys.shape[0], keys.shape[2]):
            raise UnsupportedModelError(
                f"The policy reads the states that enter layer {layer}, and its hook saw "
                f"{'none' if hidden is None else list(hidden.shape)}: the model's own code calls "
                "its layers in another way than transformers' models do."
            )
        if self._fault is not None:
            return
        shown = watched(keys), watched(values), watched(hidden.detach())
        try:
            with torch.autocast(keys.device.type, enabled=False):
                for writer in self._writers:
                    written = written_of(writer, *shown, layer)
                    part.note(at, written)
        except PartError as error:
            self._fault = without_frames(error)

    def end(self) -> PartError | None:
        """End a pass; returns the error of a part in it."""
        self._entering.clear()
        fault, self._fault = self._fault, None
        return fault
