"""Whatever is given as prompts: what is meant is decoded, anything else is an error that helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

import skipkv
from skipkv import Engine, Policy, Prompt, presets
from skipkv.errors import ConfigError, InputError
from skipkv.testing import toy_model, toy_tokenizer

pytestmark = pytest.mark.usefixtures("as_users_call")
TEXTS = ["one plus two", "so", "let me check"]
CHAT = [{"role": "user", "content": "one"}]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return toy_model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}so"
    return tokenizer


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(model, tokenizer, presets.full())


def said(engine: Engine, prompts: Any) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in engine.generate(prompts, max_new_tokens=5)]


@pytest.mark.parametrize(
    "given",
    [
        lambda tokenizer: tokenizer(TEXTS),
        lambda tokenizer: dict(tokenizer(TEXTS, padding=True)),
        lambda tokenizer: tokenizer(TEXTS, padding=True, return_tensors="pt"),
        lambda tokenizer: tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="np"),
        lambda tokenizer: [tokenizer(text) for text in TEXTS],
        lambda tokenizer: [tokenizer(text, return_tensors="pt") for text in TEXTS],
        lambda tokenizer: [torch.tensor(ids) for ids in tokenizer(TEXTS)["input_ids"]],
        lambda tokenizer: [np.array(ids, dtype=np.int32) for ids in tokenizer(TEXTS)["input_ids"]],
        lambda tokenizer: [[*map(np.int64, ids)] for ids in tokenizer(TEXTS)["input_ids"]],
        lambda tokenizer: tuple(tuple(ids) for ids in tokenizer(TEXTS)["input_ids"]),
        lambda tokenizer: dict.fromkeys(TEXTS).keys(),
        lambda tokenizer: [Prompt(text) for text in TEXTS],
    ],
)
def test_prompts_in_every_form_a_tokenizer_gives_are_the_same(
    given: Callable[[Any], Any], engine: Engine, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert said(engine, given(tokenizer)) == said(engine, TEXTS)


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": [{"type": "text", "text": "one"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "o"}, {"text": "ne"}]}],
        [{"role": "user", "content": ["one"]}],
        ({"role": "user", "content": "one", "name": "Ada"},),
    ],
)
def test_texts_in_parts_are_one_text(engine: Engine, chat: Any) -> None:
    assert engine.encode(chat) == engine.encode("one so")


def padded(side: str) -> Callable[[Any], Any]:
    return lambda tokenizer: (
        tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt").input_ids
    )


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (lambda _: None, r"prompts must be a list of prompts \(or another iterable\), got None"),
        (lambda _: 7, "got an int"),
        (lambda _: b"one", "got a bytes. Each prompt is a text, a list of token ids, or a chat"),
        (lambda _: {"one", "two"}, r"got a set, which has no order.*sorted\(prompts\)"),
        (lambda _: Prompt("one"), r"got one Prompt. Wrap it: \[prompt\]"),
        (lambda _: [9, 9], r"got one list of token ids. Wrap it: \[ids\]"),
        (lambda _: torch.tensor([9, 9]), r"got one row of token ids. Wrap it: \[ids\]"),
        (lambda _: torch.zeros(1, 1, 1), r"a tensor \[prompts, tokens\], got \[1, 1, 1\]"),
        (lambda tokenizer: tokenizer("one"), r"got one encoded prompt. Wrap it: \[encoded\]"),
        (lambda _: {"text": "one"}, r"got a dict with 'text'"),
        (lambda _: CHAT, r"got the messages of one chat. Wrap it: \[chat\]"),
        (padded("left"), "Prompt 1 begins or ends with the padding token 0"),
        (padded("right"), "the tokenizer's whole answer, which has the mask"),
        (lambda tokenizer: tokenizer(TEXTS, padding=True)["input_ids"], "padding token 0"),
        (lambda _: {"input_ids": [[9, 9]], "attention_mask": [[0, 0]]}, "Prompt 0 is empty"),
        (lambda _: {"input_ids": [[9, 9]], "attention_mask": [[1]]}, "must have the same shape"),
        (lambda _: [None], "Prompt 0 must be a text, a list of token ids, or a chat .* got None"),
        (lambda _: ["one", b"two"], "Prompt 1 must be a text.* got a bytes"),
        (lambda _: [{"one": 1}, "one"], "Prompt 0 must be a text.* got a dict"),
        (lambda _: ["one", CHAT[0]], r"Prompt 1 is one message of a chat. Wrap it: \[message\]"),
        (lambda _: [TEXTS], "Prompt 0 is a list of texts. Give each text as a prompt of its own"),
        (lambda _: [[5.9, 6.7]], "Prompt 0 holds '5.9', a float, in the place of a token id"),
        (lambda _: [torch.tensor([5.0])], "holds '5.0', a float"),
        (lambda _: torch.tensor([[5.0]]), "holds '5.0', a float"),
        (lambda _: [np.array([[5, 6], [7, 8]])], r"one row of token ids, got a tensor \[2, 2\]"),
        (lambda _: [[True]], "'True', a bool"),
        (lambda _: [[[9]]], r"'\[9\]', a list"),
        (lambda _: [[9, "so"]], "'so', a str"),
        (lambda _: ["a\ud800"], r"Prompt 0 is not valid text: character 1 is '\\ud800', half of"),
        (lambda _: [[{"content": "one"}]], "message 0 has no role. Give it one, such as 'user'"),
        (lambda _: [[*CHAT, "two"]], "message 1 must be a dict with role and content, got a str"),
        (lambda _: [[{"role": "user"}]], "message 0 must have a text as its content, got none"),
        (lambda _: [[{"role": "user", "content": 7}]], "text as its content, got an int"),
        (
            lambda _: [[{"role": "user", "content": [{"type": "image", "url": "x"}]}]],
            r"message 0 has a part that is not text \(image\). The model reads only text",
        ),
    ],
)  # fmt: skip
def test_prompts_of_a_wrong_kind_are_refused_at_the_call(
    prompts: Callable[[Any], Any],
    message: str,
    engine: Engine,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(InputError, match=message):
        engine.generate(prompts(tokenizer), max_new_tokens=5)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "TemplateSyntaxError: .* Look at the roles and their order"),
        ("{{ raise_exception('no system\nrole') }}", "TemplateError: no system role"),
        ("{{ messages[0].content + 1 }}", "TypeError: "),
    ],
)
def test_a_chat_template_that_fails_is_named(
    template: str, message: str, model: PreTrainedModel
) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = template
    engine = Engine(model, tokenizer, presets.full())
    with pytest.raises(InputError, match=f"Prompt 0: the tokenizer's chat template .*: {message}"):
        engine.generate([CHAT], max_new_tokens=5)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("rkv", r"takes a Policy. rkv is a preset.*presets.rkv\(budget=1024\)"),
        (presets.rkv, r"Write presets.rkv\(budget=1024\)"),
        (presets.full, r"Write presets.full\(\)"),
        ("seal", r"Write presets.seal\(vector\)"),
        ("r-kv", r"takes a Policy, got 'r-kv'. Make one with Policy\(...\).*streaming_llm"),
        (Policy, r"got the class Policy. Write Policy\(...\)"),
        (None, "takes a Policy, got None"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_to_write(
    policy: Any, message: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(model, tokenizer, policy)
    with pytest.raises(ConfigError, match=message):
        Engine.from_pretrained("nothing is loaded", policy=policy)
    with pytest.raises(ConfigError, match=message), skipkv.attach(model, policy):
        pass


def test_a_model_or_a_tokenizer_of_a_wrong_kind_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    full = presets.full()
    for given, message in (
        (("tiny", tokenizer), r"Engine.from_pretrained\('tiny', policy=...\)|from_pretrained"),
        ((tokenizer, model), "tokenizer"),
        ((model, None), "Engine needs the model's tokenizer, got None"),
        ((model, "tiny"), "Engine needs the model's tokenizer, got 'tiny'"),
        ((LlamaModel(model.config), tokenizer), "AutoModelForCausalLM"),
    ):
        with pytest.raises(InputError, match=message):
            Engine(*given, full)


def test_an_engine_from_a_folder_takes_all_that_an_engine_takes(tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    engine = Engine.from_pretrained(
        str(tmp_path), policy=presets.full(), eos_token_ids=[7], graphs=False, device="cpu"
    )
    assert engine.batch_size == 8
    [free] = engine.generate([[9]], max_new_tokens=50)
    assert 7 not in free.tokens[:-1]
