"""Statistics of a model's queries, from its own traces."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.calibration.traces import Trace
from skipkv.errors import InputError
from skipkv.models.architecture import Architecture
from skipkv.models.imprint import imprint_of
from skipkv.runtime.seam.lending import queries_seen
from skipkv.runtime.support.rotary import rotation_of
from skipkv.scorers import QueryStatistics


class QuerySums:
    """Sums of the queries that traces have shown so far.

    Args:
        model: in evaluation mode.

    Raises:
        UnsupportedModelError: its rotation of positions is not known.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._rotation = rotation_of(model)
        found, device = Architecture.of(model.config), model.device
        axes = found.layers, found.heads, found.groups
        pairs = len(self._rotation.frequencies)
        self._mean = torch.zeros(*axes, found.dim, dtype=torch.float64, device=device)
        self._length = torch.zeros(*axes, pairs, dtype=torch.float64, device=device)
        self._tokens = 0

    def add(self, trace: Trace) -> None:
        """Read a trace, the prompt too.

        Args:
            trace: what the model wrote for a prompt.
        """
        ids = torch.tensor([[*trace.prompt, *trace.tokens]], device=self._model.device)
        with torch.inference_mode(), queries_seen(self._model, self._see):
            self._model.base_model(input_ids=ids, use_cache=False)
        self._tokens += ids.shape[1]

    def _see(self, layer: int, queries: Float[Tensor, "B Q T D"]) -> None:
        places = torch.arange(queries.shape[2], device=queries.device)
        before = self._rotation.unrotated(queries[0], places.expand(queries.shape[1:3]))
        pairs = self._length.shape[-1]
        size = torch.hypot(before[..., :pairs], before[..., pairs : 2 * pairs])
        heads = self._mean.shape[1:3]
        self._mean[layer] += before.double().sum(dim=1).unflatten(0, heads)
        self._length[layer] += size.double().sum(dim=1).unflatten(0, heads)

    def statistics(self, *, model: str = "") -> QueryStatistics:
        """The means over all tokens read.

        Args:
            model: name of the model, for the file.

        Raises:
            InputError: nothing has been read.
        """
        if not self._tokens:
            raise InputError("No trace was read, so there are no statistics of queries.")
        parts: dict[str, Any] = {
            "mean": (self._mean / self._tokens).float(),
            "length": (self._length / self._tokens).float(),
        }
        return QueryStatistics(
            **parts,
            frequencies=self._rotation.frequencies,
            tokens=self._tokens,
            model=model,
            imprint=imprint_of(self._model),
        )
