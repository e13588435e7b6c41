"""Decode steps replayed as one recorded graph of operations, instead of being launched one by one.

A small model leaves an accelerator waiting for the host: a step is hundreds of launches, each in
its own few microseconds of Python. Under a fixed budget a step is the same operations on the same
tensors every time, so that it can be recorded once per number of sequences and replayed.
"""

import warnings
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList

from skipkv.errors import SkipKVWarning
from skipkv.runtime.requests.sampling import choose
from skipkv.runtime.results.observers import Steered
from skipkv.runtime.session import Session
from skipkv.runtime.store import kernels
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.store import SlotStore

Record = Callable[[Callable[[], None]], Callable[[], object]]
"""Records what a function does; returns a function that replays it. It may run it meanwhile."""

# Steps done one by one before the recording: libraries set themselves up in the first.
_WARM = 2
# Layers that the trial of attention reads in turn, so that it reads from memory.
_TRIED = 8
_chosen: dict[tuple[object, ...], str] = {}
"""The names of the kernels that trials in this process have chosen, by device and shapes."""


def recorder(device: torch.device) -> Record | None:
    """How steps are recorded on this device; None where they are not."""
    return _CudaGraphs() if device.type == "cuda" else None


class _CudaGraphs:
    """Records CUDA graphs that share their memory; doing it is left to the replay."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Callable[[], None]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            body()
        replay: Callable[[], object] = graph.replay
        return replay


class RecordedSteps:
    """Decode steps of a session, recorded once per number of sequences.

    Where a step cannot be recorded, a warning says why and `failed` is set: decode one by one from
    then on.

    Args:
        session: its policy has a budget in tokens, so that its cache keeps its size.
        processors: of the logits.
        sampled: whether steps are given uniform random numbers.
        record: how to record.
    """

    def __init__(
        self,
        session: Session,
        processors: LogitsProcessorList,
        *,
        sampled: bool,
        record: Record,
    ) -> None:
        self._session = session
        self._processors = processors
        self._sampled = sampled
        self._record = record
        self._made: dict[int, _Shape] = {}
        self._kernel: kernels.Kernel | None = None
        self.failed = False

    def step(self, last: Int[Tensor, "n"], uniforms: Float[Tensor, "n"] | None) -> Int[Tensor, "n"]:
        """Feed every sequence its newest token; the tokens that follow.

        Args:
            last: the newest token of each running sequence.
            uniforms: random numbers, where tokens are sampled.
        """
        count = len(last)
        if count not in self._made:
            self._made[count] = _Shape(self._session, self._best(count), count, self._sampled)
        shape = self._made[count]
        shape.take(last, uniforms)
        if shape.steps >= _WARM and shape.replay is None and not self.failed:
            try:
                with self._session.recording_steering(shape.steered):
                    shape.replay = self._record(lambda: shape.run(self._processors))
            except Exception as cause:
                self.failed = True
                warnings.warn(
                    f"Decode steps are not replayed as a graph: recording one raised "
                    f"{type(cause).__name__}: {cause}. They are launched one by one, which is "
                    "slower and gives the same tokens.",
                    SkipKVWarning,
                    stacklevel=2,
                )
        if shape.replay is None:
            shape.run(self._processors)
        else:
            shape.replay()
            self._session.replayed_steering(shape.steered)
        shape.count()
        return shape.chosen.clone()

    def _best(self, count: int) -> kernels.Kernel:
        """The fastest attention here, tried once."""
        if self._kernel is None:
            store = self._session.store
            self._kernel = kernels.sdpa
            if store.device.type != "cpu":
                self._kernel = kernels.CANDIDATES[_chosen_for(store, count)]
        return self._kernel


def _chosen_for(store: SlotStore, count: int) -> str:
    """The name of the fastest attention for the first `count` lanes of a store."""
    largest = max(store.groups, key=lambda group: group.bytes)
    keys, values = largest.keys[:_TRIED, :count], largest.values[:_TRIED, :count]
    case = keys.device, keys.dtype, *keys.shape, store.shape.groups
    if case not in _chosen:
        try:
            pairs = list(zip(keys, values, strict=True))
            _chosen[case] = kernels.fastest(pairs, store.shape.groups)
        except torch.OutOfMemoryError:  # the trial needs twice the memory of a layer
            return "sdpa"
    return _chosen[case]


class _Shape:
    """A step for some number of sequences: its fixed tensors, and how to do it again."""

    def __init__(self, session: Session, kernel: kernels.Kernel, count: int, sampled: bool) -> None:
        device = session.store.device
        self._session = session
        self._ids = torch.zeros(count, 1, dtype=torch.long, device=device)
        self._pass = session.fixed_step(self._ids, kernel)
        self._forward = cast(DecodeForward, self._pass.forward)
        self._uniforms = torch.zeros(count, dtype=torch.float64, device=device) if sampled else None
        self.chosen: Int[Tensor, "n"] = torch.zeros(count, dtype=torch.long, device=device)
        self.steps = 0
        self.replay: Callable[[], object] | None = None
        self.steered: list[Steered] = []  # where a replay leaves what the steerer did

    def take(self, last: Int[Tensor, "n"], uniforms: Float[Tensor, "n"] | None) -> None:
        """What a step starts from."""
        self._session.store.before_step(self._forward.first, self._forward.last)
        if not self._forward.current:
            self._forward.refresh()
        torch.clamp(last[:, None], min=0, out=self._ids)  # there may be rows without a token
        if self._uniforms is not None:
            assert uniforms is not None
            self._uniforms.copy_(uniforms)

    def run(self, processors: LogitsProcessorList) -> None:
        """What the device does; nothing here depends on what only the host knows."""
        logits = self._session.logits(self._pass)
        self.chosen.copy_(choose(logits, processors, self._uniforms))

    def count(self) -> None:
        """What the host does."""
        self.steps += 1
        self._forward.count()
