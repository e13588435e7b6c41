"""Budgets and policies: checked when built, and what a budget protects."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import skipkv
from skipkv import Budget, Needs, Policy, SkipKVError, evictors, presets, scorers
from skipkv.errors import ConfigError, ProtocolError
from skipkv.evictors import KeepAll, SentencePrimary, TopK
from skipkv.policy import LinearShares
from skipkv.schedulers import Continuous, LengthGrouped
from skipkv.scorers import AccumulatedAttention, KeyNorm, Recency, WindowAttention


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either tokens or ratio, got tokens=None and ratio=None"),
        ({"tokens": 64, "ratio": 0.5}, "exactly one"),
        ({"tokens": 12, "sinks": 4}, r"Budget\(tokens=12\) must exceed .* \(8 \+ 4\)"),
        ({"tokens": 64, "interval": 0}, r"Budget\(interval=0\) must be at least 1"),
        ({"ratio": 0}, r"Budget\(ratio=0\) must lie in \(0, 1\]"),
        ({"ratio": 1.5}, r"must lie in \(0, 1\]"),
        ({"ratio": float("nan")}, r"must lie in \(0, 1\]"),
        ({"tokens": "64"}, r"Budget\(tokens='64'\) must be a whole number or None"),
        ({"tokens": 64.0}, "whole number"),
        ({"tokens": True}, "whole number"),
        ({"tokens": 64, "window": -1}, "whole number of at least 0"),
    ],
)
def test_a_budget_that_cannot_work_is_not_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(**options)


@given(
    ratio=st.floats(0.01, 1),
    seen=st.integers(1, 5000),
    window=st.integers(0, 16),
    sinks=st.integers(0, 8),
    prompt=st.integers(1, 300),
    keep_prompt=st.booleans(),
)
def test_a_ratio_leaves_room_beside_what_it_protects(
    ratio: float, seen: int, window: int, sinks: int, prompt: int, keep_prompt: bool
) -> None:
    budget = Budget(ratio=ratio, window=window, sinks=sinks, prompt=keep_prompt)
    positions = torch.arange(max(seen, prompt))[None, None]
    length = torch.tensor([positions.shape[-1]])
    protected = budget.protected(positions, length, torch.tensor([prompt]))
    assert budget.allowed(int(length), prompt) > int(protected.sum())
    assert budget.allowed(int(length), prompt) >= ratio * int(length)


def test_window_sinks_and_prompt_are_protected_and_empty_slots_are_not() -> None:
    positions = torch.tensor([[[0, 1, 2, 5, 8, 9, -1]]])
    seen, prompt = torch.tensor([10]), torch.tensor([3])
    plain = Budget(tokens=6, window=2, sinks=1)
    assert plain.protected(positions, seen, prompt).tolist() == [[[1, 0, 0, 0, 1, 1, 0]]]
    whole = Budget(tokens=6, window=1, sinks=1, prompt=True)
    assert whole.protected(positions, seen, prompt).tolist() == [[[1, 1, 1, 0, 0, 1, 0]]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"scorer": object()}, r"Policy\.scorer must be a Scorer.* a method score\(view\)"),
        (
            {"scorer": Recency},
            r"must be an instance of a Scorer, got the class Recency\. Write Rec",
        ),
        ({"evictor": KeepAll}, r"must be an instance of an Evictor, got the class KeepAll\."),
        ({"evictor": Recency()}, r"Policy\.evictor must be an Evictor: it needs a method keep"),
        ({"evictor": Recency()}, r"method keep\(scores, view, budget\), and Recency has none"),
        (
            {"segmenter": TopK()},
            r"Policy\.segmenter must be a Segmenter: .* a method cut\(stream\)",
        ),
        ({"steerer": TopK()}, r"Policy\.steerer must be a Steerer: it needs an attribute layer"),
        ({"scheduler": TopK()}, r"method admit\(waiting, \*, free, running\)"),
        ({"scheduler": TopK()}, r"Policy\.scheduler must be a BatchScheduler: it needs a method"),
        ({"budget": 64}, r"Policy\(budget=64\) must be of type Budget or None"),
    ],
)
def test_a_part_of_the_wrong_shape_is_refused_when_the_policy_is_built(
    parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(SkipKVError, match=message) as refusal:
        Policy(**parts)
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("scorer", r"score\(view\), and Odd has score\(\)"),
        ("evictor", r"keep\(scores, view, budget\), and Odd has keep\(scores: .*view: "),
        ("segmenter", r"cut\(stream\), and Odd has cut\(stream: .*, text: "),
        ("steerer", r"delta\(hidden, context\), and Odd has 7 there"),
        ("scheduler", r"admit\(waiting, \*, free, running\), and Odd has admit\(waiting: [^*]*\)"),
    ],
)
def test_a_method_with_other_arguments_is_shown_beside_the_one_wanted(
    part: str, message: str
) -> None:
    class Odd:
        layer = 0
        delta = 7

        def score(self) -> Any: ...

        def keep(self, scores: Any, view: Any) -> Any: ...

        def cut(self, stream: Any, text: Any) -> Any: ...

        def admit(self, waiting: Any) -> Any: ...

    with pytest.raises(ProtocolError, match=message):
        Policy(**{part: Odd()})


def test_an_optional_method_with_other_arguments_is_refused_when_the_policy_is_built() -> None:
    class Mine(scorers.ScorerAlgebra):
        def score(self, view: Any) -> Any: ...

    class Writes(Mine):
        def on_write(self, keys: Any, values: Any) -> Any: ...

    class Remembers(Mine):
        def remember(self, view: Any, more: Any) -> Any: ...

    class Pools(TopK):
        def most_per_head(self) -> Any: ...

    wanted = (
        r"Writes\.on_write is called as on_write\(keys, values, hidden, layer\), and Writes has"
    )
    for scorer in (Writes(), KeyNorm() + 2 * Writes()):
        with pytest.raises(ProtocolError, match=r"Policy\.scorer: " + wanted):
            Policy(scorer=scorer)
    with pytest.raises(ProtocolError, match=r"called as remember\(view\)"):
        Policy(scorer=Remembers())
    with pytest.raises(ProtocolError, match=r"Policy\.evictor: Pools\.most_per_head is called as"):
        Policy(evictor=Pools())


def test_a_part_that_holds_itself_is_a_part() -> None:
    class Mine:
        def __init__(self) -> None:
            self.parents = [self, KeyNorm()]

        def score(self, view: Any) -> Any: ...

    assert Policy(scorer=Mine()).needs == Needs()


def test_a_plain_class_of_the_right_shape_is_a_part() -> None:
    class Mine:
        def score(self, view: Any, extra: int = 0) -> Any:
            return view.positions.float()

    assert Policy(scorer=Mine()).needs == Needs()


def test_needs_are_the_union_of_what_the_parts_read() -> None:
    policy = Policy(
        budget=Budget(tokens=64),
        scorer=WindowAttention(window=4) + AccumulatedAttention(),
        evictor=SentencePrimary(),
    )
    assert policy.needs == Needs(queries=4, attention=True, sentences=True)
    assert policy.with_(budget=None).needs == Needs()


def test_a_scorer_that_observes_more_than_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Set Budget\(window=16\)"):
        Policy(budget=Budget(tokens=64), scorer=WindowAttention(window=16) + KeyNorm())


def test_without_a_budget_everything_is_kept() -> None:
    assert Policy().evictor == KeepAll()
    assert Policy(budget=Budget(tokens=9)).evictor == TopK()


@pytest.mark.parametrize("name", ["full", *presets.BUDGETED])
def test_a_presets_repr_can_be_pasted_back(name: str) -> None:
    policy = presets.full() if name == "full" else presets.get(name)(512)
    scope = {name: getattr(skipkv, name) for name in skipkv.__all__}
    scope |= {**vars(scorers), **vars(evictors)}
    scope |= {**vars(skipkv.segmenters), **vars(skipkv.steerers), **vars(skipkv.schedulers)}
    assert eval(repr(policy), scope) == policy


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"No preset is called 'rvk'.*snapkv, .*rkv, gkv, seal, skipkv"
    ):
        presets.get("rvk")


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("name", presets.BUDGETED)
def test_a_preset_takes_tokens_a_ratio_or_a_budget(name: str) -> None:
    preset = presets.get(name)
    layers = preset(64).budget.layers
    whole = Budget(tokens=64, interval=16, window=6, sinks=2, layers=layers)
    assert preset(attrs.evolve(whole, layers=None)).budget == whole
    assert preset(whole, interval=32, prompt=True, sinks=3).budget == Budget(
        tokens=64, interval=32, window=6, sinks=3, prompt=True, layers=layers
    )
    tokens = preset(64, sinks=2, prompt=True).budget
    assert tokens is not None
    assert (tokens.tokens, tokens.sinks, tokens.prompt, tokens.interval) == (64, 2, True, 128)
    if name == "h2o":
        with pytest.raises(ConfigError, match=r"h2o\(Budget\(ratio=0.25, window=128\)\)"):
            preset(0.25)
    elif layers is not None:
        with pytest.raises(ConfigError, match=r"pyramidkv\(0.25\) divides.*Give tokens"):
            preset(0.25)
    else:
        share = preset(0.25).budget
        assert share is not None
        assert (share.ratio, share.tokens) == (0.25, None)


def test_layers_that_a_budget_shares_out_stay_unless_a_beta_replaces_them() -> None:
    given = Budget(tokens=64, layers=(1.0, 3.0))
    assert presets.pyramidkv(given).budget == given
    shared = presets.pyramidkv(given, beta=2.0).budget
    assert shared is not None
    assert shared.layers == LinearShares(2.0)


def test_a_window_given_replaces_that_of_a_budget_and_is_observed() -> None:
    budget = Budget(tokens=64, window=6)
    for policy, window in ((presets.rkv(budget), 6), (presets.snapkv(budget, window=4), 4)):
        assert policy.needs.queries == window
        assert policy.budget is not None
        assert policy.budget.window == window


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (64.0, r"64.0 is neither a ratio, which lies in \(0, 1\], nor a whole number of tokens"),
        (0.0, "0.0 is neither a ratio"),
        ("64", r"a ratio in \(0, 1\] \(0.25\) or a Budget, got '64'"),
        (None, "or a Budget, got None"),
        (True, "or a Budget, got True"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_a_presets_budget_of_another_kind_is_refused(budget: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        presets.rkv(budget)


@pytest.mark.usefixtures("as_users_call")
def test_with_names_the_fields_that_a_policy_has() -> None:
    policy = presets.rkv(64)
    assert policy.with_(scorer=Recency()).scorer == Recency()
    with pytest.raises(
        ConfigError, match=r"Policy.with_ takes no scorers. A policy has: budget, scorer, evictor"
    ):
        policy.with_(scorers=Recency())  # type: ignore[call-arg]


def test_h2o_keeps_heavy_hitters_and_recent_tokens_half_and_half() -> None:
    budget = presets.h2o(100).budget
    assert budget is not None
    assert budget.window == 50


def test_skipkv_can_spare_the_prompts_sentences_in_score_and_eviction() -> None:
    policy = presets.skipkv(64, threshold=0.9, prompt_sentences=False)
    assert policy.evictor == SentencePrimary(threshold=0.9, whole=False, prompt=False)
    assert "SentenceRedundancy(threshold=0.9, prompt=False)" in repr(policy.scorer)


@pytest.mark.parametrize("preset", [presets.rkv, presets.skipkv])
def test_prompts_of_like_length_are_grouped_where_asked_for(preset: Any) -> None:
    assert preset(64, grouped=8).scheduler == LengthGrouped(batch_size=8)
    assert preset(64).scheduler == Continuous()
