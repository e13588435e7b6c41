"""The most bytes of tensors alive at once while something runs, on any device."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """Counts the storages that operations make, until their last tensor is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):  # arguments existed before
                self._known.add(value.untyped_storage()._cdata)
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._count(value)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by `run` held at once.

    Tensors that existed before do not count. Memory that a single operation uses internally does
    not count either.

    Args:
        run: the function to run; its result is dropped.

    Example:
        >>> import torch
        >>> peak_bytes(lambda: torch.zeros(1000) + 1)
        8000
    """
    with _Live() as live:
        run()
    peak: int = live.peak
    return peak
