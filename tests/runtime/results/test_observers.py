"""Observers see passes, tokens, events and completions; without them nothing of theirs runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv import (
    Budget,
    CacheView,
    Completion,
    Engine,
    Observer,
    Policy,
    Sampling,
    Timings,
    presets,
)
from skipkv.errors import ConfigError, InputError, ObserverError, SkipKVWarning
from skipkv.runtime import (
    ObservedEvent,
    ObservedPass,
    ObservedToken,
    SequenceEvent,
)
from skipkv.runtime.results import observers
from skipkv.scorers import KeyNorm, Recency, ScorerAlgebra
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a", "wait. so b is the sum of c"]
VECTOR = SteeringVector(
    vector=torch.randn(64, generator=torch.Generator().manual_seed(1)), layer=1
)  # the toy model's width


def engine_of(policy: Policy, **options: Any) -> Engine:
    return Engine(toy_model(), toy_tokenizer(), policy, **options)


class Everything(Observer):
    """Keeps all it is told, in order, and reads what can be read."""

    scores = terms = steering = True

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_resume(self) -> None:
        self.told.append("resume")

    def on_pass(self, passed: ObservedPass) -> None:
        self.told.append(passed)

    def on_token(self, token: ObservedToken) -> None:
        self.told.append(token)

    def on_event(self, event: ObservedEvent) -> None:
        for one in event.sequences:
            assert one.kept is not None
            assert one.scores is not None or not one.compressed
        self.told.append(event)

    def on_completion(self, completion: Completion) -> None:
        self.told.append(completion)

    def of(self, kind: type) -> list[Any]:
        return [told for told in self.told if isinstance(told, kind)]

    def events(self, index: int, sample: int = 0) -> list[SequenceEvent]:
        every = [one for event in self.of(ObservedEvent) for one in event.sequences]
        return [one for one in every if (one.index, one.sample) == (index, sample)]


def positions(row: Tensor) -> list[list[int]]:
    return [[p for p in head.tolist() if p >= 0] for head in row.flatten(0, 1)]


@pytest.mark.parametrize("name", ["full", "h2o", "rkv", "skipkv"])
@pytest.mark.parametrize("read_every", [1, 16])  # as on the host, and on an accelerator
def test_what_observers_are_told_is_what_was_decoded(name: str, read_every: int) -> None:
    policy = presets.full() if name == "full" else presets.get(name)(24, interval=8)
    seen = Everything()
    engine = engine_of(policy, batch_size=2, read_every=read_every)
    done = list(engine.generate(PROMPTS, max_new_tokens=40, trace=True, observers=[seen]))
    plain = list(engine.generate(PROMPTS, max_new_tokens=40))
    assert [c.tokens for c in done] == [c.tokens for c in plain]
    assert sorted(seen.of(Completion), key=lambda c: c.index) == done
    for completion in done:
        tokens = [t for t in seen.of(ObservedToken) if t.index == completion.index]
        assert tuple(t.token for t in tokens) == completion.tokens
        start = completion.prompt_tokens
        assert [t.position for t in tokens] == list(range(start, start + len(tokens)))
        assert completion.trace is not None
        compressed = [e for e in seen.events(completion.index) if e.compressed]
        assert len(compressed) == completion.stats.events == len(completion.trace)
        for event, record in zip(compressed, completion.trace, strict=True):
            assert (event.seen, event.entries) == (record.seen, record.entries)
            assert event.evicted == record.evicted
            assert torch.equal(event.kept, record.kept)
    steps = [p for p in seen.of(ObservedPass) if p.kind == "step"]
    fed = sum(sum(p.fed) for p in seen.of(ObservedPass) if p.kind == "prompt")
    assert fed == sum(c.prompt_tokens for c in done)
    # every token but the last of each is fed; on an accelerator some more, which are thrown away
    assert sum(p.steps * len(p.rows) for p in steps) >= sum(len(c.tokens) - 1 for c in done)


@settings(max_examples=10)
@given(name=st.sampled_from(["h2o", "snapkv", "rkv", "skipkv"]), batch_size=st.integers(1, 3))
def test_entries_and_scores_of_an_event_explain_what_it_kept(name: str, batch_size: int) -> None:
    seen = Everything()
    policy = presets.get(name)(16, interval=8)
    list(
        engine_of(policy, batch_size=batch_size).generate(
            PROMPTS, max_new_tokens=40, observers=[seen]
        )
    )
    for index in range(len(PROMPTS)):
        held: list[list[int]] = []
        for event in seen.events(index):
            if event.scores is None:
                assert not event.compressed
                assert positions(event.kept) == [list(range(event.seen))] * 4
                held = positions(event.kept)
                continue
            before, after = positions(event.scores.positions), positions(event.kept)
            # what was there: what the last event kept, and every token since
            since = list(range(max((h[-1] for h in held), default=-1) + 1, event.seen))
            if held:
                assert before == [own + since for own in held]
            assert sum(map(len, before)) - sum(map(len, after)) == event.evicted
            assert max(map(len, before)) == event.entries
            terms = list(event.scores.terms.values())
            assert len(terms) == len(getattr(policy.scorer, "terms", (0,)))
            there = event.scores.positions >= 0
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            assert torch.equal(total[there], event.scores.values[there])
            if name in ("h2o", "snapkv", "rkv"):  # whose evictor takes the best of each head
                scores = event.scores.values.flatten(0, 1)
                for head, (own, left) in enumerate(zip(before, after, strict=True)):
                    value = dict(zip(own, scores[head].tolist(), strict=False))
                    gone = [value[p] for p in set(own) - set(left)]
                    window = range(event.seen - policy.budget.window, event.seen)
                    chosen = [value[p] for p in left if p not in window]
                    assert max(gone, default=-1e9) <= min(chosen, default=1e9)
            if name == "skipkv":
                assert event.sentences is not None
                assert (event.sentences.ends <= event.seen).all()
            held = after


class Layer(ScorerAlgebra):
    """Scores every entry by the number of its layer."""

    def score(self, view: CacheView) -> Tensor:
        return view.layers.float()[:, None, None].expand(view.positions.shape).contiguous()


@pytest.mark.parametrize("shares", [(1.0, 2.0, 1.0), (3.0, 2.0, 1.0)], ids=repr)
def test_scores_of_layers_that_divide_the_budget_come_in_the_order_of_layers(shares: Any) -> None:
    seen = Everything()
    budget = Budget(tokens=12, interval=4, window=2, layers=shares)
    policy = Policy(budget=budget, scorer=2 * Layer() - Layer())
    engine = Engine(toy_model(layers=3), toy_tokenizer(), policy, batch_size=2)
    list(engine.generate(PROMPTS[:2], max_new_tokens=30, observers=[seen]))
    for index in range(2):
        held = None
        for event in seen.events(index):
            found = event.scores
            if found is None:
                continue
            for layer in range(3):
                there = found.positions[layer] >= 0
                assert (found.values[layer][there] == layer).all()
                for before, left in zip(found.positions[layer], event.kept[layer], strict=True):
                    assert set(left.tolist()) - {-1} <= set(before.tolist())
                if held is not None:
                    since = set(range(int(held.max()) + 1, event.seen))
                    for before, left in zip(found.positions[layer], held[layer], strict=True):
                        assert set(before.tolist()) - {-1} == (set(left.tolist()) - {-1}) | since
            assert {tuple(t.shape) for t in found.terms.values()} == {tuple(found.values.shape)}
            held = event.kept
        assert held is not None


def test_the_samples_of_a_prompt_are_each_told_of_its_events() -> None:
    seen = Everything()
    engine = engine_of(presets.rkv(24, interval=8), batch_size=4)
    sampling = Sampling(temperature=1.5, n=3, seed=2)
    prompt = [5 + i % 40 for i in range(70)]
    done = list(
        engine.generate(
            [prompt], max_new_tokens=20, sampling=sampling, observers=[seen], trace=True
        )
    )
    counts = [completion.stats.events for completion in done]
    for completion in done:
        events = seen.events(0, completion.sample)
        assert sum(e.compressed for e in events) == completion.stats.events
        assert [e.request.sample for e in events if e.request] == [completion.sample] * len(events)
        assert completion.trace is not None
        assert [r.kept.tolist() for r in completion.trace] == [
            e.kept.tolist() for e in events if e.compressed
        ]
    assert min(counts) > 5  # of the prompt and of the text
    prompts = [p for p in seen.of(ObservedPass) if p.kind == "prompt"]
    assert sum(sum(p.fed) for p in prompts) == len(prompt)  # it was read once


def test_steering_is_told_with_the_tokens_at_which_it_acted() -> None:
    def again(step: Callable[[], None]) -> Callable[[], None]:
        return step  # steps of fixed operations, as CUDA records them

    for graphs in (False, again):
        seen = Everything()
        steerer = AdaptiveSteerer(VECTOR, strength=1.0, growth=1.0)
        policy = presets.skipkv(24, threshold=0.5, interval=8, steering=steerer)
        engine = Engine(toy_model(seed=2), toy_tokenizer(), policy, batch_size=2, graphs=graphs)
        prompts = ["<think>wait so.\n\n", "<think>one two.\n\nagain"]
        done = list(engine.generate(prompts, max_new_tokens=60, observers=[seen]))
        texts: dict[int, list[int]] = {
            c.index: [*engine.encode(prompts[c.index]), *c.tokens] for c in done
        }
        acted: dict[int, dict[int, float]] = {0: {}, 1: {}}
        for passed in seen.of(ObservedPass):
            for steered in passed.steered:
                places, strengths = steered.positions.tolist(), steered.strength.tolist()
                rows = zip(passed.rows, places, strengths, strict=True)
                for (index, _), position, strength in rows:
                    if strength:
                        acted[index][position] = strength
        tokens = toy_tokenizer()
        opening, closing = tokens.convert_tokens_to_ids(["<think>", "</think>"])
        for index, ids in texts.items():
            start = len(engine.encode(prompts[index])) - 1  # a prompt is steered at its last token
            expected, thinking = [], False
            for position, token in enumerate(ids[:-1]):  # the last token is never fed
                thinking = (thinking or token == opening) and token != closing
                paragraph = "\n\n" in tokens.convert_ids_to_tokens(token)
                if thinking and paragraph and position >= start:
                    expected.append(position)
            assert sorted(acted[index]) == expected != []
            # strength 1 + the reflections and transitions so far, of a vector of this length
            norms = [s / float(VECTOR.vector.norm()) for _, s in sorted(acted[index].items())]
            assert norms == pytest.approx([round(n) for n in norms], rel=1e-3)
            assert norms == sorted(norms)


def test_scores_are_there_for_those_who_ask_only() -> None:
    class Plain(Observer):
        def on_event(self, event: ObservedEvent) -> None:
            assert all(one.scores is None for one in event.sequences)

    class Total(Observer):
        scores = True

        def on_event(self, event: ObservedEvent) -> None:
            for one in event.sequences:
                if one.compressed:
                    assert one.scores is not None
                    assert one.scores.terms == {}

    calls = []

    class Counted(Recency):
        def score(self, view: CacheView) -> Tensor:
            calls.append(1)
            return super().score(view)

    policy = Policy(budget=Budget(tokens=16, interval=8), scorer=Counted() + 0 * KeyNorm())
    engine = engine_of(policy)
    for asking in ([], [Plain()], [Total()], [Everything()]):
        calls.clear()
        [done] = engine.generate(["one"], max_new_tokens=30, observers=asking)
        times = 2 if asking and isinstance(asking[0], Everything) else 1
        assert len(calls) == times * done.stats.events


def test_what_was_not_read_is_gone_afterwards_and_says_so() -> None:
    kept: list[SequenceEvent] = []

    class Late(Observer):
        scores = True

        def on_event(self, event: ObservedEvent) -> None:
            kept.extend(event.sequences)

    list(
        engine_of(presets.rkv(16, interval=8)).generate(
            ["one"], max_new_tokens=30, observers=[Late()]
        )
    )
    with pytest.raises(InputError, match=r"SequenceEvent.kept was not read while on_event ran"):
        _ = kept[-1].kept
    with pytest.raises(InputError, match=r"SequenceEvent.scores was not read"):
        _ = kept[-1].scores


@pytest.mark.parametrize(
    "method", ["on_resume", "on_pass", "on_token", "on_event", "on_completion"]
)
@pytest.mark.parametrize("how", ["generate", "stream", "serve"])
def test_an_observers_error_names_it(method: str, how: str) -> None:
    class Broken(Observer):
        def __repr__(self) -> str:
            return "Broken(42)"

    def fail(self: Any, *_: Any) -> None:
        raise ZeroDivisionError("oh no")

    setattr(Broken, method, fail)
    engine = engine_of(presets.rkv(16, interval=8))
    message = rf"Broken\(42\)\.{method} raised ZeroDivisionError: oh no"
    before = engine.model.config._attn_implementation
    if how == "serve":
        with engine.serve(observers=[Broken()]) as server:
            done = server.submit("one", max_new_tokens=30).result(60)
        assert isinstance(done.error, ObserverError)
        assert str(done.error).startswith("Broken(42)")
    else:
        decode = engine.generate if how == "generate" else engine.stream
        with pytest.raises(ObserverError, match=message) as caught:
            list(decode(["one"], max_new_tokens=30, observers=[Broken()]))  # type: ignore[operator]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert engine.model.config._attn_implementation == before


class Nothing(Observer):
    """Has no method of its own."""


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("given_", [[object()], [Nothing()], [Timings], 3])
def test_what_observes_nothing_is_refused_before_any_decoding(given_: Any) -> None:
    engine = engine_of(presets.full())
    for call in (engine.generate, engine.stream):
        with pytest.raises(ConfigError, match="observers must"):
            call(["one"], observers=given_)
    with pytest.raises(ConfigError, match="observers must"):
        engine.serve(observers=given_)


def test_an_observer_conforms_by_its_shape_too() -> None:
    class Shaped:
        scores = terms = steering = False

        def __init__(self) -> None:
            self.seen: list[int] = []

        def on_token(self, token: ObservedToken) -> None:
            self.seen.append(token.token)

        def nothing(self, *_: Any) -> None:
            pass

        on_resume = on_pass = on_event = on_completion = nothing

    tokens = Shaped()
    [done] = engine_of(presets.full()).generate(["one"], max_new_tokens=5, observers=[tokens])
    assert tuple(tokens.seen) == done.tokens


def test_a_refused_prompt_is_a_completion_too() -> None:
    seen = Everything()
    engine = engine_of(presets.full())
    done = list(engine.generate(["one", " "], max_new_tokens=3, invalid="fail", observers=[seen]))
    assert {c.index for c in seen.of(Completion)} == {c.index for c in done} == {0, 1}


def test_without_observers_nothing_of_theirs_runs_or_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    for name in vars(observers):
        kind = getattr(observers, name)
        if (
            isinstance(kind, type)
            and kind.__module__ == observers.__name__
            and kind is not Observer
        ):

            def refuse(self: Any, *_: Any, name: str = name, **__: Any) -> None:
                made.append(name)
                raise AssertionError(name)

            monkeypatch.setattr(kind, "__init__", refuse)
    steerer = AdaptiveSteerer(VECTOR, strength=1.0, growth=1.0)
    policy = presets.skipkv(24, threshold=0.5, interval=8, steering=steerer)
    engine = engine_of(policy, batch_size=2)
    sampling = Sampling(temperature=1.0, n=2)
    list(engine.generate(PROMPTS, max_new_tokens=30, sampling=sampling))
    list(engine.stream(PROMPTS, max_new_tokens=30))
    with engine.serve() as server:
        server.submit("one", max_new_tokens=30)
    assert made == []
    with pytest.raises(AssertionError):
        engine.generate(PROMPTS, trace=True)


def test_timings_as_an_argument_still_work_with_a_warning() -> None:
    engine, timings = engine_of(presets.rkv(16, interval=8)), Timings()
    with pytest.warns(
        SkipKVWarning, match=r"timings=\.\.\.\) is deprecated.*observers=\[timings\]"
    ):
        list(engine.generate(["one"], max_new_tokens=30, timings=timings))
    assert len(timings.steps) == 29


def test_in_a_server_each_request_is_told_of() -> None:
    seen = Everything()
    engine = engine_of(presets.rkv(24, interval=8), batch_size=2)
    with engine.serve(observers=[seen], trace=True) as server:
        handles = [server.submit(prompt, max_new_tokens=30) for prompt in PROMPTS]
    done = [handle.result() for handle in handles]
    assert sorted(seen.of(Completion), key=lambda c: c.index) == done
    for completion in done:
        compressed = [e for e in seen.events(completion.index) if e.compressed]
        assert completion.trace is not None
        assert len(compressed) == completion.stats.events == len(completion.trace)
        own = [t.token for t in seen.of(ObservedToken) if t.index == completion.index]
        assert tuple(own) == completion.tokens
