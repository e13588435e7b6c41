"""OpenAI's API over HTTP, asked by OpenAI's own client."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from torch import Tensor
from transformers import LlamaConfig

from skipkv import Budget, CacheView, Completion, Engine, Policy, Sampling, presets
from skipkv.errors import ConfigError, InputError, ServerClosedError
from skipkv.integrations.serve import HttpServer, Limits
from skipkv.models import random_model
from skipkv.testing import toy_model, toy_tokenizer

SECONDS = 60  # no test waits so long unless it fails
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{{ end | default('<think>') }}"
WORDS = ["one", "plus", "two", "minus", "three", "so", "then", "let", "me", "check"]


def engine_of(policy: Policy, *, chat: bool = True, **options: Any) -> Engine:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = TEMPLATE if chat else None
    return Engine(toy_model(seed=3, eos=options.pop("eos", True)), tokenizer, policy, **options)


def client_of(server: HttpServer, **options: Any) -> OpenAI:
    options = {"api_key": "none", "max_retries": 0, "timeout": SECONDS, **options}
    return OpenAI(base_url=server.url, **options)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(presets.rkv(24, interval=8), batch_size=4)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[HttpServer]:
    full = Engine(engine.model, engine.tokenizer, presets.full(), batch_size=2)
    with HttpServer({"rkv": engine, "full": full}, name="toy", port=0) as server:
        yield server


@pytest.fixture
def client(server: HttpServer) -> OpenAI:
    return client_of(server)


def generated(engine: Engine, prompt: Any, **settings: Any) -> Completion:
    [completion] = engine.generate([prompt], **settings)
    return completion


def said(stream: Any) -> dict[tuple[int, str], str]:
    """The text of a stream of chat pieces, by choice and field."""
    texts: dict[tuple[int, str], str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            for field in ("content", "reasoning_content"):
                text = getattr(choice.delta, field, None) or ""
                texts[choice.index, field] = texts.get((choice.index, field), "") + text
    return texts


def test_32_streams_at_once_give_the_texts_of_generate(engine: Engine, server: HttpServer) -> None:
    prompts = [" ".join(WORDS[i % 9 :] + WORDS[: i % 5]) for i in range(32)]
    settings: dict[str, Any] = {"temperature": 1.2, "top_p": 0.9}

    async def ask(client: AsyncOpenAI, number: int) -> str:
        stream = await client.completions.create(
            model="toy",
            prompt=prompts[number],
            max_tokens=16,
            seed=number,
            stop="so",
            stream=True,
            **settings,
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def ask_all() -> Sequence[str]:
        async with AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(32)))

    expected = engine.generate(
        prompts,
        max_new_tokens=16,
        sampling=Sampling(**settings),
        stop="so",
        seeds=range(32),
    )
    assert asyncio.run(ask_all()) == [completion.text for completion in expected]


def test_a_completion_has_samples_reasons_and_numbers_of_tokens(
    engine: Engine, client: OpenAI
) -> None:
    reply = client.completions.create(
        model="toy", prompt=["one", "two"], n=2, temperature=1.5, seed=7, max_tokens=12
    )
    sampling = Sampling(temperature=1.5, n=2)
    expected = list(
        engine.generate(["one", "two"], max_new_tokens=12, sampling=sampling, seeds=[7, 7])
    )
    assert [choice.text for choice in reply.choices] == [done.text for done in expected]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    reasons = {"length": "length", "eos": "stop"}
    assert [c.finish_reason for c in reply.choices] == [reasons[d.stop_reason] for d in expected]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == expected[0].prompt_tokens + expected[2].prompt_tokens
    assert reply.usage.completion_tokens == sum(done.stats.new_tokens for done in expected)


def test_a_policy_may_be_named_and_the_reply_says_what_it_did(client: OpenAI) -> None:
    evicted = {}
    for policy in ("rkv", "full"):
        reply = client.completions.create(
            model="toy",
            prompt="one",
            max_tokens=40,
            temperature=2.0,
            seed=1,
            extra_body={"policy": policy},
        )
        what = reply.choices[0].skipkv  # type: ignore[attr-defined]
        assert (what["policy"], what["seed"]) == (policy, 1)
        evicted[policy] = what["evicted"]
    assert evicted["rkv"] > evicted["full"] == 0


def test_a_chat_has_its_thinking_apart_streamed_or_not(engine: Engine, client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "one plus two"}]
    asked: dict[str, Any] = {"model": "toy", "messages": messages, "max_tokens": 40, "n": 2}
    asked |= {"temperature": 2.0, "seed": 2}
    reply = client.chat.completions.create(**asked)
    texts = said(client.chat.completions.create(**asked, stream=True))
    sampling = Sampling(temperature=2.0, n=2, seed=2)
    done = engine.generate([messages], max_new_tokens=40, sampling=sampling)
    both = set()
    for choice, completion in zip(reply.choices, done, strict=True):
        answer, thinking = choice.message.content, choice.message.reasoning_content  # type: ignore[attr-defined]
        assert (answer or "").rstrip() == (completion.answer or "")
        assert thinking == completion.thinking
        assert texts[choice.index, "content"] == answer
        assert texts[choice.index, "reasoning_content"] == thinking
        both.add(bool(answer))
    assert both == {True, False}, "one was to end its thinking, the other not"


def test_a_stream_ends_with_its_usage_where_asked(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "one"}],
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"chat_template_kwargs": {"end": "so"}},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices].count(None) == len(chunks) - 2
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 5


def test_without_a_seed_samples_differ_and_the_reply_has_the_seed(
    engine: Engine, client: OpenAI
) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": "one", "max_tokens": 30, "temperature": 2.0}
    choices = [client.completions.create(**asked).choices[0] for _ in range(2)]
    assert choices[0].text != choices[1].text
    for choice in choices:
        seed = choice.skipkv["seed"]  # type: ignore[attr-defined]
        sampling = Sampling(temperature=2.0, seed=seed)
        assert generated(engine, "one", max_new_tokens=30, sampling=sampling).text == choice.text


def test_without_a_seed_equal_prompts_of_a_request_get_samples_of_their_own(
    engine: Engine, client: OpenAI
) -> None:
    asked: dict[str, Any] = {"model": "toy", "max_tokens": 30, "temperature": 2.0}
    choices = client.completions.create(prompt=["one"] * 3, n=2, **asked).choices
    assert len({choice.text for choice in choices}) == 6
    for number, choice in enumerate(choices):
        sampling = Sampling(temperature=2.0, n=2, seed=choice.skipkv["seed"])  # type: ignore[attr-defined]
        whole = engine.generate(["one"], max_new_tokens=30, sampling=sampling)
        assert [c.text for c in whole][number % 2] == choice.text


def byte_engine(tmp_path: Path) -> Engine:
    """An engine whose tokens are single bytes, so that characters are split into several."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=1, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model, tokenizer = random_model(tmp_path / "config.json")
    return Engine(model, tokenizer, presets.full(), eos_token_ids=[])


