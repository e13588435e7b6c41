"""What makes two policies the same one to a run's folder."""

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
