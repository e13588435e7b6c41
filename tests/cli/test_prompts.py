"""Reading prompts."""

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.cli.prompts import read_prompts
from skipkv.errors import InputError


@pytest.fixture
def file(tmp_path):
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_arguments_are_prompts_as_they_are():
    assert read_prompts(["one", " two lines\nlong "]) == ["one", " two lines\nlong "]


def test_a_text_file_has_a_prompt_per_line_and_blank_lines_do_not_count(file):
    source = file("in.txt", "one\r\n\n  two, with margins  \n   \nthree")
    assert read_prompts([], source=source) == ["one", "  two, with margins  ", "three"]


def test_a_jsonl_file_has_a_prompt_per_object(file):
    source = file("in.jsonl", '{"prompt": "one", "id": 1}\n\n{"prompt": "two"}\n')
    assert read_prompts([], source=source) == ["one", "two"]


def test_the_field_of_a_jsonl_file_can_be_named(file):
    assert read_prompts([], source=file("a.jsonl", '{"q": "one"}'), field="q") == ["one"]


def test_a_field_may_hold_messages_and_all_their_keys_are_passed_on(file):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "hi", "id": 3},
        {"role": "assistant", "content": "so", "reasoning_content": "hmm"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "1"},
    ]
    source = file("a.jsonl", json.dumps({"prompt": messages}))
    assert read_prompts([], source=source) == [messages]


def test_a_message_s_content_may_come_in_parts_of_text(file):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    line = json.dumps({"prompt": [{"role": "user", "content": parts}]})
    assert read_prompts([], source=file("a.jsonl", line)) == [
        [{"role": "user", "content": "one two"}]
    ]


def test_the_way_to_read_a_file_can_be_said_against_its_name(file):
    assert read_prompts([], source=file("a.txt", '{"prompt": "one"}'), jsonl=True) == ["one"]
    assert read_prompts([], source=file("a.jsonl", "{x\n"), jsonl=False) == ["{x"]


@pytest.mark.parametrize("source", [None, "-"])
def test_a_pipe_is_read_as_text_unless_it_is_said_to_be_jsonl(piped, source):
    piped(b"one\ntwo\n")
    assert read_prompts([], source=source) == ["one", "two"]
    piped(b'{"prompt": "one"}\n')
    assert read_prompts([], source=source, jsonl=True) == ["one"]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(file):
    assert read_prompts([], source=file("a.txt", b"\xef\xbb\xbfone\n")) == ["one"]


def test_a_limit_reads_no_further_than_it_says(file):
    source = file("a.jsonl", '{"prompt": "one"}\nnot JSON\n')
    assert read_prompts([], source=source, limit=1) == ["one"]
    assert read_prompts(["one", "two"], limit=1) == ["one"]


@settings(max_examples=100)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1))
def test_any_text_survives_jsonl(texts):
    lines = "".join(json.dumps({"prompt": t}, ensure_ascii=False) + "\n" for t in texts)
    with pytest.MonkeyPatch.context() as patch:
        encoded = lines.encode("utf-8", "surrogatepass")
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded)))
        assert read_prompts([], jsonl=True) == texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "not JSON"),
        ('["a list"]', "must be a JSON object, got a list"),
        ("null", "must be a JSON object, got null"),
        ('{"question": "x", "id": 1}', "no field 'prompt'; fields there: 'question', 'id'"),
        ("{}", "fields there: none"),
        ('{"prompt": ""}', "is an empty prompt"),
        ('{"prompt": " \\n"}', "is an empty prompt"),
        ('{"prompt": 3}', "must be a text or a list of messages, got a number"),
        ('{"prompt": null}', "got null"),
        ('{"prompt": []}', "is an empty list"),
        ('{"prompt": [{"role": "user"}]}', "a message is an object"),
        ('{"prompt": ["hi"]}', "a message is an object"),
        ('{"prompt": "half \\ud83c"}', r"'\ud83c' is half of a pair and no character"),
        (
            '{"prompt": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}',
            "a message is an object",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(file, line, message):
    source = file("bad.jsonl", '{"prompt": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        read_prompts([], source=source)
    assert str(caught.value).startswith(f"{source}:3: ")
    assert message in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_by_file_and_number(file):
    source = file("latin.txt", b"fine\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.txt:2: not UTF-8"):
        read_prompts([], source=source)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(file, content):
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts([], source=file("empty.txt", content))


def test_an_empty_pipe_is_an_error(piped):
    piped(b"")
    with pytest.raises(InputError, match="standard input holds no prompt"):
        read_prompts([])


def test_an_empty_argument_is_an_error():
    with pytest.raises(InputError, match="argument is empty"):
        read_prompts(["fine", " "])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="No such file"):
        read_prompts([], source=str(tmp_path / "none.txt"))


def test_arguments_and_a_file_are_one_source_too_many(file):
    with pytest.raises(InputError, match="not from both"):
        read_prompts(["one"], source=file("a.txt", "two"))


@pytest.mark.parametrize("stdin", ["terminal", "closed"])
def test_with_nothing_piped_in_a_prompt_is_asked_for_and_not_waited_for(monkeypatch, stdin):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal() if stdin == "terminal" else None)
    with pytest.raises(InputError, match="No prompt"):
        read_prompts([])
