"""What makes two policies the same one to a run's folder."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

from skipkv import CacheView, Policy, presets
from skipkv._runs import differs, stamp
from skipkv.budget import Budget
from skipkv.scorers import ScorerAlgebra
from skipkv.steerers import SteeringVector


def steered(vector: SteeringVector, strength: float = 1.0) -> Policy:
    return presets.seal(vector, strength=strength)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "vector.safetensors"
    SteeringVector(vector=torch.tensor([1.0, 2.0]), layer=1).save(path)
    return path


def test_a_file_that_moved_is_the_same_policy(saved: Path, tmp_path: Path) -> None:
    before = stamp(steered(SteeringVector.load(saved)))
    elsewhere = saved.rename(tmp_path / "elsewhere.safetensors")
    now = stamp(steered(SteeringVector.load(elsewhere)))
    assert before == now
    assert differs(before, now) is None
    assert str(tmp_path) not in now["composition"]


def test_what_was_learned_is_the_same_in_memory_and_in_a_file(saved: Path) -> None:
    read = SteeringVector.load(saved)
    held = SteeringVector(vector=read.vector, layer=read.layer)
    assert stamp(steered(read))["code"] == stamp(steered(held))["code"]


def test_a_file_that_was_written_anew_is_another_policy(saved: Path) -> None:
    before = stamp(steered(SteeringVector.load(saved)))
    SteeringVector(vector=torch.tensor([1.0, 2.5]), layer=1).save(saved)
    told = differs(before, stamp(steered(SteeringVector.load(saved))))
    assert told is not None
    assert told.startswith("SteeringVector(content=) was '")


def test_an_argument_that_changed_is_named(saved: Path) -> None:
    vector = SteeringVector.load(saved)
    told = differs(stamp(steered(vector)), stamp(steered(vector, strength=1.5)))
    assert told == "AdditiveSteerer(strength=) was 1.0 and is 1.5"


@attrs.frozen(repr=False)
class Hidden(ScorerAlgebra):
    """A scorer whose repr says nothing, and whose field has the name of one of ours."""

    _source: str

    def __repr__(self) -> str:
        return "Hidden()"

    def score(self, view: CacheView) -> Tensor:
        return view.values.norm(dim=-1) * len(self._source)


def test_values_that_a_repr_hides_are_compared() -> None:
    one, other = (Policy(budget=Budget(tokens=16), scorer=Hidden(text)) for text in ("a", "ab"))
    assert differs(stamp(one), stamp(one)) is None
    told = differs(stamp(one), stamp(other))
    assert told is not None
    assert told.endswith("the code or a value of a part changed")


class Private:
    def __init__(self, factor: float) -> None:
        self._factor = factor


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Gate(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


class Unsaved(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor), persistent=False)


@pytest.mark.parametrize(
    "part",
    [
        Private,
        Slotted,
        Gate,
        Unsaved,
        lambda factor: torch.nn.Sequential(torch.nn.LeakyReLU(factor)),
        lambda factor: torch.nn.Sequential(torch.nn.ReLU() if factor > 1 else torch.nn.GELU()),
    ],
    ids=["private", "slot", "module", "buffer", "layer", "kind of layer"],
)
def test_values_are_compared_wherever_a_part_keeps_them(part: Callable[[float], object]) -> None:
    """Samples of two policies were mixed in one folder, without a word."""
    assert stamp(part(1.0))["code"] == stamp(part(1.0))["code"]
    assert stamp(part(1.0))["code"] != stamp(part(2.0))["code"]


def test_a_function_from_another_file_of_the_user_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(helper: str) -> object:
        (tmp_path / "one_helper.py").write_text(f"def helper(v): return {helper}")
        (tmp_path / "one_part.py").write_text(
            "from one_helper import helper\ndef score(view): return helper(view)"
        )
        for name in ("one_helper", "one_part"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("one_part").score

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    one, same, other = (stamp(part(text))["code"] for text in ("v + 1", "v + 1", "v * 2 + 1"))
    assert one == same
    assert one != other


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda values: values * factor


def test_functions_are_compared_with_what_they_close_over() -> None:
    assert stamp(scaled(1.0))["code"] == stamp(scaled(1.0))["code"]
    assert stamp(scaled(1.0))["code"] != stamp(scaled(2.0))["code"]


@pytest.mark.parametrize("code", [None, "2.7.18.final.0:0123456789abcdef"])
def test_bytecode_of_another_python_is_not_compared(code: str | None) -> None:
    now = stamp(presets.rkv(budget=64))
    then = {**now, "code": code} if code else {"composition": now["composition"]}
    assert differs(then, now) is None
