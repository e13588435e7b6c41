"""What a recorder notes is what happened: masks, sentences, steering and scores."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import skipkv.trace
from skipkv import Completion, Engine, Observer, Policy, Sampling, presets
from skipkv.errors import InputError
from skipkv.runtime import ObservedEvent
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.trace import Recorder, Trace

PROMPTS = ["one plus two.\n\none plus two.\n\n", "a", "wait. so b is the sum of c.\n\nthen\n\n"]
LONGEST_PROMPT = max(len(toy_tokenizer()(prompt).input_ids) for prompt in PROMPTS)
VECTOR = SteeringVector(vector=torch.randn(64, generator=torch.Generator().manual_seed(1)), layer=1)


def recorded(
    policy: Policy,
    prompts: list[Any] = PROMPTS,
    *,
    scores: bool = False,
    model: Any = None,
    observers: Any = (),
    batch_size: int = 8,
    **options: Any,
) -> tuple[list[Completion], dict[tuple[int, int], Trace]]:
    engine = Engine(model or toy_model(), toy_tokenizer(), policy, batch_size=batch_size)
    recorder = Recorder(engine, scores=scores)
    options = {"max_new_tokens": 40, "trace": True} | options
    done = list(engine.generate(prompts, observers=[recorder, *observers], **options))
    traces = {(t.about["index"], t.about["sample"]): t for t in recorder.traces}
    assert len(traces) == len(done)
    return done, traces


def positions(mask: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(head).tolist() for head in mask.reshape(-1, mask.shape[-1])]


@settings(max_examples=8)
@example(name="raas", budget=16, interval=3, layers=1, heads=1, batch_size=1, scores=False)
@given(
    name=st.sampled_from(presets.BUDGETED),
    budget=st.integers(16, 40),
    interval=st.integers(3, 20),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    batch_size=st.integers(1, 3),
    scores=st.booleans(),
)
def test_the_masks_of_a_trace_are_those_of_the_completion(
    name: str, budget: int, interval: int, layers: int, heads: int, batch_size: int, scores: bool
) -> None:
    policy = presets.get(name)(budget, interval=interval)
    assert policy.budget is not None
    if policy.budget.prompt:  # a budget must have room for what it protects
        policy = presets.get(name)(budget + LONGEST_PROMPT, interval=interval)
    done, traces = recorded(
        policy,
        scores=scores,
        model=toy_model(layers=layers, heads=heads),
        batch_size=batch_size,
    )
    for completion in done:
        trace = traces[completion.index, completion.sample]
        assert completion.trace is not None
        assert trace.ids[trace.prompt_tokens :].tolist() == list(completion.tokens)
        assert trace.events == len(completion.trace) == completion.stats.events
        assert trace.left_at.shape == (layers, heads, len(trace.ids))
        for number, record in enumerate(completion.trace):
            assert trace.seen[number] == record.seen
            kept = [[p for p in head if p >= 0] for head in record.kept.flatten(0, 1).tolist()]
            assert positions(trace.kept(number)) == kept
        # what was decoded since is held
        last = positions(trace.kept(trace.events - 1)) if trace.events else None
        since = list(range(trace.seen[-1] if trace.events else 0, len(trace.ids) - 1))
        assert positions(trace.kept()) == [
            (last[head] if last else []) + since for head in range(layers * heads)
        ]
        held = trace.sizes()[1][2:-1:2]
        assert held.tolist() == pytest.approx(
            [float((r.kept >= 0).sum()) / (layers * heads) for r in completion.trace]
        )
        # before an event: what the last one left, and all tokens since
        fed = np.diff([0, *trace.seen.tolist()])
        assert trace.sizes()[1][1:-1:2].tolist() == pytest.approx([0, *held][: len(fed)] + fed)


def test_a_recorder_forgets_a_call_that_was_left_before_its_end() -> None:
    steerer = AdditiveSteerer(VECTOR, strength=0.5)
    policy = presets.rkv(16, interval=4).with_(steerer=steerer)
    engine = Engine(toy_model(), toy_tokenizer(), policy, batch_size=1)
    recorder, alone = Recorder(engine), Recorder(engine)
    stream = engine.stream(["<think>so.\n\n"], max_new_tokens=60, observers=[recorder])
    for _ in range(30):
        next(stream)
    stream.close()
    for observer in (recorder, alone):
        list(engine.generate(["<think>" + "so.\n\n" * 20], max_new_tokens=5, observers=[observer]))
    [found], [expected] = recorder.traces, alone.traces
    assert found.seen.tolist() == expected.seen.tolist()
    assert (found.left_at == expected.left_at).all()
    assert found.steered.tolist() == expected.steered.tolist()
    assert len(found.steered)


def test_a_full_cache_has_a_trace_without_events() -> None:
    done, traces = recorded(presets.full())
    for completion in done:
        trace = traces[completion.index, 0]
        assert trace.events == 0
        assert trace.kept().sum(axis=-1).tolist() == [[len(trace.ids) - 1] * 2] * 2
        with pytest.raises(InputError, match="has no event"):
            trace.kept(0)


def test_an_event_that_is_not_there_is_refused() -> None:
    _, traces = recorded(presets.rkv(16, interval=8))
    trace = traces[0, 0]
    assert np.array_equal(trace.kept(-1), trace.kept(trace.events - 1))
    with pytest.raises(
        InputError, match=rf"kept\(event={trace.events}\): .* {trace.events} events"
    ):
        trace.kept(trace.events)


class Tables(Observer):
    """Which sentences the policy held for redundant at each of its events."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.redundant: dict[int, list[list[float]]] = {}
        self.tables: dict[int, Any] = {}

    def on_event(self, event: ObservedEvent) -> None:
        for one in event.sequences:
            assert one.sentences is not None
            self.tables[one.index] = one.sentences
            if one.compressed:
                values = one.sentences.redundancy(self.threshold).tolist()
                self.redundant.setdefault(one.index, []).append(values)


