"""Statistics of queries, against queries that are worked out from a model's own projections."""

from typing import Any

import pytest
import torch

from skipkv.calibration import QuerySums, Trace
from skipkv.errors import InputError
from skipkv.testing import toy_model


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_statistics_are_the_means_of_queries_before_the_rotation(family: Any) -> None:
    model = toy_model(family)
    traces = [
        Trace(index=n, prompt=[5 + n, 6, 7], tokens=list(range(9, 9 + 4 * n)), finished=True)
        for n in range(3)
    ]
    found, expected = QuerySums(model), []
    layer = model.base_model.layers[1]
    handle = layer.self_attn.q_proj.register_forward_hook(
        lambda module, args, output: expected.append(output[0].detach())
    )
    for trace in traces:
        found.add(trace)
    handle.remove()
    statistics = found.statistics(model="toy")
    queries = torch.cat(expected).double().unflatten(1, (2, 2, 16))  # [T H G D]
    assert statistics.tokens == len(queries) == 3 + 7 + 11
    torch.testing.assert_close(statistics.mean[1], queries.mean(dim=0).float())
    size = torch.hypot(queries[..., :8], queries[..., 8:])
    torch.testing.assert_close(statistics.length[1], size.mean(dim=0).float())
    assert model.config._attn_implementation == toy_model(family).config._attn_implementation


def test_without_a_trace_there_are_none() -> None:
    with pytest.raises(InputError, match="No trace was read"):
        QuerySums(toy_model()).statistics()
