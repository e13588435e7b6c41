"""Requests come and go in a server while others decode; each gives what `generate` gives."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import skipkv
from skipkv import (
    Budget,
    CacheView,
    Completion,
    Engine,
    Handle,
    Observer,
    Policy,
    Prompt,
    Sampling,
    presets,
)
from skipkv.errors import (
    ConfigError,
    DecodingError,
    InputError,
    PartError,
    QueueFullError,
    ServerClosedError,
    SkipKVError,
)
from skipkv.runtime.results.streaming import TextStream
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a", "wait. so b is the sum of c"]
SECONDS = 60  # no test waits so long unless it fails


def engine_of(policy: Policy, *, eos: bool = True, **options: Any) -> Engine:
    return Engine(toy_model(eos=eos, seed=3), toy_tokenizer(), policy, **options)


def what(completion: Completion) -> tuple[Any, ...]:
    stats = attrs.evolve(completion.stats, seconds=0.0, padding=0, peak_kv_bytes=0)
    return completion.tokens, completion.text, completion.stop_reason, stats


@attrs.frozen
class Gate:
    """Scores by recency; holds the decoding thread at events until it is opened."""

    reached: threading.Event = attrs.field(factory=threading.Event)
    opened: threading.Event = attrs.field(factory=threading.Event)

    def score(self, view: CacheView) -> Tensor:
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return view.positions.float()


def gated(*, batch_size: int = 1) -> tuple[Gate, Engine]:
    """An engine whose first request, once it has 17 tokens, decodes no further for now."""
    gate = Gate()
    policy = Policy(budget=Budget(tokens=16, interval=8, window=4), scorer=gate)
    return gate, Engine(toy_model(), toy_tokenizer(), policy, batch_size=batch_size)


requests = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(PROMPTS),
        "max_new_tokens": st.integers(1, 40),
        "sampling": st.sampled_from([Sampling(), Sampling(temperature=1.5, top_k=20)]),
        "stop": st.lists(st.sampled_from(["so", "n", ".\n\n", "is the"]), max_size=2),
        "seed": st.integers(0, 3),
        "cancelled": st.booleans(),
    }
)


@settings(max_examples=15)
@given(
    drawn=st.lists(requests, min_size=1, max_size=7),
    batch_size=st.integers(1, 3),
    name=st.sampled_from(["full", "rkv", "skipkv"]),
    threads=st.integers(1, 3),
)
def test_a_request_gives_the_tokens_of_generate_whatever_else_is_asked_for_and_cancelled(
    drawn: list[dict[str, Any]], batch_size: int, name: str, threads: int
) -> None:
    policy = presets.full() if name == "full" else presets.get(name)(24, interval=8)
    engine = engine_of(policy, batch_size=batch_size)
    handles: dict[int, Handle] = {}

    def submit(numbers: Sequence[int]) -> None:
        for number in numbers:
            request = {k: v for k, v in drawn[number].items() if k != "cancelled"}
            handles[number] = server.submit(**request)
            if drawn[number]["cancelled"]:
                handles[number].cancel()

    with engine.serve() as server:
        users = [
            threading.Thread(target=submit, args=(range(i, len(drawn), threads),))
            for i in range(threads)
        ]
        for user in users:
            user.start()
        texts = {}
        for user in users:
            user.join()
        for number, handle in handles.items():
            texts[number] = "".join(handle)
    for number, request in enumerate(drawn):
        done = handles[number].result(timeout=0)
        assert texts[number] == done.text
        [expected] = engine.generate(
            [request["prompt"]],
            max_new_tokens=request["max_new_tokens"],
            sampling=request["sampling"],
            stop=request["stop"],
            seeds=[request["seed"]],
        )
        if done.stop_reason == "cancelled":
            assert request["cancelled"]
            assert done.tokens == expected.tokens[: len(done.tokens)]
        else:
            assert what(done) == what(expected)


def test_samples_of_one_prompt_are_those_of_generate() -> None:
    engine = engine_of(presets.rkv(24, interval=8), batch_size=4)
    sampling = Sampling(temperature=1.5, n=3, seed=5)
    with engine.serve() as server:
        handles = server.submit_samples("one plus two", max_new_tokens=30, sampling=sampling)
    done = [handle.result() for handle in handles]
    expected = list(engine.generate(["one plus two"], max_new_tokens=30, sampling=sampling))
    assert [what(c) for c in done] == [what(c) for c in expected]
    assert [(c.index, c.sample) for c in done] == [(h.index, h.sample) for h in handles]


def test_a_stream_and_a_server_are_told_all_that_generate_is() -> None:
    engine = engine_of(presets.rkv(24, interval=8))
    engine.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}{{ end | default('') }}{% endif %}"
    )
    chat = [[{"role": "user", "content": "so b is the sum of c"}]]
    told: dict[str, Any] = {
        "max_new_tokens": 30,
        "sampling": Sampling(temperature=1.2, n=2),
        "stop": "er",
        "chat_template_kwargs": {"end": "then two "},
        "prefix": [{"role": "user", "content": "one plus two is three"}],
    }
    expected = list(engine.generate(chat, seeds=[7], trace=True, **told))
    pieces = list(engine.stream(chat, seeds=[7], trace=True, **told))
    streamed = [piece.completion for piece in pieces if piece.completion is not None]
    with engine.serve(trace=True) as server:
        handles = server.submit_samples(chat[0], seed=7, **told)
        one = server.submit(chat[0], seed=7, **{**told, "sampling": Sampling(temperature=1.2)})
        served = [handle.result(SECONDS) for handle in handles]
    for found in (sorted(streamed, key=lambda done: done.sample), served):
        assert [what(done) for done in found] == [what(done) for done in expected]
        assert [len(done.trace or ()) for done in found] == [len(d.trace or ()) for d in expected]
    assert what(one.result(SECONDS)) == what(expected[0])
    # each of these settings makes a difference
    for name in ("stop", "sampling", "chat_template_kwargs", "prefix"):
        less = {key: value for key, value in told.items() if key != name}
        others = list(engine.generate(chat, seeds=[7], **less))
        assert [done.tokens for done in others] != [done.tokens for done in expected]
    assert any(done.trace for done in expected)


def test_a_newcomer_starts_in_a_free_lane_while_others_decode() -> None:
    gate, engine = gated(batch_size=2)
    with engine.serve() as server:
        first = server.submit([9] * 15, max_new_tokens=500)
        assert gate.reached.wait(SECONDS)
        second = server.submit("two", max_new_tokens=5)
        gate.opened.set()
        assert second.result(SECONDS).stats.new_tokens == 5
        assert not first.done()
        first.cancel()


def test_text_comes_while_the_request_is_decoded_and_every_iteration_has_all_of_it() -> None:
    gate, engine = gated()
    with engine.serve() as server:
        handle = server.submit([9] * 10, max_new_tokens=20)
        early = iter(handle)
        pieces = [next(early)]
        assert gate.reached.wait(SECONDS)
        assert not handle.done()
        gate.opened.set()
        pieces += early
        assert "".join(pieces) == "".join(handle) == handle.result().text


def test_no_reader_sees_the_tokens_of_a_stop_string_before_the_completion() -> None:
    """Where the string begins inside a special token, they alone do not say where the text ends."""
    engine = engine_of(presets.full(), eos=False)
    [whole] = engine.generate(["one plus two is three"], max_new_tokens=60)
    mark = whole.tokens.index(engine.tokenizer.convert_tokens_to_ids("</think>"))
    stop = "k>" + engine.tokenizer.decode(whole.tokens[mark + 1])[:1]
    read: list[str] = []
    submitted = threading.Event()

    class Reads(Observer):
        def on_completion(self, completion: Completion) -> None:
            assert submitted.wait(SECONDS)
            tokens, _ = handle.since(0)
            read.append(TextStream(engine.tokenizer, stop=[stop]).feed(tokens))

    with engine.serve(observers=[Reads()]) as server:
        handle = server.submit("one plus two is three", max_new_tokens=60, stop=stop)
        submitted.set()
        done = handle.result(SECONDS)
        assert done.stop_reason == "stop_string"
        assert "".join(handle) == done.text == engine.tokenizer.decode(whole.tokens[:mark])
    assert done.text.startswith(read[0])


def test_requests_wait_for_a_lane_and_the_queue_is_bounded() -> None:
    gate, engine = gated()
    with engine.serve(queue=2) as server:
        running = server.submit([9] * 15, max_new_tokens=50)
        assert gate.reached.wait(SECONDS)
        waiting = [server.submit("two", max_new_tokens=5) for _ in range(2)]
        assert server.waiting == 2
        with pytest.raises(QueueFullError, match=r"2 requests wait already, 1 more.*holds 2"):
            server.submit("three", max_new_tokens=5, timeout=0)
        with pytest.raises(QueueFullError):
            server.submit("three", max_new_tokens=5, timeout=0.01)
        late: list[Handle] = []
        user = threading.Thread(
            target=lambda: late.append(server.submit("three", max_new_tokens=5))
        )
        user.start()
        assert not late
        gate.opened.set()
        user.join(SECONDS)
        [last] = late
        assert last.result(SECONDS).stop_reason == "length"
        assert all(handle.done() for handle in [running, *waiting])


def test_samples_enter_the_queue_together_or_not_at_all() -> None:
    gate, engine = gated()
    sampled = Sampling(temperature=1.0, n=3)
    with engine.serve(queue=3) as server:
        server.submit([9] * 15, max_new_tokens=50)
        assert gate.reached.wait(SECONDS)
        one = server.submit("two", max_new_tokens=5)
        with pytest.raises(QueueFullError, match="1 requests wait already, 3 more were asked for"):
            server.submit_samples("three", max_new_tokens=5, sampling=sampled, timeout=0)
        assert server.waiting == 1
        gate.opened.set()
        one.result(SECONDS)
        many = attrs.evolve(sampled, n=5)  # more than the queue ever holds
        handles = server.submit_samples("three", max_new_tokens=5, sampling=many)
        assert [handle.result(SECONDS).sample for handle in handles] == [*range(5)]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_cancelled_request_ends_with_what_it_has_and_the_others_go_on(state: str) -> None:
    gate, engine = gated()
    with engine.serve() as server:
        first = server.submit([9] * 15, max_new_tokens=50)
        assert gate.reached.wait(SECONDS)
        second = server.submit("two", max_new_tokens=5)
        cancelled, other = (second, first) if state == "waiting" else (first, second)
        cancelled.cancel()
        gate.opened.set()
        done = cancelled.result(SECONDS)
        assert done.stop_reason == "cancelled"
        assert done.stats.new_tokens == len(done.tokens) == (0 if state == "waiting" else 3)
        assert "".join(cancelled) == done.text
        assert other.result(SECONDS).stop_reason == "length"
        cancelled.cancel()  # nothing more comes of it


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_cancelled_sample_leaves_the_others_their_prompt(number: int) -> None:
    model = toy_model()
    engine = Engine(model, toy_tokenizer(), presets.rkv(24, interval=8), batch_size=4)
    sampling = Sampling(temperature=1.5, n=3, seed=5)
    prompt = [5 + i % 40 for i in range(90)]
    passed, going = threading.Event(), threading.Event()
    with engine.serve() as server:

        def wait(*_: Any) -> None:
            passed.set()
            assert going.wait(SECONDS)

        hook = model.register_forward_hook(wait)
        handles = server.submit_samples(prompt, max_new_tokens=20, sampling=sampling)
        try:
            assert passed.wait(SECONDS)  # in the middle of the prompt
            handles[number].cancel()
        finally:
            going.set()
            done = [handle.result(SECONDS) for handle in handles]
            hook.remove()
    expected = list(engine.generate([prompt], max_new_tokens=20, sampling=sampling))
    for handle, got, whole in zip(handles, done, expected, strict=True):
        if handle.sample == number:
            assert (got.stop_reason, got.tokens) == ("cancelled", ())
        else:
            assert what(got) == what(whole)


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": " "}, "Prompt 0 is empty"),
        ({"prompt": [10**6]}, "holds token id 1000000"),
        ({"prompt": "one", "max_new_tokens": 0}, "max_new_tokens must be"),
        ({"prompt": "one", "stop": [""]}, "empty string"),
        ({"prompt": "one", "sampling": {"temperature": -1}}, "temperature"),
        ({"prompt": "one", "sampling": {"temperature": 1, "n": 2}}, r"submit_samples\(\)"),
        ({"prompt": Prompt("one", seed=3), "seed": -1}, "seeds must hold whole numbers"),
    ],
)
def test_what_cannot_be_decoded_is_refused_and_the_server_goes_on(
    request_: dict[str, Any], message: str
) -> None:
    with engine_of(presets.full()).serve() as server:
        with pytest.raises(SkipKVError, match=message):
            server.submit(**request_)
        assert server.submit("one", max_new_tokens=3).result(SECONDS).stop_reason == "length"


class Poisoned:
    """Scores NaN for the sequences whose prompts had this length."""

    def score(self, view: CacheView) -> Tensor:
        scores = view.positions.float()
        scores[view.seen == 33] = torch.nan
        return scores


def test_a_part_that_breaks_on_a_request_is_told_to_its_handle_alone() -> None:
    policy = Policy(budget=Budget(tokens=24, interval=8), scorer=Poisoned())
    engine = engine_of(policy, batch_size=2)
    with engine.serve() as server:
        bad = server.submit([9] * 30, max_new_tokens=20)
        good = server.submit("one plus two", max_new_tokens=20)
        done = bad.result(SECONDS)
        assert done.stop_reason == "error"
        assert isinstance(done.error, PartError)
        with pytest.raises(PartError, match="Poisoned"):
            list(bad)
        assert good.result(SECONDS).error is None
        assert server.submit("one", max_new_tokens=3).result(SECONDS).error is None


def broken_once(model: PreTrainedModel, at: int, error: Exception) -> Callable[..., None]:
    """A hook that raises at the given call of the model."""
    calls = 0

    def hook(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    return hook


@pytest.mark.parametrize("at", [1, 2, 9])
def test_an_error_of_a_pass_ends_all_that_run_and_those_that_wait_are_decoded(at: int) -> None:
    model = toy_model()
    engine = Engine(model, toy_tokenizer(), presets.rkv(24, interval=8), batch_size=2)
    hook = model.register_forward_hook(broken_once(model, at, RuntimeError("out of luck")))
    with hook, engine.serve() as server:
        handles = [
            *server.submit_samples("one", max_new_tokens=30, sampling={"temperature": 1, "n": 2}),
            *server.submit_samples("two", max_new_tokens=30, sampling={"temperature": 1, "n": 2}),
        ]
        broken, well = handles[:2], handles[2:]
        for handle in broken:
            done = handle.result(SECONDS)
            assert done.stop_reason == "error"
            assert isinstance(done.error, DecodingError)
            assert "RuntimeError: out of luck" in str(done.error)
            assert "out of luck" in "".join(done.error.__notes__)  # its traceback
            assert len(done.tokens) == done.stats.new_tokens == max(at - 1, 0)
        expected = engine.generate(["two"], max_new_tokens=30, sampling={"temperature": 1, "n": 2})
        found = [handle.result(SECONDS) for handle in well]
    assert [what(c) for c in found] == [what(c) for c in expected]
    assert model.config._attn_implementation != "skipkv"


def test_a_server_whose_cache_cannot_be_allocated_says_so_to_all_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy_model()
    engine = Engine(model, toy_tokenizer(), presets.rkv(24, interval=8))
    with engine.serve() as server:
        # no cache has been made yet; a width that the weights do not have stands for no memory
        monkeypatch.setattr(model.config, "head_dim", -1)
        first = server.submit("one", max_new_tokens=3).result(SECONDS)
        assert first.stop_reason == "error"
        monkeypatch.undo()
        assert server.submit("one", max_new_tokens=3).result(SECONDS).error is None


def test_at_the_end_of_the_block_all_requests_are_decoded() -> None:
    with engine_of(presets.rkv(24, interval=8), batch_size=1).serve() as server:
        handles = [server.submit(prompt, max_new_tokens=20) for prompt in PROMPTS]
    assert all(handle.done() for handle in handles)
    assert {handle.result().stop_reason for handle in handles} <= {"length", "eos"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_block_cancels_all_requests(error: type[BaseException]) -> None:
    gate, engine = gated()
    handles: list[Handle] = []

    def body() -> None:
        with engine.serve() as server:
            handles.extend(server.submit([9] * 15, max_new_tokens=10**4) for _ in range(2))
            assert gate.reached.wait(SECONDS)
            gate.opened.set()
            raise error

    with pytest.raises(error):
        body()
    assert [handle.result(0).stop_reason for handle in handles] == ["cancelled"] * 2
    assert len(handles[1].result().tokens) == 0


def test_closing_may_cancel_and_is_done_once() -> None:
    with engine_of(presets.full(), eos=False).serve() as server:
        handle = server.submit([9] * 5, max_new_tokens=10**4)
        next(iter(handle))
        server.close(cancel=True)
        assert handle.result(0).stop_reason == "cancelled"
        server.close()
        with pytest.raises(ServerClosedError, match="The server is not open"):
            server.submit("one")


def test_a_submitter_that_waits_for_the_queue_is_told_when_the_server_closes() -> None:
    gate, engine = gated()
    told: list[BaseException] = []

    def submit() -> None:
        try:
            server.submit("two")
        except SkipKVError as error:
            told.append(error)

    with engine.serve(queue=1) as server:
        server.submit([9] * 15, max_new_tokens=30)
        assert gate.reached.wait(SECONDS)
        server.submit("two", max_new_tokens=3)
        user = threading.Thread(target=submit)
        user.start()
        closing = threading.Thread(target=server.close)
        closing.start()
        user.join(SECONDS)
        assert [type(error) for error in told] == [ServerClosedError]
        gate.opened.set()
        closing.join(SECONDS)


def test_a_server_takes_requests_in_its_block_only_and_serves_once() -> None:
    engine = engine_of(presets.full())
    server = engine.serve()
    with pytest.raises(ServerClosedError, match="inside its block"):
        server.submit("one")
    with server:
        pass
    with pytest.raises(ServerClosedError, match="inside its block"):
        server.submit("one")
    with pytest.raises(ServerClosedError, match="serves once"):
        server.__enter__()


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("queue", [0, -1, 2.5, "many"])
def test_a_queue_that_holds_nothing_is_refused(queue: Any) -> None:
    with pytest.raises(ConfigError, match=r"Engine.serve\(queue="):
        engine_of(presets.full()).serve(queue=queue)


def test_generate_in_other_threads_takes_turns_with_a_server() -> None:
    engine = engine_of(presets.rkv(24, interval=8), batch_size=2)
    expected = [what(c) for c in engine.generate(PROMPTS, max_new_tokens=30)]
    with engine.serve() as server:
        handles = [server.submit(p, max_new_tokens=30) for p in PROMPTS]
        meanwhile = [what(c) for c in engine.generate(PROMPTS, max_new_tokens=30)]
    assert meanwhile == expected
    assert [what(handle.result()) for handle in handles] == expected


def test_a_busy_server_does_not_keep_the_model_from_others() -> None:
    engine = engine_of(presets.rkv(24, interval=8), eos=False, batch_size=2)
    with engine.serve() as server:
        busy = server.submit("one", max_new_tokens=10**4)
        next(iter(busy))
        assert len(list(engine.generate(PROMPTS, max_new_tokens=9))) == len(PROMPTS)
        assert not busy.done()
        busy.cancel()


def test_while_a_policy_is_attached_requests_are_refused() -> None:
    engine = engine_of(presets.full())
    with skipkv.attach(engine.model, presets.full()) as attached:
        with pytest.raises(InputError, match=r"in use by skipkv.attach"):
            engine.serve()
        assert attached is not None
        engine.model(torch.tensor([[5]]))
    with engine.serve() as server:
        with skipkv.attach(engine.model, presets.full()):
            with pytest.raises(InputError, match=r"in use by skipkv.attach"):
                server.submit("one")
            engine.model(torch.tensor([[5]]))
        assert server.submit("one", max_new_tokens=2).result(SECONDS).error is None


def test_a_handle_says_when_waiting_was_too_short_and_what_it_is() -> None:
    gate, engine = gated()
    with engine.serve() as server:
        handle = server.submit([9] * 15, max_new_tokens=30)
        with pytest.raises(TimeoutError, match=r"Request 0 is not done after 0\.01 seconds"):
            handle.result(timeout=0.01)
        assert repr(handle) == "<Handle: prompt 0, sample 0, not done>"
        gate.opened.set()
        handle.result(SECONDS)
        assert repr(handle) == "<Handle: prompt 0, sample 0, length>"


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("timeout", ["3", float("nan"), True])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    with engine_of(presets.full()).serve() as server:
        with pytest.raises(InputError, match="timeout must be a number of seconds"):
            server.submit("one", max_new_tokens=3, timeout=timeout)
        handle = server.submit("one", max_new_tokens=3, timeout=float("inf"))
        with pytest.raises(InputError, match="timeout must be a number of seconds"):
            handle.result(timeout)
        assert handle.result(float("inf")).stop_reason == "length"


def test_a_watcher_that_raises_ends_no_request(caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()

    def breaks() -> None:
        raise ZeroDivisionError

    with engine_of(presets.full()).serve() as server:
        handles = [server.submit(prompt, max_new_tokens=20) for prompt in ("one", "two")]
        for handle in handles:
            handle.watch(breaks)
        reasons = {handle.result(SECONDS).stop_reason for handle in handles}
        assert reasons <= {"length", "eos"}
        handles[0].watch(called.set)  # it is done: nothing else would call it
        assert called.is_set()
        assert server.submit("one", max_new_tokens=2).result(SECONDS).error is None
    assert len(caplog.records) == 2  # once for each handle


def test_an_idle_server_does_nothing_and_leaves_the_model_as_it_was() -> None:
    engine = engine_of(presets.rkv(24, interval=8))
    before = engine.model.config._attn_implementation
    with engine.serve() as server:
        server.submit("one", max_new_tokens=3).result(SECONDS)
        used = time.process_time()
        threading.Event().wait(0.2)
        assert time.process_time() - used < 0.1
        assert engine.model.config._attn_implementation == before