def test_characters_split_over_tokens_come_whole(tmp_path: Path) -> None:
    engine = byte_engine(tmp_path)
    with HttpServer(engine, name="bytes", port=0) as server:
        asked: dict[str, Any] = {"temperature": 1.0, "seed": 2, "max_tokens": 60}
        stream = client_of(server).completions.create(
            model="bytes", prompt="déjà vu 🙂", stream=True, **asked
        )
        pieces = [chunk.choices[0].text for chunk in stream]
    sampling = Sampling(temperature=1.0, seed=2)
    text = generated(engine, "déjà vu 🙂", max_new_tokens=60, sampling=sampling).text
    assert "".join(pieces) == text
    assert not text.isascii()


@attrs.frozen
class Gate:
    """Scores by recency; holds the decoding thread at events until it is opened."""

    reached: threading.Event = attrs.field(factory=threading.Event)
    opened: threading.Event = attrs.field(factory=threading.Event)

    def score(self, view: CacheView) -> Tensor:
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return view.positions.float()


LONG = {"prompt": [9] * 10, "max_tokens": 30_000}


def gated(limits: Limits | None = None, **options: Any) -> tuple[Gate, HttpServer]:
    gate = Gate()
    policy = Policy(budget=Budget(tokens=16, interval=8, window=4), scorer=gate)
    engine = engine_of(policy, eos=False, batch_size=1)
    return gate, HttpServer(engine, name="toy", port=0, limits=limits, **options)


