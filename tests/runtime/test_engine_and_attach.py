"""The Engine and attach keep the same entries and say the same of what they cost."""

import warnings
from typing import Any

import attrs
import pytest
import torch
import transformers
from torch import Tensor
from toy_prompts import PROMPTS, apart

import skipkv
from skipkv import Budget, Engine, Policy, Stats, presets
from skipkv.errors import SkipKVWarning
from skipkv.evictors import Pooled
from skipkv.runtime.seam import names
from skipkv.scorers import AccumulatedAttention
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

MODEL, TOKENIZER = toy_model(), toy_tokenizer()
NEW = 42


def events(
    policy: Policy, length: int, *, prefill_chunk: int = 256, neighbour: bool = False
) -> tuple[list[tuple[int, list[int]]], Stats]:
    """The Engine's events (tokens seen, positions kept) and stats, of a prompt of some length."""
    engine = Engine(MODEL, TOKENIZER, policy, eos_token_ids=[], prefill_chunk=prefill_chunk)
    # the neighbour decodes while the prompt is read
    prompts = [[9] * 3] * neighbour + [[5 + i % 70 for i in range(length)]]
    [*_, done] = engine.generate(prompts, max_new_tokens=NEW, trace=True)
    return [(record.seen, record.kept.tolist()) for record in done.trace or ()], done.stats


def attached_events(
    policy: Policy, length: int, **how: Any
) -> tuple[list[tuple[int, list[int]]], Stats]:
    """The same under attach."""
    ids = torch.tensor([[5 + i % 70 for i in range(length)]])
    with skipkv.attach(MODEL, policy, tokenizer=TOKENIZER, trace=True) as attached:
        MODEL.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **how)
    [records], [stats] = attached.trace, attached.stats
    return [(record.seen, record.kept.tolist()) for record in records], stats


@pytest.mark.parametrize("length", [100, 10, 600])
def test_under_a_ratio_a_prompt_is_read_whole_before_any_of_it_is_dropped(length: int) -> None:
    policy = presets.skipkv(0.3, threshold=0.5, interval=16)
    expected, _ = attached_events(policy, length)
    assert expected[0][0] == length
    for how in ({}, {"prefill_chunk": 7, "neighbour": True}):
        found, stats = events(policy, length, **how)
        assert found == expected
        assert stats.peak_entries >= length


@pytest.mark.parametrize(
    "policy",
    [
        presets.rkv(32, interval=16),
        Policy(budget=Budget(ratio=0.5, interval=8), scorer=AccumulatedAttention()),
        presets.full(),
        apart(presets.rkv(32, interval=16)),
        presets.snapkv(32, interval=16).with_(evictor=Pooled()),
    ],
)
@pytest.mark.parametrize("length", [3, 8, 100, 104])  # of two the last step would bring an event
def test_both_say_the_same_of_what_a_sequence_cost(policy: Policy, length: int) -> None:
    kept, stats = events(policy, length)
    expected, theirs = attached_events(policy, length)
    assert kept == expected
    assert theirs.seconds > 0
    unlike = {"seconds": 0.0, "peak_kv_bytes": 0}  # attach cannot know how much will be decoded
    assert attrs.evolve(stats, **unlike) == attrs.evolve(theirs, **unlike)


