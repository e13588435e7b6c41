"""Prompts of newcomers are fed in chunks, between the decode steps of others; nothing else changes.

What is decoded, kept and counted for a request is what it gives alone, where nobody waits and its
prompt goes in whole.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_prompts import PRESETS, apart
from transformers import PreTrainedModel

from skipkv import Budget, CacheView, Engine, Policy, Sampling, presets
from skipkv.evictors import Pooled
from skipkv.runtime.loop import DecodeLoop
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.requests.sequence import Sequence as Decoded
from skipkv.runtime.results.observers import EventLog, Observers
from skipkv.runtime.seam.cache import under_way
from skipkv.runtime.session import Session
from skipkv.runtime.store.forward import Forward, PromptForward
from skipkv.runtime.text.token_text import TokenText
from skipkv.schedulers import Continuous, LengthGrouped
from skipkv.scorers import Recency, WindowAttention
from skipkv.segmenters import Newline
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.testing.fakes import VOCABULARY
from skipkv.testing.streams import request_queues

TEXT = TokenText(toy_tokenizer())
VECTOR = SteeringVector(
    vector=torch.randn(64, generator=torch.Generator().manual_seed(1)), layer=1
)  # the toy model's width
# A steerer whose push grows fast: thoughts counted too early change the tokens.
STEERED = AdaptiveSteerer(VECTOR, strength=1.0, growth=1.0)
POLICIES = {
    "full": presets.full(),
    **{name: presets.get(name)(24, interval=8) for name in PRESETS},
    "seal": presets.seal(VECTOR),
    "skipkv, steered": presets.skipkv(24, threshold=0.5, interval=8, steering=STEERED),
    "a ratio": Policy(
        budget=Budget(ratio=0.5, interval=8, window=2), scorer=WindowAttention(window=2)
    ),
    "layers that differ": apart(presets.h2o(32, interval=8)).with_(evictor=Pooled(cap=1.5)),
}
TELLING = ("skipkv, steered", "layers that differ")
ID = {text: i for i, text in enumerate(VOCABULARY)}
CHUNKS = [1, 3, 16, 1000]


def said(*words: str) -> list[int]:
    return [ID[word] for word in words]


def counted(length: int, *, start: int = 0) -> list[int]:
    """A prompt of words and marks, with line ends among them."""
    return [5 + (start + i * (i + 3)) % 40 for i in range(length)]


# Reflections, then the end of a paragraph inside the think block: where a prompt is steered. All in
# one pass, before which none of its thoughts counts.
RAMBLING = [
    *said("<think>", *["wait", " ", "so", ".\n\n"] * 3, *["alternatively", "\n\n"] * 2),
    *said("verify", " ", "two", ".\n\n"),
]


def orders(**sizes: int) -> st.SearchStrategy[list[Order]]:
    """Queues of requests as the loop takes them."""
    return request_queues(**sizes).map(lambda queue: [Order(**attrs.asdict(r)) for r in queue])


def queue() -> list[Order]:
    """Long and short prompts, answers of different lengths: slots become free at any time."""
    sizes = [(20, 9), (3, 30), (70, 12), (5, 3), (33, 25), (49, 1), (1, 17), (24, 6)]
    prompts = [counted(prompt, start=i) for i, (prompt, _) in enumerate(sizes)]
    prompts[4:4] = [RAMBLING, [*counted(40), *RAMBLING]]
    sizes[4:4] = [(len(RAMBLING), 20), (40 + len(RAMBLING), 14)]
    return [
        Order(index=i, prompt=prompt, max_new_tokens=new, seed=i)
        for i, (prompt, (_, new)) in enumerate(zip(prompts, sizes, strict=True))
    ]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return toy_model()


def loop_of(
    model: PreTrainedModel,
    policy: Policy,
    *,
    slots: int,
    chunk: int,
    observers: Sequence[Any] = (),
    **how: Any,
) -> DecodeLoop:
    with torch.inference_mode():
        session = Session(
            model,
            policy,
            sequences=slots,
            text=TEXT,
            observers=Observers(observers) if observers else None,
        )
    return DecodeLoop(
        session,
        eos=frozenset(),
        text=TEXT,
        prefill_chunk=chunk,
        **how,
    )


def key(finished: Decoded) -> tuple[int, int]:
    return finished.request.index, finished.request.sample


def what_came_of(finished: Decoded, trace: EventLog) -> tuple[Any, ...]:
    """All that must not depend on neighbours, chunks and slots."""
    events = [(r.seen, r.entries, r.evicted, r.kept.tolist()) for r in trace.of(*key(finished))]
    stats = attrs.evolve(finished.stats, seconds=0.0, padding=0, peak_kv_bytes=0)
    return finished.tokens, finished.reason, finished.stop_string, stats, events


def decoded(
    model: PreTrainedModel, policy: Policy, requests: Sequence[Order], **how: Any
) -> dict[tuple[int, int], tuple[Any, ...]]:
    trace = EventLog()
    finished = list(loop_of(model, policy, observers=[trace], **how).run(requests))
    assert sorted(map(key, finished)) == sorted((r.index, r.sample) for r in requests)  # each once
    return {key(f): what_came_of(f, trace) for f in finished}


def each_alone(
    model: PreTrainedModel, policy: Policy, requests: Sequence[Order], **how: Any
) -> dict[tuple[int, int], tuple[Any, ...]]:
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for request in requests:
        found |= decoded(model, policy, [request], slots=1, chunk=1, **how)
    return found


# the others need nothing of the runtime that these do not
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in TELLING)) for name in POLICIES],
)
def test_what_a_request_gives_is_what_it_gives_alone_however_prompts_are_cut(
    name: str, model: PreTrainedModel
) -> None:
    policy, requests = POLICIES[name], queue()
    alone = each_alone(model, policy, requests)
    if policy.budget is not None:
        assert sum(len(trace) for *_, trace in alone.values()) > 10
    for chunk in CHUNKS:
        assert decoded(model, policy, requests, slots=3, chunk=chunk) == alone
    shortest = policy.with_(scheduler=Continuous(order="shortest_prompt"))
    assert decoded(model, shortest, requests, slots=4, chunk=5) == alone
    static = policy.with_(scheduler=LengthGrouped(batch_size=4))
    assert decoded(model, static, requests, slots=4, chunk=5) == alone


def test_samples_and_stop_strings_are_a_requests_own_however_prompts_are_cut(
    model: PreTrainedModel,
) -> None:
    ways = [Sampling(temperature=1.2, top_k=30), Sampling(), Sampling(temperature=0.8, top_p=0.9)]
    requests = [
        attrs.evolve(r, sampling=ways[i % 3], stop=("e", "x", "s")) for i, r in enumerate(queue())
    ]
    policy = POLICIES["skipkv, steered"]
    alone = each_alone(model, policy, requests)
    assert {reason for _, reason, *_ in alone.values()} == {"stop_string", "length"}
    for chunk in CHUNKS:
        assert decoded(model, policy, requests, slots=3, chunk=chunk) == alone


def test_looking_at_the_tokens_less_often_changes_nothing_while_prompts_are_read(
    model: PreTrainedModel,
) -> None:
    policy = POLICIES["skipkv, steered"]
    requests = [attrs.evolve(request, stop=("e", "x", "s")) for request in queue()]
    often = decoded(model, policy, requests, slots=3, chunk=3)
    assert decoded(model, policy, requests, slots=3, chunk=3, read_every=16) == often


@pytest.mark.parametrize("name", ["full", "skipkv, steered"])
def test_what_is_decoded_after_an_end_and_thrown_away_is_no_cost(
    name: str, model: PreTrainedModel
) -> None:
    """The peak counted up to 15 entries more where the tokens were read every 16 steps."""
    requests = [
        attrs.evolve(request, prompt=request.prompt[:3], stop=("e", "x", "s"), max_new_tokens=20)
        for request in queue()
    ]
    often = each_alone(model, POLICIES[name], requests)
    assert {reason for _, reason, *_ in often.values()} == {"stop_string"}
    for read_every in (2, 16):
        seldom = decoded(model, POLICIES[name], requests, slots=3, chunk=3, read_every=read_every)
        assert seldom == often


@pytest.mark.parametrize("name", ["skipkv, steered"])
def test_steps_of_fixed_operations_follow_who_comes_and_goes(
    name: str, model: PreTrainedModel
) -> None:
    """Those that CUDA records as a graph; here each is done anew."""
    policy, requests = POLICIES[name], queue()
    alone = each_alone(model, policy, requests)
    again = decoded(model, policy, requests, slots=3, chunk=3, graphs=lambda body: body)
    assert again == alone


@settings(max_examples=10, deadline=None)
@given(
    drawn=orders(max_requests=7, max_prompt_tokens=40, max_new_tokens=12),
    slots=st.integers(1, 4),
    chunk=st.integers(1, 20),
    order=st.sampled_from(["fifo", "shortest_prompt"]),
)
def test_every_request_is_decoded_once_and_as_alone_whatever_the_queue(
    model: PreTrainedModel, drawn: list[Order], slots: int, chunk: int, order: Any
) -> None:
    requests = [attrs.evolve(r, prompt=counted(r.prompt_tokens, start=r.index)) for r in drawn]
    policy = presets.skipkv(12, threshold=0.5, window=4, interval=5, steering=STEERED)
    policy = policy.with_(scheduler=Continuous(order=order))
    alone = each_alone(model, policy, requests)
    assert decoded(model, policy, requests, slots=slots, chunk=chunk) == alone


@attrs.frozen
class Watched:
    """Keeps the forward passes of a model, and how many requests waited at each."""

    passes: list[tuple[int, list[int], int, int]] = attrs.field(factory=list)
    waiting: list[int] = attrs.field(factory=lambda: [0])

    def admit(self, waiting: Sequence[Order], *, free: int, running: int) -> Sequence[int]:
        admitted = Continuous().admit(waiting, free=free, running=running)
        self.waiting.append(len(waiting) - len(admitted))
        return admitted

    def hook(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        cache = under_way()
        assert cache is not None
        forward: Forward = cache.forward
        rows, columns = kwargs["input_ids"].shape
        counts = list(forward.counts) if isinstance(forward, PromptForward) else [1] * rows
        self.passes.append((forward.first, counts, columns, self.waiting[-1]))


@settings(max_examples=20, deadline=None)
@given(
    drawn=orders(min_requests=3, max_requests=8, max_prompt_tokens=60, max_new_tokens=9),
    slots=st.integers(2, 4),
    chunk=st.integers(1, 20),
)
def test_whoever_decodes_is_fed_between_any_two_chunks_of_the_newcomers(
    drawn: list[Order], slots: int, chunk: int
) -> None:
    model, watched = toy_model(), Watched()
    model.register_forward_pre_hook(watched.hook, with_kwargs=True)
    policy = presets.rkv(24, interval=8).with_(scheduler=watched)
    list(loop_of(model, policy, slots=slots, chunk=chunk).run(drawn))
    for index, (first, counts, columns, waiting) in enumerate(watched.passes):
        if not first:  # nobody decodes, or this is their step
            continue
        assert max(counts) == columns <= chunk
        assert min(counts) > 0
        assert waiting == 0 or first + len(counts) == slots  # no slot is empty while one waits
        following, fed, step, _ = watched.passes[index + 1]
        assert (following, step) == (0, 1)
        assert len(fed) >= first


@pytest.mark.parametrize("read_every", [1, 16])  # as on the host, and on an accelerator
def test_a_long_prompt_holds_up_neither_those_who_decode_nor_a_short_prompt(
    read_every: int,
) -> None:
    model, watched = toy_model(), Watched()
    model.register_forward_pre_hook(watched.hook, with_kwargs=True)
    sizes = [(4, 30), (4, 2), (40, 3), (6, 3)]  # the third takes the slot of the second
    requests = [
        Order(index=i, prompt=counted(prompt), max_new_tokens=new)
        for i, (prompt, new) in enumerate(sizes)
    ]
    policy = Policy(scheduler=watched)
    decoding = loop_of(model, policy, slots=3, chunk=8, read_every=read_every)
    assert [f.request.index for f in decoding.run(requests)] == [1, 3, 2, 0]
    assert [(first, counts) for first, counts, *_ in watched.passes][:8] == [
        (0, [4, 4, 8]),
        (0, [1, 1]),
        (1, [8, 6]),  # the second is done, the fourth takes its slot, and decodes from here
        (0, [1, 1]),
        (2, [8]),
        (0, [1, 1]),
        (1, [8]),
        (0, [1]),
    ]


def test_alone_a_prompt_goes_in_in_whole_passes() -> None:
    model, watched = toy_model(), Watched()
    model.register_forward_pre_hook(watched.hook, with_kwargs=True)
    policy = presets.rkv(24, interval=8).with_(scheduler=watched)
    requests = [Order(index=i, prompt=counted(50), max_new_tokens=1) for i in range(2)]
    list(loop_of(model, policy, slots=2, chunk=1).run(requests))
    assert [counts for _, counts, *_ in watched.passes] == [[32, 32], [8, 8], [8, 8], [2, 2]]


@pytest.mark.parametrize("name", ["h2o", "skipkv, steered", "a ratio"])
def test_samples_that_start_together_are_fed_their_prompt_once_and_are_as_alone(name: str) -> None:
    model, watched = toy_model(), Watched()
    model.register_forward_pre_hook(watched.hook, with_kwargs=True)
    policy = POLICIES[name].with_(scheduler=watched)
    prompts = [counted(70), RAMBLING]
    requests = [
        Order(
            index=i,
            prompt=prompt,
            max_new_tokens=12 + sample,
            sample=sample,
            sampling=Sampling(temperature=1.0),
        )
        for i, prompt in enumerate(prompts)
        for sample in range(3)
    ]
    together = decoded(model, policy, requests, slots=6, chunk=16)
    fed = sum(sum(counts) for _, counts, *_ in watched.passes)
    decode_steps = sum(request.max_new_tokens - 1 for request in requests)
    assert fed == sum(map(len, prompts)) + decode_steps
    assert len({tuple(tokens) for tokens, *_ in together.values()}) == 6
    assert together == each_alone(model, policy, requests)


@pytest.mark.parametrize("broken_part", ["scorer", "segmenter"])
def test_a_part_that_breaks_on_a_shared_prompt_ends_all_its_samples(
    broken_part: str, model: PreTrainedModel
) -> None:
    policy = presets.skipkv(24, interval=8)
    if broken_part == "scorer":
        policy = policy.with_(scorer=Poisoned(72))
    else:
        policy = policy.with_(segmenter=Picky())
    prompt = [9] * 36 + said("seven") + [9] * 40
    requests = [
        Order(index=0, prompt=prompt, max_new_tokens=5, sample=i, sampling=Sampling(temperature=1))
        for i in range(3)
    ]
    requests.append(Order(index=1, prompt=[9] * 5, max_new_tokens=5))
    reasons = {key(f): f.reason for f in loop_of(model, policy, slots=4, chunk=16).run(requests)}
    assert reasons == {(0, 0): "error", (0, 1): "error", (0, 2): "error", (1, 0): "length"}


class Poisoned:
    """Scores NaN for sequences that have seen so many tokens."""

    def __init__(self, tokens_seen: int) -> None:
        self.tokens_seen = tokens_seen

    def score(self, view: CacheView) -> Tensor:
        scores = view.positions.float()
        scores[view.seen == self.tokens_seen] = torch.nan
        return scores


class Picky(Newline):
    """Cannot read one word."""

    def cut(self, stream: Any) -> Any:
        if "seven" in stream.text:
            raise RuntimeError("no seven")
        return super().cut(stream)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("broken_part", ["scorer", "segmenter"])
def test_a_part_that_breaks_on_a_newcomers_prompt_ends_that_newcomer_only(
    broken_part: str, chunk: int, model: PreTrainedModel
) -> None:
    if broken_part == "scorer":
        healthy = Policy(budget=Budget(tokens=24, interval=8), scorer=Recency())
        policy = healthy.with_(scorer=Poisoned(72))  # the end of a pass over the long prompt
    else:
        healthy = presets.skipkv(24, interval=8)
        policy = healthy.with_(segmenter=Picky())
    long = [9] * 36 + said("seven") + [9] * 40
    sizes = [([9] * 5, 30), ([9] * 3, 2), (long, 5), ([9] * 50, 4), ([9] * 33, 6)]
    requests = [
        Order(index=i, prompt=prompt, max_new_tokens=new) for i, (prompt, new) in enumerate(sizes)
    ]
    trace = EventLog()
    going = loop_of(model, policy, slots=2, chunk=chunk, observers=[trace])
    finished = {f.request.index: f for f in going.run(requests)}
    assert sorted(finished) == [0, 1, 2, 3, 4]
    assert finished[2].reason == "error"
    assert finished[2].tokens == []
    assert ("Poisoned" if broken_part == "scorer" else "no seven") in str(finished[2].error)
    well = decoded(model, healthy, requests[:2] + requests[3:], slots=2, chunk=chunk)
    assert {(i, 0): what_came_of(f, trace) for i, f in finished.items() if i != 2} == well


def test_a_stream_closed_while_a_prompt_is_being_read_leaves_the_model_as_it_was(
    model: PreTrainedModel,
) -> None:
    def state() -> tuple[Any, ...]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        return model.config._attn_implementation, hooks

    before = state()
    engine = Engine(
        model, toy_tokenizer(), POLICIES["skipkv, steered"], batch_size=2, prefill_chunk=1
    )
    prompts = [[9] * 3, [9] * 300]
    stream = engine.generate(prompts, max_new_tokens=2, ordered=False)
    assert next(stream).prompt_tokens == 3  # of the other prompt two tokens or so are in
    assert state() == before
    stream.close()
    assert state() == before


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_sequences_lie_side_by_side_those_that_decode_in_front_whoever_comes_and_goes(
    model: PreTrainedModel, data: st.DataObject
) -> None:
    session = Session(model, POLICIES["skipkv, steered"], sequences=4, text=TEXT)
    store = session.store
    decoding: set[int] = set()
    reading: set[int] = set()
    for mark in range(1, 15):
        alive = len(decoding) + len(reading)
        assert session.decoding == len(decoding)
        order = store.tokens_seen[:alive]
        assert store.groups[0].keys[0, :alive, 0, 0, 0].tolist() == order
        assert [s.prompt_tokens for s in session.sequences] == order
        assert [s.lane for s in session.sequences] == list(range(alive))
        assert set(order[: len(decoding)]) == decoding
        assert set(order[len(decoding) :]) == reading
        choices = ["start"] * (alive < 4) + ["join"] * bool(reading) + ["stop"] * bool(alive)
        choice = data.draw(st.sampled_from(choices))
        if choice == "start":
            number = session.start(Decoded(prompt_tokens=mark)).lane
            assert number == alive
            store.groups[0].keys[:, number] = mark
            store.tokens_seen[number] = mark
            reading.add(mark)
        elif choice == "join":
            number = data.draw(st.integers(len(decoding), alive - 1))
            session.join(session.sequences[number])
            reading.remove(order[number])
            decoding.add(order[number])
        else:
            number = data.draw(st.integers(0, alive - 1))
            session.stop(session.sequences[number])
            reading.discard(order[number])
            decoding.discard(order[number])