def metrics(server: HttpServer) -> dict[str, float]:
    text = _get(server, "/metrics")[1].decode()
    found = re.findall(r'^skipkv_(\w+?)(?:\{.*?(?:reason|status)?="(\w+)"\})? (\S+)$', text, re.M)
    return {f"{name} {label}": float(value) for name, label, value in found}


def _get(server: HttpServer, path: str) -> tuple[int, bytes]:
    return _exchange(
        server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )


def _post(server: HttpServer, path: str, body: bytes, *headers: str) -> tuple[int, bytes]:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *(headers or ("Content-Type: application/json",)),
    ]
    return _exchange(server, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def _exchange(server: HttpServer, raw: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(raw)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_lane_at_the_next_pass(stream: bool) -> None:
    gate, server = gated()
    body = json.dumps({**LONG, "stream": stream}).encode()
    with server:
        connection = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert gate.reached.wait(SECONDS)
        connection.close()
        gate.opened.set()
        # the only lane is taken until the other one is cancelled
        reply = client_of(server).completions.create(model="toy", prompt=[9], max_tokens=3)
        assert reply.choices[0].finish_reason == "length"
        assert metrics(server)["sequences_total cancelled"] == 1


def test_a_full_queue_is_answered_with_429_and_health_goes_on() -> None:
    gate, server = gated(Limits(queue=1))
    with server:
        client = client_of(server)
        first = client.completions.create(**LONG, model="toy", stream=True)
        assert gate.reached.wait(SECONDS)
        second = client.completions.create(**LONG, model="toy", stream=True)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="toy", prompt="one", max_tokens=3)
        assert refused.value.response.headers["retry-after"] == "1"
        assert refused.value.code == "queue_full"
        assert _get(server, "/health")[0] == 200
        assert metrics(server)["waiting default"] == 1
        with pytest.raises(openai.BadRequestError, match="Send fewer prompts at once"):
            client.completions.create(model="toy", prompt=["one", "two"])
        gate.opened.set()
        first.close()
        second.close()


def test_a_burst_as_large_as_clients_send_is_not_refused() -> None:
    gate, server = gated()
    with server:
        client = client_of(server)
        streams = [client.completions.create(**LONG, model="toy", stream=True)]
        assert gate.reached.wait(SECONDS)
        many: Any = {"model": "toy", "prompt": ["one"] * 16, "max_tokens": 3, "stream": True}
        streams += [client.completions.create(**many) for _ in range(12)]
        assert metrics(server)["waiting default"] == 192
        gate.opened.set()
        for stream in streams:
            stream.close()


def test_a_messages_name_changes_nothing_where_the_template_does_not_read_it() -> None:
    engine = engine_of(presets.full())
    plain = {"role": "user", "content": "one plus two"}
    for template, read in ((TEMPLATE, False), ("{{ messages[0].name }} " + TEMPLATE, True)):
        engine.tokenizer.chat_template = template
        with HttpServer(engine, name="toy", port=0) as server:
            tokens = [
                client_of(server)
                .chat.completions.create(model="toy", messages=[message], max_tokens=1)
                .usage.prompt_tokens
                for message in ({**plain, "name": "wait"}, {**plain, "name": "so wait so"})
            ]
        assert (tokens[0] != tokens[1]) is read


def test_a_request_that_takes_too_long_is_ended_and_says_so() -> None:
    gate, server = gated(Limits(seconds=1))
    with server:
        client = client_of(server)
        with pytest.raises(openai.APIStatusError) as refused:
            client.completions.create(**LONG, model="toy")
        assert refused.value.status_code == 408
        with pytest.raises(openai.APIError, match="not done within the 1 seconds"):
            list(client.completions.create(**LONG, model="toy", stream=True))
        gate.opened.set()


@attrs.frozen
class Breaks:
    """Returns NaN."""

    def score(self, view: CacheView) -> Tensor:
        return view.positions.float() * float("nan")


def test_a_part_that_breaks_is_told_and_the_server_goes_on() -> None:
    policy = Policy(budget=Budget(tokens=16, interval=8, window=4), scorer=Breaks())
    with HttpServer(engine_of(policy, eos=False), name="toy", port=0) as server:
        client = client_of(server)
        with pytest.raises(openai.InternalServerError, match="NaN"):
            client.completions.create(**LONG, model="toy")
        with pytest.raises(openai.APIError, match="NaN"):
            list(client.completions.create(**LONG, model="toy", stream=True))
        reply = client.completions.create(model="toy", prompt=[9], max_tokens=3)
        assert reply.choices[0].finish_reason == "length"


def test_stopping_ends_what_runs_after_the_grace_and_says_so() -> None:
    gate, server = gated(Limits(grace=0))
    with server:
        stream = client_of(server).completions.create(**LONG, model="toy", stream=True)
        assert gate.reached.wait(SECONDS)
        server.stop()
        gate.opened.set()
        with pytest.raises(openai.APIError, match="The server is stopping"):
            list(stream)
    with pytest.raises(OSError, match="refused"):
        _get(server, "/health")
    with pytest.raises(ServerClosedError, match="serves once"), server:
        pass


def test_requests_that_run_have_the_grace_to_end(engine: Engine) -> None:
    with HttpServer(engine, name="toy", port=0) as server:
        stream = client_of(server).completions.create(
            model="toy", prompt="one", max_tokens=400, stream=True, temperature=0
        )
        next(iter(stream))
        server.stop()
        list(stream)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "part"),
    [
        ("/v1/completions", b"{}", ("Content-Type: text/plain",), 415, "application/json"),
        ("/v1/completions", b"x" * (2**20 + 1), (), 413, "1048576 bytes"),
        ("/v1/completions", b"\xff\xfe{{{", (), 400, "not JSON"),
        ("/v1/completions", b'{"prompt": ""}', (), 400, "is empty"),
        ("/v1/completions", b'{"prompt": [999]}', (), 400, "token id 999"),
        ("/v1/completions", b'{"prompt": "one", "model": "gpt"}', (), 404, "It has 'toy'"),
        ("/v1/completions", b'{"prompt": "one", "policy": "x"}', (), 400, "It has: rkv, full"),
        ("/v1/completions", b'{"prompt": "one", "n": 99, "temperature": 1}', (), 400, "allows 16"),
        ("/v1/completions", b'{"prompt": "one", "max_tokens": 99999}', (), 400, "positions"),
        ("/v1/completions", '{"prompt": "日本語のテキスト"}'.encode(), (), 400, "does not know"),
        ("/v1/completions", b'{"prompt": "one", "top_p": 0.5}', (), 400, "Give a temperature"),
        ("/v1/chat/completions", b'{"messages": [{"content": "a"}]}', (), 400, "has no role"),
        ("/v1/embeddings", b"{}", (), 404, "no POST /v1/embeddings"),
        ("/health", b"{}", (), 405, "no POST /health"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_openais_shape(
    server: HttpServer, path: str, body: bytes, headers: tuple[str, ...], status: int, part: str
) -> None:
    answered, raw = _post(server, path, body, *headers)
    error = json.loads(raw)["error"]
    assert (answered, set(error)) == (status, {"message", "type", "param", "code"})
    assert part in error["message"]


def test_a_body_in_pieces_is_measured_as_it_comes(server: HttpServer) -> None:
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert _exchange(server, head + piece * 17 + b"0\r\n\r\n")[0] == 413


def test_a_body_that_does_not_come_is_not_waited_for(engine: Engine) -> None:
    with HttpServer(engine, port=0, limits=Limits(body_seconds=1)) as server:
        raw = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        answer = _exchange(server, raw + b"Content-Type: application/json\r\n\r\n{")
        assert answer[0] == 408
        assert _get(server, "/health")[0] == 200


def test_a_chat_without_a_template_is_refused() -> None:
    engine = engine_of(presets.full(), chat=False)
    with (
        HttpServer(engine, name="toy", port=0) as server,
        pytest.raises(openai.BadRequestError, match="chat template"),
    ):
        client_of(server).chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "one"}]
        )