@settings(max_examples=5)
@given(threshold=st.sampled_from([0.2, 0.5, 0.8]), seed=st.integers(0, 20))
def test_sentences_are_redundant_from_the_event_on_at_which_the_policy_knew(
    threshold: float, seed: int
) -> None:
    policy = presets.skipkv(24, threshold=threshold, interval=8)
    seen = Tables(threshold)
    _, traces = recorded(policy, model=toy_model(seed=seed), observers=[seen], max_new_tokens=60)
    for (index, _), trace in traces.items():
        own, table = trace.sentences, seen.tables[index]
        count = len(table)
        assert own.ends[:count].tolist() == table.ends.tolist()
        assert own.thoughts[:count].tolist() == table.thoughts.tolist()
        unit = table.embeddings.double()
        assert own.similarity == pytest.approx((unit @ unit.T).numpy(), abs=0.5 / 127 + 1e-6)
        if index not in seen.redundant:
            assert own.threshold is None
            assert set(own.twins.tolist()) <= {-1}
            continue
        assert own.threshold == threshold
        for event, values in enumerate(seen.redundant[index]):
            known = np.flatnonzero(own.redundant_at <= event).tolist()
            assert known == [n for n, value in enumerate(values) if value > 0]
        for number in np.flatnonzero(own.twins >= 0):
            twin = own.twins[number]
            assert twin > number
            assert own.redundancy[number] == pytest.approx(
                float(unit[number] @ unit[twin]), abs=1e-5
            )


def test_sentences_are_there_for_a_policy_that_reads_none() -> None:
    _, traces = recorded(presets.rkv(16, interval=8))
    trace = traces[0, 0]
    assert len(trace.sentences) >= 2
    assert "".join(text for _, text in trace.survival()).startswith(PROMPTS[0])
    assert trace.sentences.threshold is None
    assert trace.sentences.similarity.shape == (0, 0)


def test_steering_is_recorded_where_it_acted_for_every_sample() -> None:
    policy = presets.rkv(24, interval=8).with_(steerer=AdditiveSteerer(VECTOR, strength=0.5))
    sampling = Sampling(temperature=1.5, n=3, seed=2)
    prompt = "<think>so.\n\n"
    for batch_size in (1, 4):
        done, traces = recorded(
            policy, [prompt, "a"], sampling=sampling, batch_size=batch_size, max_new_tokens=60
        )
        tokens = toy_tokenizer()
        closing = tokens.convert_tokens_to_ids("</think>")
        for completion in done:
            trace = traces[completion.index, completion.sample]
            if completion.index == 1:
                continue
            ids = trace.ids.tolist()[:-1]
            end = ids.index(closing) if closing in ids else len(ids)
            expected = [
                position
                for position in range(completion.prompt_tokens - 1, end)
                if "\n\n" in tokens.convert_ids_to_tokens(ids[position])
            ]
            assert trace.steered.tolist() == expected != []
            norm = 0.5 * float(VECTOR.vector.norm())
            assert trace.strengths.tolist() == pytest.approx([norm] * len(expected), rel=1e-3)


