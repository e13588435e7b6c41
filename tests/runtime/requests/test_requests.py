"""What a caller may leave out or say of one prompt alone, and prompts taken as they are needed."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from skipkv import Budget, Completion, Engine, Policy, Prompt, Sampling, presets
from skipkv.errors import ConfigError, InputError
from skipkv.testing import scripted_model, toy_model, toy_tokenizer

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a", "wait. so b is the sum of c"]


@pytest.fixture
def model() -> PreTrainedModel:
    return toy_model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(model, tokenizer, presets.rkv(32, interval=16), batch_size=3)


def what(completion: Completion) -> tuple[Any, ...]:
    return completion.tokens, completion.text, completion.stop_reason


def test_every_prompt_may_have_settings_of_its_own(engine: Engine) -> None:
    own: list[dict[str, Any]] = [
        {"max_new_tokens": 7},
        {"sampling": {"temperature": 1.5, "n": 2}, "seed": 5},
        {"stop": "so"},
        {"sampling": Sampling(temperature=0.7, top_k=5)},
        {},
    ]
    prompts = [*PROMPTS, "so"]
    together = engine.generate(
        [Prompt(p, **settings) for p, settings in zip(prompts, own, strict=True)],
        max_new_tokens=40,
    )
    completions = list(together)
    assert [(c.index, c.sample) for c in completions] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 0),
        (3, 0),
        (4, 0),
    ]
    alone = [
        completion
        for index, (prompt, settings) in enumerate(zip(prompts, own, strict=True))
        for completion in engine.generate(
            [prompt],
            max_new_tokens=settings.get("max_new_tokens", 40),
            sampling=settings.get("sampling"),
            stop=settings.get("stop", ()),
            seeds=[settings.get("seed", index)],
        )
    ]
    assert [what(c) for c in completions] == [what(c) for c in alone]
    pieces = list(
        engine.stream(
            [Prompt(p, **settings) for p, settings in zip(prompts, own, strict=True)],
            max_new_tokens=40,
        )
    )
    streamed = {(p.index, p.sample): p.completion for p in pieces if p.completion is not None}
    for completion in completions:
        place = completion.index, completion.sample
        assert what(streamed[place]) == what(completion)
        texts = [p.text for p in pieces if (p.index, p.sample) == place]
        assert "".join(texts) == completion.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, r"Prompt\(max_new_tokens=0\) must be a whole number of at least 1"),
        ({"seed": -1}, r"Prompt\(seed=-1\)"),
        ({"stop": ["a", ""]}, "empty string"),
        ({"sampling": 0.6}, "sampling must be a Sampling or a dict .* got a float"),
        ({"sampling": {"temp": 1}}, "Sampling takes no temp. It takes: temperature, top_p, top_k"),
    ],
)
def test_settings_of_a_prompt_that_cannot_be_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        Prompt("one", **settings)


def test_max_new_tokens_is_the_models_or_what_its_positions_leave(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = toy_model()
    model.config.max_position_embeddings = 60
    engine = Engine(model, tokenizer, presets.full())
    [completion] = engine.generate([[9] * 20])
    assert completion.stats.new_tokens == 40
    model.generation_config.max_new_tokens = 12
    assert [c.stats.new_tokens for c in engine.generate([[9] * 20, [9] * 55])] == [12, 5]
    with pytest.raises(InputError, match=r"Prompt 0 has 60 tokens.*the model's 60 positions"):
        engine.generate([[9] * 60])


def test_a_model_that_is_to_be_sampled_is_sampled_as_its_config_says(
    model: PreTrainedModel, engine: Engine
) -> None:
    greedy = list(engine.generate(PROMPTS, max_new_tokens=30))
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95)
    sampling = Sampling.from_model(model)
    assert sampling == Sampling(temperature=0.6, top_p=0.95, top_k=50)
    sampled = list(engine.generate(PROMPTS, max_new_tokens=30))
    assert [what(c) for c in sampled] != [what(c) for c in greedy]
    explicit = engine.generate(PROMPTS, max_new_tokens=30, sampling=sampling)
    assert [what(c) for c in explicit] == [what(c) for c in sampled]
    plain = engine.generate(PROMPTS, max_new_tokens=30, sampling=Sampling())
    assert [what(c) for c in plain] == [what(c) for c in greedy]


def test_what_a_generation_config_asks_for_and_is_not_done_is_said(model: PreTrainedModel) -> None:
    model.generation_config.update(repetition_penalty=1.1, min_p=0.05)
    with pytest.warns(
        UserWarning, match=r"min_p=0.05, repetition_penalty=1.1, which skipkv does not"
    ):
        Sampling.from_model(model)
    model.generation_config.update(repetition_penalty=1.0, min_p=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sampling.from_model(model) == Sampling()


@pytest.mark.parametrize(
    ("prompt", "said", "thinking", "answer"),
    [
        ("one<think>", " so two</think> is three", "so two", "is three"),
        ("one", "<think>so</think>\n\ntwo", "so", "two"),
        ("one<think>", " so two", "so two", None),
        ("one", "<think> so", "so", None),
        ("one", " so two", None, "so two"),
        ("one<think>", "</think>two", "", "two"),
    ],
)
def test_a_completion_tells_its_thinking_from_its_answer(
    prompt: str,
    said: str,
    thinking: str | None,
    answer: str | None,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    engine = Engine(scripted_model(prompt + said), tokenizer, presets.full())
    [completion] = engine.generate([prompt], max_new_tokens=20)
    assert (completion.thinking, completion.answer) == (thinking, answer)
    [stopped] = engine.generate([prompt], max_new_tokens=20, stop="</think>")
    assert stopped.thinking == thinking
    assert stopped.answer == (answer if thinking is None else "" if answer is not None else None)


def test_a_chat_template_gets_the_arguments_meant_for_it(model: PreTrainedModel) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}so{% else %}wait{% endif %}"
    )
    engine = Engine(model, tokenizer, presets.full())
    chat = [{"role": "user", "content": "one "}]
    quiet: dict[str, Any] = {"enable_thinking": False}
    assert engine.encode(chat) == tokenizer("one wait")["input_ids"]
    assert engine.encode(chat, chat_template_kwargs=quiet) == tokenizer("one so")["input_ids"]
    [completion] = engine.generate([chat], max_new_tokens=5, chat_template_kwargs=quiet)
    [plain] = engine.generate(["one so"], max_new_tokens=5)
    assert what(completion) == what(plain)


def test_prompts_of_a_generator_are_taken_when_there_is_room_for_them(engine: Engine) -> None:
    taken = 0

    def prompts() -> Iterator[str]:
        nonlocal taken
        for prompt in PROMPTS * 3:
            assert not torch.is_inference_mode_enabled()  # it is the caller's own code
            taken += 1
            yield prompt

    completions = engine.generate(prompts(), max_new_tokens=9)
    assert taken == 0
    found = [next(completions)]
    assert taken <= 2 * 3  # those of the first batch, and one for each slot they left
    found += completions
    assert taken == 12
    expected = engine.generate(PROMPTS * 3, max_new_tokens=9)
    assert [what(c) for c in found] == [what(c) for c in expected]
    assert list(engine.generate(iter([]), max_new_tokens=9)) == []


def test_a_generators_prompt_that_cannot_be_decoded_is_an_error_when_it_is_taken(
    engine: Engine,
) -> None:
    completions = engine.generate(iter([*PROMPTS, " "]), max_new_tokens=9)
    assert next(completions).index == 0
    with pytest.raises(InputError, match="Prompt 4 is empty"):
        list(completions)


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("lazily", [False, True])
def test_a_prompt_that_cannot_be_decoded_fails_alone_where_asked_for(
    lazily: bool, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    policy = Policy(budget=Budget(tokens=20, window=4, prompt=True))
    engine = Engine(model, tokenizer, policy, batch_size=2)
    prompts: list[Any] = [" ", [9] * 15, [9] * 16, None, [9] * 3, [9] * 99]
    options: dict[str, Any] = {"max_new_tokens": 8, "invalid": "fail"}
    given = iter(prompts) if lazily else prompts
    completions = list(engine.generate(given, **options))
    assert [c.index for c in completions] == list(range(6))
    assert [c.stop_reason for c in completions] == [
        "error",
        "length",
        "error",
        "error",
        "length",
        "error",
    ]
    assert [c.prompt_tokens for c in completions] == [0, 15, 16, 0, 3, 99]
    assert isinstance(completions[2].error, InputError)
    assert "leaves no room in a budget of 20" in str(completions[2].error)
    assert completions[2].stats.new_tokens == len(completions[2].text) == 0
    pieces = engine.stream(iter(prompts) if lazily else prompts, **options)
    last = {p.index: p.completion for p in pieces if p.completion is not None}
    assert {i: c.stop_reason for i, c in last.items()} == {
        c.index: c.stop_reason for c in completions
    }


def test_what_is_printed_says_what_it_is(engine: Engine) -> None:
    assert repr(engine).startswith("<Engine: LlamaForCausalLM (2 layers, torch.float32 on cpu), ")
    assert "Budget(tokens=32" in repr(engine)
    [completion] = engine.generate(["one plus two"], max_new_tokens=100)
    assert repr(completion).startswith("Completion(index=0, sample=0, prompt_tokens=5, text='")
    assert len(repr(completion)) < 400
    assert "stop_reason='length'" in repr(completion)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("</think>", " so two"),
        ("two</think>", " so "),
        ("two</think> is", " so "),
        ("two three", " so two is three"),
        ("</think> is t", " so two"),
    ],
)
def test_a_stop_string_with_a_special_token_ends_what_is_streamed_too(
    stop: str, text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(scripted_model("one so two</think> is three"), tokenizer, presets.full())
    [completion] = engine.generate(["one"], max_new_tokens=20, stop=stop)
    pieces = [piece.text for piece in engine.stream(["one"], max_new_tokens=20, stop=stop)]
    assert "".join(pieces) == completion.text == text
