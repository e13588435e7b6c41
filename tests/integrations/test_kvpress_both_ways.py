"""Presses as scorers and scorers as presses, beside kvpress itself: `make test-kvpress`."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

pytest.importorskip("kvpress", reason="make test-kvpress installs it")

import kvpress
from transformers import DynamicCache

from skipkv import Budget, CacheView, Engine, Policy, presets
from skipkv.errors import ConfigError, InputError, PartError, ProtocolError
from skipkv.evictors import TopK
from skipkv.integrations.kvpress import PressFromScorer, ScorerFromPress
from skipkv.scorers import AccumulatedAttention, KeyDiff, KeyNorm, Recency, WindowAttention
from skipkv.testing import check_scorer, toy_model, toy_tokenizer

IDS = torch.randint(2, 60, (1, 36), generator=torch.Generator().manual_seed(0))


def model_of(eager: bool = False, family: str = "llama") -> Any:
    model = toy_model("llama" if family == "scaled" else family)
    if family == "scaled":  # by another factor than most models, as Gemma's are
        for layer in model.model.layers:
            layer.self_attn.scaling *= 8
    if eager:
        model.set_attn_implementation("eager")
    return model


def cached(model: Any, ids: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return cache


def kept_by_kvpress(press: Any, model: Any, ids: torch.Tensor = IDS) -> list[Any]:
    """The positions that a press keeps of a prompt, per layer and head: their keys say which."""
    whole = cached(model, ids)
    with press(model):
        part = cached(model, ids)
    kept = []
    for before, after in zip(whole.layers, part.layers, strict=True):
        same = (after.keys[0, :, :, None] == before.keys[0, :, None]).all(-1)  # [H kept all]
        assert bool((same.sum(-1) == 1).all())
        kept.append(same.int().argmax(-1).sort().values.tolist())
    return kept


def kept_by_skipkv(policy: Policy, model: Any) -> list[Any]:
    """The positions that a policy keeps of the prompt."""
    engine = Engine(model, toy_tokenizer(), policy)
    [done] = engine.generate([IDS[0].tolist()], max_new_tokens=2, trace=True)
    first = done.trace[0]
    assert first.seen == IDS.shape[1]
    return [[head.tolist() for head in layer] for layer in first.kept]


@pytest.mark.parametrize(
    "press",
    [
        kvpress.KnormPress(0.5),
        kvpress.KeyDiffPress(0.5),
        kvpress.CURPress(0.5),
        kvpress.LagKVPress(0.5, lag_size=8),  # 18 entries end between two ranks
        kvpress.RandomPress(0.5, seed=3),
        kvpress.ObservedAttentionPress(0.5),
    ],
    ids=lambda press: type(press).__name__,
)
def test_a_press_keeps_the_same_entries_as_a_scorer(press):
    model = model_of(eager=isinstance(press, kvpress.ObservedAttentionPress))
    expected = kept_by_kvpress(press, model)
    policy = Policy(budget=Budget(ratio=0.5, window=0), scorer=ScorerFromPress(press))
    assert kept_by_skipkv(policy, model) == expected
    assert len(expected[0][0]) == 18


@pytest.mark.parametrize(
    ("family", "scorer"),
    [
        ("llama", KeyNorm()),
        ("llama", Recency()),
        ("llama", WindowAttention(window=8, pool=1)),  # maxima of a pool would tie
        ("qwen3", WindowAttention(window=8, pool=1)),
        ("scaled", WindowAttention(window=8, pool=1)),
        ("llama", AccumulatedAttention()),
        ("llama", KeyDiff()),
        ("qwen2", presets.rkv(0.5, unrotated=True).scorer),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_scorer_keeps_the_same_entries_as_a_press(family, scorer):
    model = model_of(eager=True, family=family)
    budget = Budget(ratio=0.5, window=8, sinks=2)
    expected = kept_by_skipkv(Policy(budget=budget, scorer=scorer), model)
    press = PressFromScorer(compression_ratio=0.5, scorer=scorer, window=8, sinks=2)
    assert kept_by_kvpress(press, model) == expected


def test_a_press_decodes_in_the_engine_as_the_scorer_that_it_equals():
    budget = Budget(tokens=24, interval=8)
    texts = [
        Engine(model_of(), toy_tokenizer(), Policy(budget=budget, scorer=scorer)).generate(
            ["one plus two", "let me check that again, it is so"], max_new_tokens=60
        )
        for scorer in (KeyNorm(), ScorerFromPress(kvpress.KnormPress()))
    ]
    one, other = ([done.tokens for done in found] for found in texts)
    assert one == other


@pytest.mark.parametrize(
    "press",
    [kvpress.KnormPress(), kvpress.KeyDiffPress(), kvpress.ObservedAttentionPress()],
    ids=lambda press: type(press).__name__,
)
def test_it_holds_to_the_laws_of_scorers(press):
    check_scorer(ScorerFromPress(press))


def test_it_composes_as_other_scorers_do_and_leaves_the_press_as_it_was():
    press = kvpress.KnormPress(0.3)
    scorer = 0.5 * ScorerFromPress(press).normalized() + Recency()
    Policy(budget=Budget(tokens=24), scorer=scorer)
    assert press == kvpress.KnormPress(0.3)
    assert (
        repr(ScorerFromPress(press)) == "ScorerFromPress(press=KnormPress(compression_ratio=0.3))"
    )


@pytest.mark.parametrize(
    ("press", "message"),
    [
        (kvpress.SnapKVPress(), r"SnapKVPress reads the module \(config\)"),
        (kvpress.ExpectedAttentionPress(), r"reads the hidden states"),
        (kvpress.LeverageScorePress(), r"reads the hidden states"),
        (kvpress.TOVAPress(), r"TOVAPress reads attention weights"),
        (kvpress.StreamingLLMPress(), r"another compression_ratio"),
        (kvpress.RandomPress(), r"at random. Give it a seed"),
        (kvpress.PyramidKVPress(), r"has a compress of its own"),
        (kvpress.QFilterPress(), r"has a post_init_from_model of its own"),
        (kvpress.DecodingPress(kvpress.KnormPress()), r"Pass the KnormPress inside"),
        (kvpress.ThinKPress(), r"ThinKPress is none"),
        (KeyNorm(), r"takes a kvpress ScorerPress, got KeyNorm\(\)"),
        (kvpress.ScorerPress(), r"cannot be asked alone: NotImplementedError"),
    ],
)
def test_a_press_that_reads_more_is_refused_when_the_scorer_is_made(press, message):
    with pytest.raises(ConfigError, match=message):
        ScorerFromPress(press)


@dataclass
class Own(kvpress.ScorerPress):
    """A press of a user's, as bad as it is told."""

    does: str = ""

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        if self.does == "cache":
            return kwargs["past_key_values"]
        if self.does == "shape":
            return keys
        if self.does == "diagonal":
            return attentions.sum(-1)
        if self.does == "later" and keys.shape[2] < 100:
            return module.layer_idx * keys.sum(-1)
        return keys.sum(-1) - keys.sum((1, 3))[:, None]  # of all heads


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("cache", "reads the arguments of the forward pass"),
        ("shape", "does not return a tensor"),
        ("diagonal", "over dimension -1, and not over queries"),
    ],
)
def test_a_press_of_ones_own_is_refused_likewise(does, message, as_users_call):
    with pytest.raises(ConfigError, match=message):
        ScorerFromPress(Own(does=does))


