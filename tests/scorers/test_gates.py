"""Learned gates, and the scorers that ask them when an entry is written."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import Tensor

from skipkv import CacheView, presets
from skipkv.errors import ConfigError, InputError
from skipkv.scorers import GateScore, Retention, WriteGate
from skipkv.testing.strategies import new_entries, views_for

modest = settings(max_examples=25, deadline=None)


def made(*, inner: bool = True) -> WriteGate:
    random = torch.Generator().manual_seed(1)
    units = 3 if inner else 4
    return WriteGate(
        inner=torch.randn(2, 4, 3, generator=random) if inner else None,
        inner_bias=torch.randn(2, 3, generator=random) if inner else None,
        outer=torch.randn(2, units, 2, generator=random),
        outer_bias=torch.randn(2, 2, generator=random),
        model="toy",
    )


def by_hand(gate: WriteGate, state: Tensor, layer: int, head: int) -> float:
    """The gate's number for one state, in float64."""
    x = [float(v) for v in state]
    size = math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    x = [v / size for v in x]
    if gate.inner is not None:
        assert gate.inner_bias is not None
        sums = [
            float(gate.inner_bias[layer, m])
            + sum(v * float(gate.inner[layer, e, m]) for e, v in enumerate(x))
            for m in range(3)
        ]
        x = [s * (1 + math.erf(s / math.sqrt(2))) / 2 for s in sums]
    outer = gate.outer[layer, :, head]
    return float(gate.outer_bias[layer, head]) + sum(
        v * float(w) for v, w in zip(x, outer, strict=True)
    )


@pytest.mark.parametrize("inner", [True, False])
@modest
@given(entries=new_entries(model=made().shape))
def test_what_is_written_is_the_gate_of_the_state(entries: Any, inner: bool) -> None:
    gate = made(inner=inner)
    keys, values, hidden, layer = entries
    [score] = GateScore(gate=gate).on_write(keys, values, hidden, layer).values()
    [log_beta] = Retention(gate=gate).on_write(keys, values, hidden, layer).values()
    for b in range(len(hidden)):
        for t in range(hidden.shape[1]):
            for h in range(2):
                g = by_hand(gate, hidden[b, t], layer, h)
                assert float(score[b, h, t]) == pytest.approx(g, abs=1e-4, rel=2**-12)
                beta = 1 / (1 + math.exp(-g))
                assert float(log_beta[b, h, t]) == pytest.approx(math.log(beta), abs=1e-4)


def test_numbers_that_differ_by_the_rounding_of_a_product_are_one_number() -> None:
    scorer, states = GateScore(gate=made()), torch.randn(1, 400, made().shape.width)
    nearly = states * (1 + 2e-7 * torch.randn_like(states))
    keys = torch.zeros(1, 2, 400, 4)
    [one] = scorer.on_write(keys, keys, states, 0).values()
    [other] = scorer.on_write(keys, keys, nearly, 0).values()
    assert (one == other).float().mean() > 0.99
    assert len(one.unique()) > 700


@modest
@given(view=views_for(Retention(gate=made())))
def test_retention_is_beta_to_the_age(view: CacheView) -> None:
    found, said = Retention(gate=made()).score(view), view.record(Retention.RECORD)
    age = (view.seen - 1)[:, None, None] - view.positions
    where = view.occupied
    assert torch.allclose(found[where], (age * said)[where], atol=1e-5)


@modest
@given(view=views_for(GateScore(gate=made())))
def test_a_gate_score_is_what_was_written(view: CacheView) -> None:
    assert torch.equal(GateScore(gate=made()).score(view), view.record(GateScore.RECORD))


@pytest.mark.parametrize("inner", [True, False])
def test_a_gate_is_the_same_after_a_file(tmp_path: Path, inner: bool) -> None:
    gate, path = made(inner=inner), tmp_path / "gate.safetensors"
    gate.save(path)
    again = WriteGate.load(path)
    assert again == gate
    assert repr(again) == f"WriteGate.load({str(path)!r})"
    assert again != made(inner=not inner)


def test_a_gate_for_another_scorer_is_refused(tmp_path: Path) -> None:
    worth = attrs.evolve(made(), says="worth")
    worth.save(tmp_path / "gate.safetensors")
    assert WriteGate.load(tmp_path / "gate.safetensors") == worth != made()
    GateScore(gate=worth), GateScore(gate=made()), Retention(gate=made())  # said nothing: both
    with pytest.raises(ConfigError, match=r"Retention\(gate=...\) takes a gate that says 'retenti"):
        presets.trimkv(64, gate=tmp_path / "gate.safetensors")
    with pytest.raises(
        ConfigError, match=r"takes a gate that says 'worth', and .* says 'retention'"
    ):
        GateScore(gate=attrs.evolve(made(), says="retention"))


def test_a_gate_is_copied_and_pickled_without_what_is_on_a_device() -> None:
    gate = made()
    small = len(pickle.dumps(gate))
    gate(torch.ones(1, 1, 4), layer=0)
    assert len(pickle.dumps(gate)) == small
    assert pickle.loads(pickle.dumps(gate)) == copy.deepcopy(gate) == gate


def test_what_is_no_gate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="No write gate at"):
        WriteGate.load(path)
    path.write_text("text")
    with pytest.raises(InputError, match="not a safetensors file"):
        WriteGate.load(path)
    other = {"outer": torch.ones(2, 3, 4), "outer_bias": torch.ones(2, 3)}  # not written by us
    for tensors in ({"vector": torch.ones(3)}, other):
        save_file(tensors, path)
        with pytest.raises(InputError, match="holds no write gate"):
            WriteGate.load(path)
    unfit = {"outer": torch.full((2, 3, 4), torch.nan), "outer_bias": torch.ones(2, 4)}
    save_file(unfit, path, metadata={"format": "skipkv write gate"})
    with pytest.raises(InputError, match=r"other.safetensors' cannot be used: .*hold finite"):
        WriteGate.load(path)
    with pytest.raises(InputError, match="The write gate cannot be written to"):
        made().save(tmp_path / "none" / "gate.safetensors")
    made().save(path)
    assert presets.kvzap(64, gate=path) == presets.kvzap(64, gate=str(path))
    with pytest.raises(ConfigError, match=r"GateScore\(gate=...\) must be a WriteGate, got a str"):
        GateScore(gate="gate.safetensors")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer": torch.ones(2, 3)}, "takes outer"),
        ({"outer": torch.ones(2, 4, 2)}, "takes outer"),
        ({"outer_bias": torch.ones(2, 3)}, "takes outer"),
        ({"inner": None}, "takes outer"),
        ({"outer": torch.ones(2, 3, 2, dtype=torch.long)}, "outer=...) must be a tensor of floats"),
        ({"inner_bias": torch.full((2, 3), torch.nan)}, "inner_bias=...) must hold finite"),
        ({"says": "log"}, r"WriteGate(says='log') must be 'worth', 'retention' or ''"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    gate = made()
    parts = {n: getattr(gate, n) for n in ("inner", "inner_bias", "outer", "outer_bias")}
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        WriteGate(**{**parts, **changes})
