"""Many prompts with one prefix: the prefix is read and compressed once, and copied."""

import threading
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_prompts import PRESETS, apart

from skipkv import (
    Budget,
    CacheView,
    Completion,
    Engine,
    Observer,
    Policy,
    Prompt,
    Sampling,
    presets,
    tiny,
)
from skipkv.errors import InputError
from skipkv.evictors import Pooled
from skipkv.runtime import ObservedEvent, ObservedPass
from skipkv.runtime.requests.prefill import ends, plan
from skipkv.scorers import WindowAttention
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

VECTOR = SteeringVector(
    vector=torch.randn(64, generator=torch.Generator().manual_seed(1)), layer=1
)  # the toy model's width
STEERED = AdaptiveSteerer(VECTOR, strength=1.0, growth=1.0)
POLICIES = {
    "full": presets.full(),
    **{name: presets.get(name)(24, interval=8) for name in PRESETS},
    "skipkv, steered": presets.skipkv(24, threshold=0.5, interval=8, steering=STEERED),
    "prompt protected": Policy(
        budget=Budget(tokens=140, interval=8, window=2, prompt=True),
        scorer=WindowAttention(window=2),
    ),
    "a ratio": Policy(
        budget=Budget(ratio=0.5, interval=8, window=2), scorer=WindowAttention(window=2)
    ),
    "layers that differ": apart(presets.rkv(24, interval=8)).with_(evictor=Pooled()),
}
# no budget of a layer is below the longest prefix
ROOMY = [name for name in POLICIES if name not in ("a ratio", "layers that differ")]


def counted(length: int, *, start: int = 0) -> list[int]:
    """Token ids of words and marks, with line ends among them."""
    return [5 + (start + i * (i + 3)) % 40 for i in range(length)]


def engine_of(policy: Policy, **options: Any) -> Engine:
    return Engine(toy_model(), toy_tokenizer(), policy, **options)


def what(completion: Completion) -> tuple[Any, ...]:
    stats = attrs.evolve(completion.stats, seconds=0.0, padding=0, peak_kv_bytes=0)
    events = [(r.seen, r.entries, r.evicted, r.kept.tolist()) for r in completion.trace or ()]
    return completion.tokens, completion.prompt_tokens, completion.stop_reason, stats, events


class Fed(Observer):
    """Counts the tokens of prompts that passes fed."""

    def __init__(self) -> None:
        self.tokens = 0

    def on_pass(self, passed: ObservedPass) -> None:
        self.tokens += sum(passed.fed) if passed.kind == "prompt" else 0


questions = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@settings(max_examples=15)
@given(
    name=st.sampled_from(ROOMY),
    prefix=st.integers(1, 24),
    lengths=questions,
    batch_size=st.integers(1, 4),
    chunk=st.sampled_from([7, 256]),
)
def test_behind_a_prefix_within_the_budget_prompts_give_what_they_give_alone(
    name: str, prefix: int, lengths: list[int], batch_size: int, chunk: int
) -> None:
    beginning = counted(prefix, start=7)
    rest = [counted(length, start=i) for i, length in enumerate(lengths)]
    engine = engine_of(POLICIES[name], batch_size=batch_size, prefill_chunk=chunk)
    fed = Fed()
    together = engine.generate(
        rest, prefix=beginning, max_new_tokens=20, trace=True, observers=[fed]
    )
    alone = engine.generate([[*beginning, *r] for r in rest], max_new_tokens=20, trace=True)
    assert [what(c) for c in together] == [what(c) for c in alone]
    assert fed.tokens == prefix + sum(lengths)


@settings(max_examples=10)
@given(prefix=st.integers(1, 300), lengths=questions, batch_size=st.integers(1, 4))
def test_with_a_full_cache_any_prefix_changes_nothing(
    prefix: int, lengths: list[int], batch_size: int
) -> None:
    beginning = counted(prefix, start=7)
    rest = [counted(length, start=i) for i, length in enumerate(lengths)]
    engine = engine_of(presets.full(), batch_size=batch_size)
    together = engine.generate(rest, prefix=beginning, max_new_tokens=20)
    alone = engine.generate([[*beginning, *r] for r in rest], max_new_tokens=20)
    assert [what(c) for c in together] == [what(c) for c in alone]


