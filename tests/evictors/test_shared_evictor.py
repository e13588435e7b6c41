"""One keep set for all heads of a layer."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import skipkv
from skipkv import CacheView, Engine, presets
from skipkv.errors import ConfigError
from skipkv.evictors import SentencePrimary, Shared, TopK
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.testing.strategies import budgets, cache_views, scores


def joined(values: Tensor, view: CacheView, row: int, position: int) -> list[float]:
    """The values of a row's entries at a position, over the heads that hold one."""
    there = view.positions[row] == position
    return values[row][there].tolist()


@pytest.mark.parametrize("over", ["mean", "max", "vote"])
@settings(deadline=None)
@given(view=cache_views(heads=st.integers(1, 4)), data=st.data())
def test_every_head_keeps_its_best_by_the_value_of_the_token(
    over: str, view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = Shared(over=over).keep(values, view, budget)
    own = TopK().keep(values, view, budget).float()
    for r, h in [(r, h) for r in range(len(view.seen)) for h in range(view.positions.shape[1])]:

        def worth(slot: int, r: int = r, h: int = h) -> tuple[Any, ...]:
            position = int(view.positions[r, h, slot])
            at = joined(values, view, r, position)
            if over == "max":
                value: tuple[float, ...] = (max(at),)
            elif over == "mean":
                value = (sum(at) / len(at),)
            else:
                value = (sum(joined(own, view, r, position)), sum(at) / len(at))
            return (bool(view.protected[r, h, slot]), *(round(v, 4) for v in value), -slot)

        slots = view.occupied[r, h].nonzero()[:, 0].tolist()
        expected = sorted(sorted(slots, key=worth, reverse=True)[:budget])
        assert keep[r, h].nonzero()[:, 0].tolist() == expected


@pytest.mark.parametrize("frontend", ["engine", "attach"])
@pytest.mark.parametrize("evictor", [*(Shared(over=w) for w in ("mean", "max", "vote"))], ids=repr)
def test_while_decoding_all_heads_of_a_layer_hold_the_same(frontend: str, evictor: Shared) -> None:
    model, tokenizer = toy_model(heads=4), toy_tokenizer()
    policy = presets.rkv(24, interval=8).with_(evictor=evictor)
    prompt = [5 + 7 * i % 60 for i in range(40)]
    if frontend == "engine":
        engine = Engine(model, tokenizer, policy, eos_token_ids=[])
        [done] = engine.generate([prompt], max_new_tokens=40, trace=True)
        trace = done.trace or ()
    else:
        with skipkv.attach(model, policy, trace=True) as attached:
            model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
        [trace] = attached.trace
    assert len(trace) > 4
    layers_differ = False
    for record in trace:
        assert (record.kept == record.kept[:, :1]).all()
        assert record.kept.shape[-1] == 24
        layers_differ |= bool((record.kept[0] != record.kept[1]).any())
    assert layers_differ


def test_a_vote_uses_the_evictor_s_own_choice_in_each_head() -> None:
    evictor = Shared(over="vote", evictor=SentencePrimary(whole=False))
    assert evictor.needs.sentences
    assert not Shared().needs.sentences


def test_another_way_to_join_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Shared\(over='layers'\) must be 'mean', 'max' or"):
        Shared(over="layers")