def test_scores_are_those_of_the_event_at_which_an_entry_left_or_of_the_last() -> None:
    class Scores(Observer):
        terms = True

        def __init__(self) -> None:
            self.newest: dict[tuple[int, ...], float] = {}

        def on_event(self, event: ObservedEvent) -> None:
            for one in event.sequences:
                if one.scores is None:
                    continue
                for number, values in enumerate(one.scores.terms.values()):
                    for place in (one.scores.positions >= 0).nonzero().tolist():
                        position = int(one.scores.positions[tuple(place)])
                        key = (one.index, number, *place[:2], position)
                        self.newest[key] = float(values[tuple(place)])

    policy = presets.skipkv(24, threshold=0.5, interval=8)
    seen = Scores()
    _, traces = recorded(policy, scores=True, observers=[seen])
    for (index, _), trace in traces.items():
        found = {
            (index, *place): float(trace.scores[tuple(place)])
            for place in np.argwhere(~np.isnan(trace.scores)).tolist()
        }
        own = {key: value for key, value in seen.newest.items() if key[0] == index}
        assert found.keys() == own.keys()
        assert len(trace.terms) == (3 if own else 0)
        for key, value in own.items():  # bfloat16 has 8 bits
            assert found[key] == pytest.approx(value, rel=2**-8, abs=1e-30)
    _, traces = recorded(policy)
    assert traces[0, 0].terms == ()


def test_recording_changes_no_token() -> None:
    policy = presets.skipkv(24, threshold=0.5, interval=8)
    done, _ = recorded(policy, scores=True)
    plain = Engine(toy_model(), toy_tokenizer(), policy).generate(PROMPTS, max_new_tokens=40)
    assert [c.tokens for c in done] == [c.tokens for c in plain]


def test_without_a_recorder_none_of_its_code_runs() -> None:
    ran: set[str] = set()
    sys.setprofile(lambda frame, event, value: ran.add(frame.f_code.co_filename))
    try:
        engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(16, interval=8))
        list(engine.generate(["one"], max_new_tokens=20, trace=True))
    finally:
        sys.setprofile(None)
    folder = str(Path(skipkv.trace.__file__).parent)
    assert any("skipkv/runtime/parts/event.py" in name for name in ran)
    assert not [name for name in ran if name.startswith(folder)]


def test_a_trace_names_the_model_but_not_where_it_lies() -> None:
    model = toy_model()
    model.config.name_or_path = "/home/someone/models/tiny"
    _, traces = recorded(presets.full(), ["one"], model=model, max_new_tokens=3)
    assert traces[0, 0].about["model"] == "models/tiny"


def test_a_folder_gets_a_file_per_sequence_and_none_is_overwritten(tmp_path) -> None:
    engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(16, interval=8))
    for _ in range(2):
        recorder = Recorder(engine, tmp_path / "new" / "traces")
        list(engine.generate(["one", "two"], max_new_tokens=30, observers=[recorder]))
        assert recorder.traces == []
    names = sorted(path.name for path in (tmp_path / "new" / "traces").iterdir())
    assert names == ["trace-0-0-2.npz", "trace-0-0.npz", "trace-1-0-2.npz", "trace-1-0.npz"]
    assert [path.name for path in recorder.paths] == ["trace-0-0-2.npz", "trace-1-0-2.npz"]
    assert Trace.load(recorder.paths[1]).about["index"] == 1


def test_a_folder_that_cannot_be_one_is_refused_before_decoding(tmp_path) -> None:
    engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(16, interval=8))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Recorder(engine, tmp_path / "file")


def test_a_character_of_several_tokens_is_the_first_ones() -> None:
    from skipkv.runtime.text.token_text import TokenText
    from skipkv.trace.recorder import joined

    class Bytes:
        def decode(self, token_ids: list[int], **_: object) -> str:
            return bytes(token_ids).decode(errors="replace")

    ids = [*"aé🙂b".encode(), 0xFF, ord("c")]
    pieces = joined(ids, TokenText(Bytes()))
    assert pieces == ["a", "é", "", "🙂", "", "", "", "b", "\ufffd", "c"]
