"""The body of a request is used, or refused by the name of a field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv import Sampling
from skipkv.integrations.serve.body import Body
from skipkv.integrations.serve.refusal import Refusal

CHAT = {"messages": [{"role": "user", "content": "one"}]}
TEXT = {"prompt": "one"}


def read(fields: Any, *, chat: bool) -> Body:
    return Body.read(json.dumps(fields).encode(), chat=chat)


def test_what_a_client_leaves_out_or_sends_as_null_is_what_the_server_decides() -> None:
    body = read({**CHAT, "temperature": None, "tools": None, "stop": None}, chat=True)
    assert (body.n, body.seed, body.stop, body.max_tokens, body.stream) == (
        1,
        None,
        (),
        None,
        False,
    )
    own = Sampling(temperature=0.6, top_p=0.95, top_k=20)
    assert body.sampling_of(own, 5) == Sampling(temperature=0.6, top_p=0.95, top_k=20, seed=5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, Sampling(seed=5)),
        ({"temperature": 1.0, "seed": 3}, Sampling(temperature=1.0, top_p=0.95, seed=3)),
        ({"top_p": 0.5, "n": 2}, Sampling(temperature=0.6, top_p=0.5, n=2, seed=5)),
    ],
)
def test_what_a_request_gives_replaces_the_models_sampling(
    fields: dict[str, Any], expected: Sampling
) -> None:
    own = Sampling(temperature=0.6, top_p=0.95)
    assert read({**CHAT, **fields}, chat=True).sampling_of(own, 5) == expected


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read({**TEXT, "n": 2, "temperature": 0}, chat=False).sampling_of(Sampling(), 0)
    assert (refused.value.status, "equal samples" in refused.value.message) == (400, True)


@pytest.mark.parametrize(
    ("fields", "chat", "param", "part"),
    [
        ({**CHAT, "temprature": 1}, True, "temprature", "Unknown field 'temprature'"),
        ({**CHAT, "prompt": "one"}, True, "prompt", "Unknown field"),
        ({**TEXT, "messages": []}, False, "messages", "Unknown field"),
        ({**CHAT, "tools": [{}]}, True, "tools", "may be left out, or be []"),
        ({**CHAT, "logprobs": True}, True, "logprobs", "be False"),
        ({**CHAT, "response_format": {"type": "json_object"}}, True, "response_format", "text"),
        ({**CHAT, "reasoning_effort": "low"}, True, "reasoning_effort", "or be null"),
        ({**TEXT, "frequency_penalty": 0.5}, False, "frequency_penalty", "be 0"),
        ({**TEXT, "echo": True}, False, "echo", "not supported"),
        ({**TEXT, "n": 0}, False, "n", "at least 1, got 0"),
        ({**TEXT, "n": True}, False, "n", "got True"),
        ({**TEXT, "seed": -1}, False, "seed", "at least 0"),
        ({**TEXT, "temperature": "hot"}, False, "temperature", "a number, got 'hot'"),
        ({**TEXT, "max_tokens": 1.5}, False, "max_tokens", "a whole number"),
        ({**TEXT, "stop": [""]}, False, "stop", "none of them empty"),
        ({**TEXT, "stop": 3}, False, "stop", "a string"),
        ({**TEXT, "stream": "yes"}, False, "stream", "true or false"),
        ({**TEXT, "stream_options": {"include_usage": True}}, False, "stream_options", "stream"),
        (
            {**TEXT, "stream": True, "stream_options": {"x": 1}},
            False,
            "stream_options",
            "has no 'x'",
        ),
        ({**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, True, "max_tokens", "differ"),
        (
            {**CHAT, "chat_template_kwargs": {"chat_template": "{{ messages }}"}},
            True,
            "chat_template_kwargs",
            "the server has its model's",
        ),
        ({}, True, "messages", "at least one message, got None"),
        ({"messages": "hi"}, True, "messages", "a list"),
        ({"messages": ["hi"]}, True, "messages[0]", "an object with role and content"),
        ({"messages": [{"role": "user", "audio": {}}]}, True, "messages[0]", "audio"),
        ({"prompt": [1, "a"]}, False, "prompt", "token ids"),
        ({"prompt": [[1], [-2]]}, False, "prompt", "token ids"),
        ({"prompt": []}, False, "prompt", "token ids"),
    ],
)
def test_a_field_that_cannot_be_is_named(
    fields: dict[str, Any], chat: bool, param: str, part: str
) -> None:
    with pytest.raises(Refusal) as refused:
        read(fields, chat=chat)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert part in refused.value.message


def test_fields_that_change_nothing_are_accepted() -> None:
    unused = {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "tool_choice": "none"}
    assert read({**CHAT, **unused, "presence_penalty": 0}, chat=True).n == 1


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("one", 1), (["one", "two"], 2), ([3, 4], 1), ([[3], [4, 5], [6]], 3)],
)
def test_prompts_are_texts_or_token_ids(prompt: Any, count: int) -> None:
    assert len(read({"prompt": prompt}, chat=False).prompts) == count


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b"3",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "one", "seed": 3, "seed": 4}',
    ],
)
def test_what_is_no_json_object_of_text_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal, match="The body") as refused:
        Body.read(raw, chat=False)
    assert refused.value.status == 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
NAMES = ["messages", "prompt", "n", "stop", "seed", "stream", "stream_options", "temperature"]
NAMES += ["max_tokens", "tools", "logit_bias", "chat_template_kwargs", "policy", "x"]


@given(fields=st.dictionaries(st.sampled_from(NAMES), values), chat=st.booleans())
def test_whatever_the_body_it_is_read_or_refused(fields: dict[str, Any], chat: bool) -> None:
    told = None
    try:
        Body.read(json.dumps(fields).encode(), chat=chat).sampling_of(Sampling(), 0)
    except Refusal as refusal:
        told = refusal
    assert told is None or (told.status == 400 and told.message)
