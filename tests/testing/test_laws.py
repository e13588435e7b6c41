"""Every law finds the component that breaks it, and says so in words that help."""

import re
from importlib import import_module
from typing import Any

import pytest
from broken import BY_PROTOCOL

from skipkv.errors import ConfigError
from skipkv.evictors import KeepAll, TopK
from skipkv.scorers import KeyNorm, Random, Recency
from skipkv.testing import (
    ConformanceError,
    check_evictor,
    check_policy,
    check_scheduler,
    check_scorer,
    check_segmenter,
    check_steerer,
    laws_of,
)
from skipkv.testing.laws.law import Law, search
from skipkv.testing.laws.policy import OnToy, scaled_down
from skipkv.testing.laws.steerer import Steered

LAWS = {name: import_module(f"skipkv.testing.laws.{name}").LAWS for name in BY_PROTOCOL}
PREPARED = {
    "steerer": lambda part: Steered(part, None),
    "policy": lambda part: OnToy(scaled_down(part), None),
}
CHECKS = {
    "scorer": check_scorer,
    "evictor": check_evictor,
    "segmenter": check_segmenter,
    "steerer": check_steerer,
    "scheduler": check_scheduler,
    "policy": check_policy,
}
EACH = [
    pytest.param(kind, law, id=f"{kind}-{law.name}") for kind, laws in LAWS.items() for law in laws
]
# Laws that a broken component cannot but break along with its own.
ALONG = {
    ("scorer", "precision"): set(),
    ("evictor", "only entries"): {"empty slots"},
    ("evictor", "protected"): set(),
    ("policy", "budget"): {"decodes"},
    ("policy", "protected"): {"decodes"},
}


@pytest.mark.parametrize("kind", LAWS)
def test_there_is_a_broken_component_for_every_law(kind: str) -> None:
    assert list(BY_PROTOCOL[kind]) == [law.name for law in LAWS[kind]]


@pytest.mark.parametrize(("kind", "law"), EACH)
def test_a_law_finds_the_component_that_breaks_it(kind: str, law: Law) -> None:
    component = BY_PROTOCOL[kind][law.name]
    examples = 10 if kind == "policy" else 100
    with pytest.raises(ConformanceError) as caught:
        CHECKS[kind](component, examples=examples)
    message = str(caught.value)
    assert caught.value.law == law.name, message
    assert law.says in message
    assert law.why in message
    assert f'claims={{"{law.name}": ' in message


@pytest.mark.parametrize(("kind", "law"), EACH)
def test_a_broken_component_keeps_all_other_laws(kind: str, law: Law) -> None:
    if law.name == "protocol":
        pytest.skip("without the methods of the protocol no other law can hold")
    component = PREPARED.get(kind, lambda part: part)(BY_PROTOCOL[kind][law.name])
    broken = {
        other.name
        for other in LAWS[kind]
        if other != law and search(other, component, examples=4 if kind == "policy" else 25)
    }
    assert broken == ALONG.get((kind, law.name), set())