def test_a_message_that_the_template_leaves_out_is_refused() -> None:
    engine = engine_of(presets.full())
    engine.tokenizer.chat_template = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'].split('so')[-1] | trim }}"
        "{% endfor %}"
    )
    with HttpServer(engine, name="toy", port=0) as server:

        def ask(*pairs: tuple[str, str]) -> Any:
            messages: Any = [{"role": role, "content": text} for role, text in pairs]
            create = client_of(server).chat.completions.create
            return create(model="toy", messages=messages, max_tokens=3)

        with pytest.raises(openai.BadRequestError, match=r"message 0, of the role 'system'"):
            ask(("system", "one"), ("user", "two"))
        assert ask(("user", " two "), ("assistant", "plus so one"), ("user", "six")).choices


def test_with_a_key_only_those_who_send_it_are_answered(engine: Engine) -> None:
    with HttpServer(engine, name="toy", port=0, api_key="secret") as server:
        assert _get(server, "/health")[0] == 200
        assert client_of(server, api_key="secret").models.list().data
        for wrong in ("none", "secret2", "secre"):
            with pytest.raises(openai.AuthenticationError, match="Authorization"):
                client_of(server, api_key=wrong).models.list()
        head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        assert _exchange(server, head + b"Authorization: Bearer s\xe9cret\r\n\r\n")[0] == 401