@settings(max_examples=10)
@given(
    name=st.sampled_from(list(POLICIES)),
    prefix=st.integers(25, 90),
    lengths=questions,
    samples=st.integers(1, 3),
    batch_size=st.integers(1, 4),
    chunk=st.sampled_from([7, 256]),
)
def test_what_a_prompt_gives_behind_a_prefix_does_not_depend_on_the_others(
    name: str, prefix: int, lengths: list[int], samples: int, batch_size: int, chunk: int
) -> None:
    beginning = counted(prefix, start=7)
    rest = [counted(length, start=i) for i, length in enumerate(lengths)]
    options: dict[str, Any] = {
        "prefix": beginning,
        "max_new_tokens": 12,
        "trace": True,
        "sampling": Sampling(temperature=1.0, n=samples),
    }
    engine = engine_of(POLICIES[name], batch_size=batch_size, prefill_chunk=chunk)
    together = list(engine.generate(rest, **options))
    alone = []
    for index, own in enumerate(rest):
        single = engine_of(POLICIES[name], batch_size=1)
        alone += [
            attrs.evolve(c, index=index) for c in single.generate([own], seeds=[index], **options)
        ]
    assert [what(c) for c in together] == [what(c) for c in alone]
    assert [(c.index, c.sample) for c in together] == [(c.index, c.sample) for c in alone]


@pytest.mark.parametrize("name", ["h2o", "rkv", "skipkv"])
def test_a_prefix_above_the_budget_is_compressed_at_its_end(name: str) -> None:
    policy = POLICIES[name]
    engine = engine_of(policy, batch_size=2)
    rest = [counted(30, start=i) for i in range(3)]
    done = list(engine.generate(rest, prefix=counted(70), max_new_tokens=20, trace=True))
    first = done[0].trace
    assert first is not None
    # room for 32 at first, then 8 at a time to its end; from there each question 8 at a time
    assert [record.seen for record in first][:8] == [32, 40, 48, 56, 64, 70, 78, 86]
    for completion in done:
        assert completion.trace is not None
        assert completion.stats.events == len(completion.trace)
        for record, shared in zip(completion.trace[:6], first[:6], strict=True):
            assert record.seen == shared.seen
            assert torch.equal(record.kept, shared.kept)
        assert completion.stats.peak_entries == 32


@settings(max_examples=25)
@given(
    length=st.integers(1, 60),
    prefix=st.integers(0, 59),
    budget=st.integers(1, 20),
    chunk=st.integers(1, 10),
)
def test_passes_over_a_prompt_never_exceed_the_room_for_it(
    length: int, prefix: int, budget: int, chunk: int
) -> None:
    prefix = min(prefix, length - 1)
    first = budget + chunk
    found = ends(length, prefix=prefix, first=first, chunk=chunk, budget=budget)
    assert found == sorted(set(found))
    assert found[-1] == length
    held, before = 0, 0
    for end in found:
        held += end - before
        assert held <= first
        before = end
        if end != prefix or held > budget:
            held = min(held, budget)
    if prefix <= budget:  # it adds its own end alone
        whole = ends(length, first=first, chunk=chunk, budget=budget)
        assert set(found) - {prefix} == set(whole) - {prefix}
    [alone] = zip(*plan([length], first, chunk), strict=True)
    assert ends(length, first=first, chunk=chunk, budget=budget) == [r.stop for r in alone]


def test_a_prefix_serves_several_calls_and_a_server() -> None:
    engine = engine_of(presets.rkv(24, interval=8), batch_size=2)
    context = engine.prefix(counted(70))
    rest = [counted(9, start=i) for i in range(3)]
    fed = Fed()
    done = list(engine.generate(rest, prefix=counted(70), max_new_tokens=20))
    expected = [what(c) for c in done]
    # the first one read the prefix; the others have its copy, and what it had cost
    assert len({c.stats.mean_entries for c in done}) == 1
    assert 24 <= done[0].stats.mean_entries <= 24 + 8
    for _ in range(2):
        again = engine.generate(rest, prefix=context, max_new_tokens=20, observers=[fed])
        assert [what(c) for c in again] == expected
    assert fed.tokens == 70 + 2 * 27  # read in the first call only
    pieces = engine.stream(rest, prefix=context, max_new_tokens=20)
    streamed = [p.completion for p in pieces if p.completion is not None]
    assert sorted(what(c) for c in streamed) == sorted(expected)
    with engine.serve() as server:
        handles = [server.submit(r, prefix=context, max_new_tokens=20) for r in rest]
        plain = server.submit(rest[0], max_new_tokens=20)
    assert [what(handle.result()) for handle in handles] == expected
    [without] = engine.generate([rest[0]], max_new_tokens=20)
    assert what(plain.result()) == what(without)


