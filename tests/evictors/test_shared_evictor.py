"""One keep set for all heads of a layer."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import skipkv
from skipkv import Budget, CacheView, Engine, Policy, presets
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import SentencePrimary, Shared, TopK
from skipkv.evictors.protocol import mixes_layers
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


@pytest.mark.parametrize("over", ["mean", "max", "vote"])
def test_all_layers_of_a_sequence_share_a_set_if_asked(over: str) -> None:
    model, tokenizer = toy_model(heads=4, layers=3), toy_tokenizer()
    policy = presets.rkv(24, interval=8).with_(evictor=Shared(over=over, layers=True))
    prompts = [[5 + 7 * i % 60 for i in range(40)], [3 + 5 * i % 60 for i in range(50)]]
    engine = Engine(model, tokenizer, policy, eos_token_ids=[], batch_size=2)
    traces = [d.trace or () for d in engine.generate(prompts, max_new_tokens=30, trace=True)]
    for trace in traces:
        assert len(trace) > 3
        for record in trace:
            assert (record.kept == record.kept[:1, :1]).all()
    assert (traces[0][0].kept != traces[1][0].kept).any()


def test_an_evictor_inside_that_joins_layers_sees_all_of_them() -> None:
    class Plain:
        """A user's own, which does not say what the one inside it needs."""

        def __init__(self) -> None:
            self.inner = Shared(layers=True)

        def keep(self, scores: Any, view: Any, budget: int) -> Any:
            return self.inner.keep(scores, view, budget)

    model, tokenizer = toy_model(heads=4, layers=3), toy_tokenizer()
    for evictor in (Shared(evictor=Shared(layers=True)), Plain()):
        assert mixes_layers(evictor)
        with pytest.raises(ConfigError, match="keeps the same tokens in all layers"):
            Policy(budget=Budget(tokens=24, layers=[1.5, 0.5]), evictor=evictor)
        policy = presets.rkv(24, interval=8).with_(evictor=evictor)
        engine = Engine(model, tokenizer, policy, eos_token_ids=[])
        [done] = engine.generate(
            [[5 + 7 * i % 60 for i in range(40)]], max_new_tokens=20, trace=True
        )
        assert done.error is None
        for record in done.trace or ():
            assert (record.kept == record.kept[:1, :1]).all()


def test_one_vote_more_counts_however_many_vote() -> None:
    heads, slots = 300, 3  # 100 heads want the last slot, 101 the first one and 99 the other
    wanted = torch.tensor([0] * 101 + [1] * 99 + [2] * 100)
    values = torch.nn.functional.one_hot(wanted, slots)[None].float()
    values[0, :, 2] += 0.4  # by the mean the last slot would be the best
    positions = torch.arange(slots).expand(1, heads, slots)
    view = CacheView(
        keys=torch.zeros(1, heads, slots, 2),
        values=torch.zeros(1, heads, slots, 2),
        positions=positions,
        protected=torch.zeros_like(positions, dtype=torch.bool),
        seen=torch.tensor([slots]),
        sequences=torch.tensor([0]),
        layers=torch.tensor([0]),
        depth=1,
    )
    keep = Shared(over="vote").keep(values, view, 1)
    assert keep[0].tolist() == [[True, False, False]] * heads


@given(data=st.data())
def test_layers_that_share_a_set_count_like_heads(data: Any) -> None:
    depth, heads, slots = 3, 2, 9
    order = data.draw(st.permutations(range(2 * depth)))
    view, values = view_of_layers(depth, heads, slots, order)
    for over in ("mean", "max", "vote"):
        keep = Shared(over=over, layers=True).keep(values, view, 4)
        for sequence in (0, 1):
            rows = [r for r in range(2 * depth) if view.sequences[r] == sequence]
            of_one = attrs.evolve(
                view,
                **{
                    name: getattr(view, name)[rows].reshape(1, depth * heads, slots, *more)
                    for name, more in {
                        "keys": [2], "values": [2], "positions": [], "protected": [],
                    }.items()
                },
                **{
                    name: getattr(view, name)[rows[:1]] for name in ("seen", "sequences", "layers")
                },
            )  # fmt: skip
            as_heads = Shared(over=over).keep(values[rows].reshape(1, -1, slots), of_one, 4)
            assert torch.equal(keep[rows].reshape(1, -1, slots), as_heads)


def view_of_layers(
    depth: int, heads: int, slots: int, order: list[int]
) -> tuple[CacheView, Tensor]:
    """Two sequences in all layers, with rows in any order, and scores."""
    rows = torch.tensor(order)
    shape = (2 * depth, heads, slots)
    positions = torch.arange(slots).expand(shape)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(*shape, 2, generator=generator)
    view = CacheView(
        keys=keys,
        values=keys,
        positions=positions,
        protected=positions >= slots - 1,
        seen=torch.full((2 * depth,), slots),
        sequences=rows % 2,
        layers=rows // 2,
        depth=depth,
    )
    return view, torch.randn(shape, generator=generator)


def test_a_view_that_lacks_a_layer_is_refused() -> None:
    view, values = view_of_layers(2, 1, 9, [0, 1, 2, 3])
    some = attrs.evolve(
        view,
        **{
            name: getattr(view, name)[:2]
            for name in ("keys", "values", "positions", "protected", "seen", "sequences", "layers")
        },
    )
    with pytest.raises(InputError, match=r"chooses for all 2 layers.*it is shown 1 of them"):
        Shared(layers=True).keep(values[:2], some, 4)


def test_a_vote_uses_the_evictor_s_own_choice_in_each_head() -> None:
    evictor = Shared(over="vote", evictor=SentencePrimary(whole=False))
    assert evictor.needs.sentences
    assert not Shared().needs.sentences


def test_another_way_to_join_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Shared\(over='layers'\) must be 'mean', 'max' or"):
        Shared(over="layers")