def test_a_press_that_shows_late_what_it_reads_fails_the_sequence_and_says_so():
    policy = Policy(budget=Budget(tokens=24), scorer=ScorerFromPress(Own(does="later")))
    [done] = Engine(model_of(), toy_tokenizer(), policy).generate([IDS[0].tolist()])
    assert isinstance(done.error, PartError)
    assert "reads the module (layer_idx)" in str(done.error)


def unequal_view() -> CacheView:
    positions = torch.tensor([[[0, 2, 3], [1, -1, -1]]])
    return CacheView(
        keys=torch.randn(1, 2, 3, 4),
        values=torch.randn(1, 2, 3, 4),
        positions=positions,
        protected=positions > 5,
        seen=torch.tensor([4]),
        sequences=torch.tensor([0]),
    )


def test_heads_of_unequal_numbers_are_scored_one_by_one_unless_the_press_looks_at_all():
    assert ScorerFromPress(Own()).mixes_heads
    assert not ScorerFromPress(kvpress.KnormPress()).mixes_heads
    view = unequal_view()
    with pytest.raises(InputError, match="looks at all heads together"):
        ScorerFromPress(Own()).score(view)
    found = ScorerFromPress(kvpress.KnormPress()).score(view)
    assert torch.allclose(found[view.occupied], KeyNorm().score(view)[view.occupied])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": WindowAttention(window=8), "window": 4}, r"window=4\) must be at least 8"),
        ({"scorer": presets.gkv(64).scorer}, r"knows no sentences and no records"),
    ],
)
def test_a_scorer_that_a_press_cannot_serve_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PressFromScorer(**options)


def test_what_is_no_scorer_is_refused(as_users_call):
    with pytest.raises(ProtocolError, match=r"PressFromScorer.scorer"):
        PressFromScorer(scorer=TopK())


def test_the_press_refuses_what_it_would_do_wrongly():
    press = PressFromScorer(compression_ratio=0.5, scorer=KeyNorm())
    decoding = kvpress.DecodingPress(PressFromScorer(scorer=KeyNorm()), 4, target_size=24)
    model = model_of()
    with decoding(model), pytest.raises(InputError, match="with skipkv's Engine or attach"):
        model.generate(IDS, max_new_tokens=8, do_sample=False)
    with kvpress.ChunkPress(press, 12)(model), pytest.raises(InputError, match="in one pass"):
        cached(model, IDS)
    narrow = PressFromScorer(compression_ratio=0.8, scorer=KeyNorm())
    with narrow(model), pytest.raises(InputError, match=r"keeps 7 of 36 tokens, no more than"):
        cached(model, IDS)
    with (
        PressFromScorer(compression_ratio=0.5, scorer=AccumulatedAttention())(model),
        pytest.raises(InputError, match="eager"),
    ):
        cached(model, IDS)


@pytest.mark.parametrize("eager", [False, True])
def test_padded_prompts_are_refused_and_equal_lengths_are_not(eager):
    press = PressFromScorer(compression_ratio=0.5, scorer=KeyNorm())
    model = model_of(eager)
    ids, mask = IDS.repeat(2, 1), torch.ones(2, 36, dtype=torch.long)
    with press(model):
        model(ids, attention_mask=mask, past_key_values=DynamicCache())
        mask[0, :5] = 0
        with pytest.raises(InputError, match="padded"):
            model(ids, attention_mask=mask, past_key_values=DynamicCache())
