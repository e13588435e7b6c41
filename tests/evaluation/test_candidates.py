"""Policies that still want a budget."""

import pytest

from skipkv import Budget, Policy, presets
from skipkv.errors import ConfigError
from skipkv.evaluation import Candidate
from skipkv.evaluation.candidates import parse_candidates


def test_a_preset_is_given_budget_interval_and_options():
    candidate = Candidate.parse("skipkv:threshold=0.9,pool=5")
    assert candidate.label == "skipkv:threshold=0.9,pool=5"
    assert candidate.policy(budget=64, interval=16) == presets.skipkv(
        64, threshold=0.9, pool=5, interval=16
    )


def test_an_object_of_a_module_is_found_with_options_or_without():
    assert Candidate.parse("skipkv.presets:rkv").source is presets.rkv
    candidate = Candidate.parse("skipkv.presets:rkv:window=4,interval=9")
    assert candidate.policy(budget=64, interval=16) == presets.rkv(64, window=4, interval=9)


def test_the_full_cache_takes_no_budget_and_no_interval():
    candidate = Candidate.parse("full")
    assert not candidate.takes_budget
    assert candidate.policy(budget=None, interval=16) == Policy()


def test_a_finished_policy_keeps_its_budget():
    policy = Policy(budget=Budget(tokens=64))
    candidate = Candidate(label="mine", source=policy)
    assert not candidate.takes_budget
    assert candidate.policy(budget=None, interval=16) is policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "No preset is called 'nonsense'"),
        ("rkv:window", "malformed|cannot be imported"),
        ("rkv:window=4,pool", "the option 'pool' must be name=value"),
        (
            "rkv:nonsense=4",
            "rkv:nonsense=4 takes no nonsense. It takes: budget, importance, window",
        ),
        ("rkv:budget=64", "rkv:budget=64 says budget=64, and the budgets are given apart"),
        ("rkv:window=99", r"rkv:window=99 at a budget of 64: Budget\(tokens=64\) must exceed"),
        ("full:window=4", "full:window=4 takes no window. It takes: nothing"),
    ],
)
def test_what_cannot_be_built_is_said_by_its_name(text, message):
    with pytest.raises(ConfigError, match=message):
        Candidate.parse(text).policy(budget=64, interval=16)


def test_commas_separate_policies_and_options():
    found = parse_candidates(["full, rkv:window=4,pool=5,skipkv", "", "h2o,"])
    assert [c.label for c in found] == ["full", "rkv:window=4,pool=5", "skipkv", "h2o"]
