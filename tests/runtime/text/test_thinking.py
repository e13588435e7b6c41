"""Which part of a text is thinking: found by a model's marks, whole or in pieces."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marked_tokenizers import HARMONY, in_bytes, messages, renamed

import skipkv
from skipkv import Engine, ThinkingMarks, presets
from skipkv.errors import ConfigError
from skipkv.integrations.serve.choice import Choice
from skipkv.runtime.requests.handle import Handle
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.thinking import TAGS, MarkedText, Part, ThinkingSplit
from skipkv.runtime.text.token_text import TokenText
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import scripted_model, toy_model, toy_tokenizer
from skipkv.testing.fakes import VOCABULARY

modest = settings(max_examples=60, deadline=None)
HEADERS = ThinkingMarks(
    opens="<|channel|>analysis<|message|>",
    closes="<|end|>",
    answers="<|channel|>final<|message|>",
)
MAGISTRAL = ThinkingMarks(opens="[THINK]", closes="[/THINK]")
# What a template says of earlier turns; the model's own turn begins with nothing.
STRIPS = "{{ messages[-1]['content'].split('</think>')[-1] }}"


def joined(found: list[tuple[Part, str]]) -> dict[str, str]:
    assert all(text for _, text in found)
    parts: dict[str, str] = {}
    for part, text in found:
        parts[part] = parts.get(part, "") + text
    return parts


def split(
    pieces: Sequence[str], *, begun: Part | None = None, marks: ThinkingMarks = TAGS
) -> dict[str, str]:
    splitter = ThinkingSplit(marks, begun=begun)
    return joined([part for piece in pieces for part in splitter.feed(piece)] + splitter.end())


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("\nso 3.\n\n</think>\n\nIt is 3.\n", True, {"thinking": "so 3.", "answer": "It is 3.\n"}),
        ("<think>\nso 3.</think>3", False, {"thinking": "so 3.", "answer": "3"}),
        (" <think>so", False, {"thinking": "so"}),
        ("<think>so</think>", True, {"thinking": "so"}),
        ("so  ", True, {"thinking": "so"}),
        ("</think>3", True, {"answer": "3"}),
        (" 3 <think> ", False, {"answer": " 3 <think> "}),
        ("3</think>4", False, {"answer": "3</think>4"}),
        ("a</think>b</think>c", True, {"thinking": "a", "answer": "b</think>c"}),
        ("a </thin k</think>b", True, {"thinking": "a </thin k", "answer": "b"}),
        ("", True, {}),
        ("<th", False, {"answer": "<th"}),
        ("<th", True, {"thinking": "<th"}),
    ],
)
def test_thinking_goes_to_the_first_end_mark(
    text: str, opened: bool, expected: dict[str, str]
) -> None:
    begun: Part | None = "thinking" if opened else None
    assert split([text], begun=begun) == expected
    assert split(list(text), begun=begun) == expected


ANALYSIS, FINAL = HEADERS.opens, str(HEADERS.answers)


@pytest.mark.parametrize(
    ("text", "begun", "thinking", "answer"),
    [
        (f"{ANALYSIS}so 3.<|end|><|start|>assistant{FINAL}It is 3.", None, "so 3.", "It is 3."),
        (f"{ANALYSIS}a<|end|>x{ANALYSIS}b<|end|>x{FINAL}c<|end|>y", None, "a\n\nb", "c"),
        (f"{ANALYSIS}so", None, "so", None),
        (f"{ANALYSIS}so<|end|><|start|>assistant<|chan", None, "so", ""),
        (f"{FINAL}3", None, None, "3"),
        ("<|channel|>commentary to=f<|message|>{}<|call|>", None, None, ""),
        ("plain text <|end|>", None, None, "plain text"),
        ("so<|end|>x", "thinking", "so", ""),
        ("", "thinking", "", None),
        ("3<|end|>", "answer", None, "3"),
    ],
)
def test_with_headers_every_message_is_what_its_header_says(
    text: str, begun: Part | None, thinking: str | None, answer: str | None
) -> None:
    assert HEADERS.split(text, begun=begun) == (thinking, answer)
    expected = {"thinking": thinking or "", "answer": answer or ""}
    found = split(list(text), begun=begun, marks=HEADERS)
    assert {part: found.get(part, "").strip() for part in expected} == expected


PIECES = ["<think>", "</think>", "<", "</thi", " ", "\n\n", "a", "b "]
OTHERS = [ANALYSIS, FINAL, "<|end|>", "<|channel|>", "<|en", "final", "\n\n", "a", "b "]


@given(
    parts=st.lists(st.sampled_from([*PIECES, *OTHERS])),
    marks=st.sampled_from([TAGS, HEADERS]),
    begun=st.sampled_from(["thinking", "answer", None]),
    data=st.data(),
)
def test_the_parts_do_not_depend_on_the_pieces(
    parts: list[str], marks: ThinkingMarks, begun: Part | None, data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    assert split(pieces, begun=begun, marks=marks) == split([text], begun=begun, marks=marks)


@pytest.mark.parametrize(
    ("names", "template", "found"),
    [
        ({}, None, TAGS),
        (HARMONY, None, HEADERS),
        ({"<think>": "[THINK]", "</think>": "[/THINK]"}, None, MAGISTRAL),
        ({"<think>": "a1", "</think>": "a2"}, None, None),
        # of two kinds of tokens, those that the template names
        ({"verify": "[THINK]", "again": "[/THINK]"}, None, TAGS),
        ({"verify": "[THINK]", "again": "[/THINK]"}, "{{ m }}[THINK]", MAGISTRAL),
    ],
)
def test_the_marks_are_those_of_the_vocabulary(
    names: dict[str, str], template: str | None, found: ThinkingMarks | None
) -> None:
    assert ThinkingMarks.of(renamed(names, template=template)) == found


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, None),
        (STRIPS, TAGS),
        ("{{ messages[-1]['content'] }}<think>\n", TAGS),
        ("After 'Here is my thought process:' think.", "Here is my response:"),
    ],
)
def test_marks_that_are_no_tokens_are_those_that_the_chat_template_names(
    template: str | None, found: Any
) -> None:
    marks = ThinkingMarks.of(in_bytes(["a"], template=template))
    assert (marks and marks.closes) == (found if isinstance(found, str) else found and found.closes)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"opens": "", "closes": "b"}, "opens=''.*must be a text, such as '<think>'"),
        ({"opens": "a", "closes": None}, "closes=None"),
        ({"opens": "a", "closes": "b", "answers": 3}, "answers=3"),
        ({"opens": "a", "closes": "a"}, "same mark twice"),
        ({"opens": "think:", "closes": "/think:"}, "'think:' within '/think:'"),
    ],
)
def test_marks_that_mark_nothing_are_refused(marks: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ThinkingMarks(**marks)


@pytest.mark.parametrize("given_", ["<think>", "none"])
def test_what_is_given_for_marks_and_is_none_is_refused(given_: Any) -> None:
    with pytest.raises(ConfigError, match=r'or "auto", or None'):
        Engine(toy_model(), toy_tokenizer(), presets.full(), thinking=given_)
    with (
        pytest.raises(ConfigError, match=r'or "auto", or None'),
        skipkv.attach(toy_model(), presets.full(), thinking=given_),
    ):
        pass


def toy(text: str, names: dict[str, str]) -> str:
    """A text in the words of the toy tokenizer."""
    for word, name in names.items():
        text = text.replace(name, word)
    return text


@pytest.mark.parametrize(
    ("prompt", "said", "thinking", "answer"),
    [
        (
            "one<|start|>assistant",
            f"{ANALYSIS}so two<|end|><|start|>assistant{FINAL}three",
            "so two",
            "three",
        ),
        (f"one<|start|>assistant{ANALYSIS}so ", f"two<|end|>{FINAL}three", "two", "three"),
        ("one<|start|>assistant", f"{ANALYSIS}so two", "so two", None),
        (f"one<|start|>assistant{FINAL}", "three", None, "three"),
        # in an earlier message, after which the model's own begins
        (f"one{ANALYSIS}<|start|>assistant", f"{FINAL}three", None, "three"),
    ],
)
def test_a_model_with_channels_thinks_in_the_analysis_channel(
    prompt: str, said: str, thinking: str | None, answer: str | None
) -> None:
    model = scripted_model(toy(prompt + said, HARMONY))
    engine = Engine(model, renamed(HARMONY), presets.full())
    [completion] = engine.generate([prompt], max_new_tokens=40)
    assert (completion.thinking, completion.answer) == (thinking, answer)


def test_marks_that_a_user_gives_take_the_place_of_those_found() -> None:
    marks = ThinkingMarks(opens="let me", closes="so then")
    model = scripted_model("one let me check so then three")
    engine = Engine(model, toy_tokenizer(), presets.full(), thinking=marks)
    [completion] = engine.generate(["one "], max_new_tokens=40)
    assert (completion.thinking, completion.answer) == ("check", "three")


class Come(Handle):
    """A handle whose tokens have come one after the other."""

    def __init__(self, tokens: Sequence[int], completion: Any) -> None:
        self.tokens, self.whole, self.count = tokens, completion, 0

    def since(self, read: int) -> tuple[Sequence[int], Any]:
        done = self.count >= len(self.tokens)
        return self.tokens[read : self.count], self.whole if done else None


def streamed(tokenizer: Any, prompt: list[int], tokens: list[int], steps: list[int]) -> dict:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    handle = Come(tokens, type("Done", (), {"text": text}))
    choice = Choice(
        0,
        handle,
        tokenizer,
        thinking=ThinkingMarks.of(tokenizer),
        prompt=prompt,
        seed=0,
        stop=(),
        chat=True,
    )
    found: list[tuple[Part, str]] = []
    for step in [*steps, len(tokens)]:
        handle.count += step
        found += choice.pieces()
        if choice.completion is not None:
            break
    return joined(found)


WORDS = st.lists(st.sampled_from(["so", "two", " ", ".\n\n", "x"]), max_size=6)
STEPS = st.lists(st.integers(0, 4), max_size=12)


def check_stream(
    tokenizer: Any, prompt: list[int], tokens: list[int], steps: list[int]
) -> tuple[str | None, str | None]:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    marked = MarkedText(tokenizer, ThinkingMarks.of(tokenizer) or TAGS)
    thinking, answer = marked.split(prompt, tokens, text)
    parts = streamed(tokenizer, prompt, tokens, steps)
    assert parts.get("thinking", "").strip() == (thinking or "")
    assert parts.get("answer", "").strip() == (answer or "")
    return thinking, answer


@modest
@given(
    told=messages(),
    begins=st.sampled_from(["", ANALYSIS, FINAL]),
    cleans=st.booleans(),
    steps=STEPS,
)
# between the marks there is no text that is certain before the end
@example(
    told=["so", "<|channel|>", "analysis", "<|message|>", "so", "<|end|>"],
    begins="",
    cleans=True,
    steps=[],
)
def test_a_stream_of_messages_joins_to_the_completion(
    told: list[str], begins: str, cleans: bool, steps: list[int]
) -> None:
    tokenizer = renamed(HARMONY)
    tokenizer.clean_up_tokenization_spaces = cleans
    ids = tokenizer.convert_tokens_to_ids(told)
    check_stream(tokenizer, tokenizer(f"one{begins}")["input_ids"], ids, steps)


@modest
@example(opened=False, space=True, thought=["so"], answer=[], cleans=True, own=True, steps=[])
@given(
    opened=st.booleans(),
    space=st.booleans(),
    thought=WORDS,
    answer=st.none() | WORDS,
    cleans=st.booleans(),
    own=st.booleans(),
    steps=STEPS,
)
def test_a_stream_with_one_pair_of_marks_joins_to_the_completion(
    opened: bool,
    space: bool,
    thought: list[str],
    answer: list[str] | None,
    cleans: bool,
    own: bool,
    steps: list[int],
) -> None:
    """Whether the prompt or the model opens the block, and whether marks are tokens or not."""
    closing = [] if answer is None else ["</think>", *answer]
    text = "".join([*([] if opened else [" "] * space + ["<think>"]), *thought, *closing])
    tokenizer = toy_tokenizer() if own else in_bytes([text], template=STRIPS)
    tokenizer.clean_up_tokenization_spaces = cleans
    prompt = tokenizer("one" + "<think>\n" * opened)["input_ids"]
    thinking, said = check_stream(tokenizer, prompt, tokenizer(text)["input_ids"], steps)
    assert thinking is not None
    assert (said is None) == (answer is None)


def test_icons_of_a_models_text_are_no_marks() -> None:
    icon = "\U000f0001"  # fonts for terminals have icons from U+F0001 on
    tokenizer = renamed({"x": icon})
    told = ["<think>", "so", "</think>", icon]
    ids = tokenizer.convert_tokens_to_ids(told)
    assert check_stream(tokenizer, tokenizer("one")["input_ids"], ids, []) == ("so", icon)


def thinks(text: str, marks: ThinkingMarks) -> bool:
    """Whether a text ends inside the thinking."""
    return text.rfind(marks.opens) > max(text.rfind(m) for m in marks.given[1:])


@modest
@given(
    prompt=messages(),
    decoded=messages(),
)
def test_marks_of_several_tokens_are_found_token_by_token(
    prompt: list[str], decoded: list[str]
) -> None:
    tokenizer = renamed(HARMONY)
    marks = Marks.of(TokenText(tokenizer), len(VOCABULARY), HEADERS)
    ids = [tokenizer.convert_tokens_to_ids(own) for own in (prompt, decoded)]
    found = marks.thinking(*ids)
    for place in range(len(prompt), len(found)):
        own = prompt
        if "<|start|>" in prompt:  # a new message
            own = prompt[len(prompt) - prompt[::-1].index("<|start|>") :]
        assert found[place] == thinks("".join([*own, *decoded[: place + 1 - len(prompt)]]), HEADERS)


@modest
@given(parts=st.lists(st.sampled_from([*PIECES, "so", ".", ">"]), min_size=1, max_size=12))
def test_marks_that_are_no_tokens_are_found_in_the_tokens_of_their_text(parts: list[str]) -> None:
    text = "".join(parts)
    tokenizer = in_bytes(["so </thi a. <think so", *[">>\n\n .</"] * 9])
    ids = tokenizer(text)["input_ids"]
    marks = Marks(TokenText(tokenizer), len(tokenizer), TAGS)
    for place, found in enumerate(marks.thinking([], ids)):
        assert found == thinks(tokenizer.decode(ids[: place + 1]), TAGS)


@pytest.mark.parametrize("frontend", ["Engine", "attach"])
def test_a_steerer_acts_in_the_analysis_channel_alone(frontend: str) -> None:
    tokenizer = renamed(HARMONY)
    vector = SteeringVector(vector=torch.linspace(-50, 50, 64), layer=1, model="toy")
    policy = presets.skipkv(32, interval=8, steering=AdditiveSteerer(vector))
    plain = presets.skipkv(32, interval=8)
    model = toy_model()
    changed = []
    prompts = [f"one{head}so.\n\n" for head in (ANALYSIS, FINAL, "", f"{ANALYSIS}so<|end|>")]
    for prompt in [*prompts, f"one{ANALYSIS}<|start|>so.\n\n"]:
        ids = tokenizer(prompt)["input_ids"]
        if frontend == "Engine":
            first = [
                next(Engine(model, tokenizer, p).generate([ids], max_new_tokens=1)).tokens
                for p in (policy, plain)
            ]
        else:
            first = []
            for p in (policy, plain):
                with skipkv.attach(model, p, tokenizer=tokenizer):
                    output = model.generate(torch.tensor([ids]), max_new_tokens=1, do_sample=False)
                first.append(tuple(output[0, len(ids) :].tolist()))
        changed.append(first[0] != first[1])
    assert changed == [True, False, False, False, False]


def test_each_of_several_end_tokens_ends_a_sequence_as_in_generate() -> None:
    model, tokenizer = toy_model(seed=3), toy_tokenizer()
    prompt = tokenizer("one plus two")["input_ids"]
    free = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0].tolist()
    said = free[len(prompt) :]
    ends = [said[9], said[17]]
    for eos in (ends, ends[::-1]):
        model.generation_config.eos_token_id = [1, *eos]
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)
        [completion] = Engine(model, tokenizer, presets.full()).generate(
            [prompt], max_new_tokens=30
        )
        assert list(completion.tokens) == expected[0, len(prompt) :].tolist()
        assert completion.stop_reason == "eos"
