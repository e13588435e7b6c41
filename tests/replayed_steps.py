"""A recorder of decode steps for a CPU: it replays tensors' operations, as CUDA graphs do."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Replayed(TorchDispatchMode):
    """Records operations as CUDA graphs do: replayed, they see the tensors and nothing else.

    What the host would do differently the next time is not done differently; a result goes where it
    went before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output

    def __call__(self) -> None:
        for func, args, kwargs, old in self.calls:
            new = func(*args, **kwargs)
            for before, after in zip(tree_leaves(old), tree_leaves(new), strict=True):
                held = isinstance(before, Tensor) and after.numel()
                if held and before.data_ptr() != after.data_ptr():
                    before.copy_(after)


class Recorder:
    """Does what it records, unlike CUDA graphs, and so leaves the first replay out."""

    def __init__(self) -> None:
        self.recorded: list[Replayed] = []
        self.replays = 0

    def __call__(self, body: Callable[[], None]) -> Callable[[], object]:
        tape = Replayed()
        with tape:
            body()
        self.recorded.append(tape)
        fresh = [True]

        def replay() -> None:
            if not fresh.pop() if fresh else True:
                tape()
            self.replays += 1

        return replay