def test_models_name_the_one_there_is_and_its_policies(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.policies) == ("toy", ["rkv", "full"])  # type: ignore[attr-defined]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt/4'"):
        client.models.retrieve("gpt/4")


def test_a_limit_of_tokens_is_kept_also_where_a_request_says_nothing(engine: Engine) -> None:
    with HttpServer(
        engine_of(presets.full(), eos=False), port=0, limits=Limits(tokens=7)
    ) as server:
        client = client_of(server)
        reply = client.completions.create(model="skipkv", prompt="one")
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 7
        with pytest.raises(openai.BadRequestError, match="allows 7"):
            client.completions.create(model="skipkv", prompt="one", max_tokens=8)


def test_a_request_that_says_nothing_is_decoded_to_the_models_last_position() -> None:
    engine = engine_of(presets.full(), eos=False)
    engine.model.config.max_position_embeddings = 20
    with HttpServer(engine, port=0, limits=Limits(tokens=500)) as server:
        reply = client_of(server).completions.create(model="skipkv", prompt=[9] * 8)
    assert reply.usage is not None
    assert reply.usage.total_tokens == 20


def test_metrics_have_the_entries_that_sequences_hold_while_they_decode() -> None:
    gate, server = gated()
    heads = 2 * 2
    with server:
        stream = client_of(server).completions.create(**LONG, model="toy", stream=True)
        assert gate.reached.wait(SECONDS)
        held = metrics(server)
        assert (held["lanes_busy default"], held["lanes default"]) == (1, 1)
        assert heads * 16 <= held["entries_held default"] <= heads * (16 + 8)
        gate.opened.set()
        pieces = iter(stream)
        for _ in range(100):
            next(pieces)
        later = metrics(server)
        assert later["entries_held default"] <= heads * (16 + 8 + 16)
        assert later["evicted_entries_total default"] > 0
        assert later["events_total default"] > 0
        assert later["tokens_per_second default"] > 0
        assert later["generated_tokens_total default"] >= 100
        stream.close()


def test_an_address_that_is_taken_and_engines_that_do_not_fit_are_refused(engine: Engine) -> None:
    with (
        HttpServer(engine, port=0) as server,
        pytest.raises(InputError, match=rf"port {server.port}: .*in use.* Choose another"),
    ):
        HttpServer(engine, port=server.port)
    with pytest.raises(InputError, match="Cannot listen on nowhere"):
        HttpServer(engine, host="nowhere.invalid", port=0)
    with pytest.raises(ConfigError, match="must hold an engine"):
        HttpServer({})
    with pytest.raises(ConfigError, match="engines of one model"):
        HttpServer({"a": engine, "b": engine_of(presets.full())}, port=0)
    with pytest.raises(ConfigError, match="must not be blank"):
        HttpServer(engine, port=0, api_key=" ")
    with pytest.raises(ConfigError, match="queue=0"):
        Limits(queue=0)