def test_observers_of_a_later_call_see_the_events_of_a_prefix_happen() -> None:
    class Events(Observer):
        def __init__(self) -> None:
            self.seen: dict[int, list[int]] = {}

        def on_event(self, event: ObservedEvent) -> None:
            for one in event.sequences:
                assert len(one.kept) == 2
                assert one.prompt_tokens == 70 + len(rest[one.index])
                self.seen.setdefault(one.index, []).append(one.seen)

    engine = engine_of(presets.rkv(24, interval=8), batch_size=2)
    context = engine.prefix(counted(70))
    rest = [counted(9 + i, start=i) for i in range(3)]
    for _ in range(2):
        events = Events()
        for done in engine.generate(rest, prefix=context, max_new_tokens=9, observers=[events]):
            assert events.seen[done.index][:6] == [32, 40, 48, 56, 64, 70]
            assert len(events.seen[done.index]) == done.stats.events


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_request_that_is_cancelled_while_it_reads_a_prefix_leaves_it_to_the_next(
    cancelled: int,
) -> None:
    model = toy_model()
    engine = Engine(model, toy_tokenizer(), presets.rkv(24, interval=8), batch_size=3)
    rest = [counted(9, start=i) for i in range(3)]
    expected = [what(c) for c in engine.generate(rest, prefix=counted(70), max_new_tokens=9)]
    passed, going = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        passed.set()
        assert going.wait(60)

    context = engine.prefix(counted(70))
    with engine.serve() as server:
        hook = model.register_forward_hook(wait)
        handles = [server.submit(r, prefix=context, max_new_tokens=9) for r in rest]
        try:
            assert passed.wait(60)
            handles[cancelled].cancel()
        finally:
            going.set()
            found = [handle.result(60) for handle in handles]
            hook.remove()
    for number, (completion, own) in enumerate(zip(found, expected, strict=True)):
        if number == cancelled:
            assert (completion.stop_reason, completion.tokens) == ("cancelled", ())
        else:
            assert what(completion) == own


class Poisoned:
    """Scores NaN at the end of the prefix."""

    def score(self, view: CacheView) -> Tensor:
        scores = view.positions.float()
        scores[view.seen == 70] = torch.nan
        return scores


def test_a_part_that_breaks_on_a_prefix_ends_all_that_begin_with_it() -> None:
    policy = Policy(budget=Budget(tokens=24, interval=8), scorer=Poisoned())
    engine = engine_of(policy, batch_size=2)
    done = list(engine.generate([counted(9)] * 3, prefix=counted(70), max_new_tokens=9))
    assert ["Poisoned" in str(c.error) for c in done] == [True] * 3
    assert [c.stop_reason for c in engine.generate([counted(9)], max_new_tokens=9)] == ["length"]


def test_texts_and_chats_continue_a_prefix_of_their_kind() -> None:
    model, tokenizer = tiny.load(device="cpu")
    engine = Engine(model, tokenizer, presets.full())
    text = engine.prefix("a:7; b:a+5. ")
    question = "Start at a, find b."
    assert engine.encode(question, prefix=text) == [
        *engine.encode("a:7; b:a+5. "),
        *tokenizer(question, add_special_tokens=False)["input_ids"],
    ]
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    toy = toy_tokenizer()
    toy.chat_template = template
    engine = Engine(toy_model(), toy, presets.full())
    first = [{"role": "system", "content": "one plus two"}]
    then = [{"role": "user", "content": "is three"}]
    chat = engine.prefix(first)
    assert engine.encode(then, prefix=chat) == engine.encode([*first, *then])
    [behind] = engine.generate([then], prefix=first, max_new_tokens=9)
    [whole] = engine.generate([[*first, *then]], max_new_tokens=9)
    assert what(behind) == what(whole)
    [own] = engine.generate([Prompt(then, max_new_tokens=3)], prefix=chat, max_new_tokens=9)
    assert own.tokens == whole.tokens[:3]


@pytest.mark.usefixtures("as_users_call")
def test_what_cannot_be_a_prefix_or_continue_one_is_refused() -> None:
    toy = toy_tokenizer()
    engine = Engine(toy_model(), toy, presets.full())
    chat = [{"role": "user", "content": "one"}]
    with pytest.raises(InputError, match="The prefix is empty"):
        engine.generate(["one"], prefix=" ")
    with pytest.raises(InputError, match="The prefix is a chat, but the tokenizer has no chat"):
        engine.prefix(chat)
    with pytest.raises(InputError, match="Prompt 0 is empty"):
        engine.generate([""], prefix="one")
    with pytest.raises(InputError, match="Prompt 1 and the prefix must both be chats, or neither"):
        engine.generate(["one", chat], prefix="one")
    with pytest.raises(InputError, match="made by another engine"):
        engine_of(presets.full()).generate(["one"], prefix=engine.prefix("one"))
    toy.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match="does not render the prefix's messages as the beginning"):
        engine.generate([chat], prefix=chat)
    policy = Policy(budget=Budget(tokens=24, window=4, prompt=True))
    with pytest.raises(InputError, match="Prompt 0 has 24 tokens"):
        engine_of(policy).generate([counted(4)], prefix=counted(20))