@pytest.mark.parametrize("place", [0, 6, 12, 13, 14, 15])  # an event comes every fourth
@pytest.mark.parametrize("known", [False, True])  # whether attach can know the token
def test_rows_that_end_at_tokens_given_to_generate_cost_what_they_cost_the_engine(
    known: bool, place: int
) -> None:
    model = toy_model()
    model.get_output_embeddings().weight.data[0] = 0  # it never writes the padding token itself
    policy = presets.rkv(12, window=4, interval=4)
    batch: Any = TOKENIZER(PROMPTS, return_tensors="pt", padding=True)
    [first, *_] = Engine(model, TOKENIZER, policy, eos_token_ids=[]).generate(
        PROMPTS, max_new_tokens=NEW
    )
    end = first.tokens[place]
    engine = Engine(model, TOKENIZER, policy, eos_token_ids=[end])
    expected = [done.stats for done in engine.generate(PROMPTS, max_new_tokens=NEW)]
    if known:
        model.generation_config.eos_token_id = end
    with skipkv.attach(model, policy, trace=True) as attached:
        model.generate(**batch, max_new_tokens=NEW, do_sample=False, eos_token_id=end)
    assert min(stats.new_tokens for stats in expected) <= place + 1
    for stats, theirs in zip(expected, attached.stats, strict=True):
        unlike = {"seconds": 0.0, "peak_kv_bytes": 0, "padding": 0}
        assert attrs.evolve(theirs, **unlike) == attrs.evolve(stats, **unlike)
    events = [len(records) for records in attached.trace]
    assert events == attached.events  # not those that padding caused


@pytest.mark.parametrize("chunk", [5, 6, 8])  # of 16 tokens the last piece has one, four, eight
@pytest.mark.parametrize("policy", [presets.full(), presets.skipkv(16, threshold=0.5, interval=8)])
def test_a_prompt_that_generate_feeds_in_pieces_costs_what_a_whole_one_does(
    policy: Policy, chunk: int
) -> None:
    kept, stats = events(policy, 16)
    try:
        expected, theirs = attached_events(policy, 16, prefill_chunk_size=chunk)
    except ValueError as reason:
        pytest.skip(f"transformers {transformers.__version__} cannot: {reason}")
    assert kept == expected
    unlike = {"seconds": 0.0, "peak_kv_bytes": 0}
    assert attrs.evolve(theirs, **unlike) == attrs.evolve(stats, **unlike)


def test_a_row_that_ends_at_the_first_token_of_a_further_turn_costs_what_came_before_it() -> None:
    prompts = torch.tensor([[5 + (7 * i + row) % 60 for i in range(20)] for row in (0, 3)])

    def turns(new: int, **ends: Any) -> tuple[list[Stats], Tensor]:
        how: Any = {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0}
        with skipkv.attach(MODEL, presets.rkv(16, interval=4)) as attached:
            first = MODEL.generate(prompts, max_new_tokens=9, min_new_tokens=9, **how)
            cache = {names.cache_name(MODEL): getattr(first, names.cache_name(MODEL))}
            ids = torch.cat([first.sequences, prompts[:, :6]], dim=1)
            second = MODEL.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **cache, **ends, **how
            )
            return attached.stats, second.sequences[:, ids.shape[1] :]

    [expected, _], tokens = turns(1)
    end = int(tokens[0, 0])
    assert end != tokens[1, 0]
    [found, other], _ = turns(12, eos_token_id=end)
    assert other.new_tokens > found.new_tokens
    assert attrs.evolve(found, seconds=0.0) == attrs.evolve(expected, seconds=0.0)


@pytest.mark.parametrize("place", [7, 6])  # the last token of the first piece, and another one
def test_a_piece_of_a_prompt_that_is_steered_at_its_own_end_is_told_of(place: int) -> None:
    vector = SteeringVector(vector=torch.ones(MODEL.config.hidden_size), layer=1, model="toy")
    policy = presets.skipkv(64, interval=8, steering=AdditiveSteerer(vector, strength=0.1))
    ids = torch.tensor([[30 + i for i in range(20)]])
    ids[0, place] = TOKENIZER.convert_tokens_to_ids("\n\n")
    told = []
    with skipkv.attach(MODEL, policy, tokenizer=TOKENIZER, thinking=None):
        for how in ({}, {"prefill_chunk_size": 8}):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", SkipKVWarning)
                try:
                    MODEL.generate(ids, max_new_tokens=4, do_sample=False, **how)
                except ValueError as reason:
                    pytest.skip(f"transformers {transformers.__version__} cannot: {reason}")
            told.append([str(one.message)[:21] for one in said])
    assert told == [[], ["A piece of the prompt"] * (place == 7)]
