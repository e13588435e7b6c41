"""What an engine promises: exact budgets, and tokens that depend on their own request alone."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_prompts import PRESETS
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from skipkv import Budget, CacheView, Completion, Engine, Policy, Sampling, presets
from skipkv.errors import ConfigError, InputError, PartError
from skipkv.runtime.seam.names import cache_name
from skipkv.schedulers import Continuous, LengthGrouped, padding_tokens
from skipkv.scorers import KeyNorm, KeyRedundancy, Recency, WindowAttention
from skipkv.segmenters import Newline
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a", "wait. so b is the sum of c"]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return toy_model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


@pytest.fixture(scope="module")
def decode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> Callable[..., list[Completion]]:
    def run(policy: Policy, prompts: Any = PROMPTS, **options: Any) -> list[Completion]:
        batch_size = options.pop("batch_size", 4)
        engine = Engine(model, tokenizer, policy, batch_size=batch_size)
        return list(engine.generate(prompts, **{"max_new_tokens": 80, **options}))

    return run


def greedy(model: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    """transformers' own greedy decoding with a full cache, one prompt alone."""
    output = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    return output[0, len(ids) :].tolist()


def tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


@pytest.mark.parametrize("family", ["qwen3"])  # tests/models has the other families
def test_room_for_everything_gives_the_tokens_of_transformers(
    family: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = toy_model(family)
    expected = [greedy(model, tokenizer(prompt)["input_ids"], 96) for prompt in PROMPTS]
    for policy in (presets.full(), presets.rkv(140, interval=32), presets.h2o(140, interval=32)):
        engine = Engine(model, tokenizer, policy, batch_size=3)  # ragged, and one waits
        completions = list(engine.generate(PROMPTS, max_new_tokens=96))
        assert [list(completion.tokens) for completion in completions] == expected
        assert not any(completion.stats.evicted for completion in completions)


@pytest.mark.parametrize("name", PRESETS)
def test_no_head_ever_holds_more_than_budget_and_interval(
    name: str, decode: Callable[..., list[Completion]]
) -> None:
    for completion in decode(presets.get(name)(32, interval=16), max_new_tokens=150, trace=True):
        assert completion.stats.peak_entries == 48
        assert completion.stats.events == len(completion.trace or ()) > 0
        for record in completion.trace or ():
            assert (record.kept >= 0).sum(dim=-1).max() <= 32
            ordered = record.kept.masked_fill(record.kept < 0, 2**30)
            assert ((ordered.diff(dim=-1) > 0) | (record.kept[..., 1:] < 0)).all()


@settings(max_examples=15, deadline=None)
@given(
    budget=st.integers(6, 40),
    interval=st.integers(1, 20),
    window=st.integers(1, 4),
    sinks=st.integers(0, 1),
    batch_size=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    new=st.integers(1, 40),
)
def test_budget_holds_for_any_batch_and_any_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    budget: int,
    interval: int,
    window: int,
    sinks: int,
    batch_size: int,
    lengths: list[int],
    new: int,
) -> None:
    policy = Policy(
        budget=Budget(tokens=budget, interval=interval, window=window, sinks=sinks),
        scorer=KeyNorm(),
    )
    engine = Engine(model, tokenizer, policy, batch_size=batch_size)
    prompts = [[5 + (7 * i + j) % 40 for j in range(n)] for i, n in enumerate(lengths)]
    completions = list(engine.generate(prompts, max_new_tokens=new, trace=True))
    assert [c.index for c in completions] == list(range(len(lengths)))
    for completion, length in zip(completions, lengths, strict=True):
        assert len(completion.tokens) == new
        assert completion.stats.peak_entries <= min(budget + interval, length + new - 1)
        for record in completion.trace or ():
            assert record.kept.shape[-1] == budget
            recent = set(range(record.seen - window, record.seen)) | set(range(sinks))
            assert all(recent <= set(head.tolist()) for head in record.kept.flatten(0, 1))
        room = min(budget + interval, max(lengths) + new)  # what the longest can come to hold
        assert completion.stats.peak_kv_bytes == bytes_of(model, room)


def bytes_of(model: PreTrainedModel, entries: int) -> int:
    """Bytes of keys and values of so many entries in all layers and heads of one sequence."""
    config = model.config
    heads = config.num_hidden_layers * config.num_key_value_heads
    return 2 * 4 * heads * entries * config.head_dim


def test_a_growing_cache_ends_at_what_its_longest_request_can_come_to(
    decode: Callable[..., list[Completion]], model: PreTrainedModel
) -> None:
    (completion,) = decode(presets.full(), [list(range(5, 45))], max_new_tokens=1100)
    assert completion.stats.peak_kv_bytes == bytes_of(model, 1140)  # and not 2048


def test_an_absurd_budget_takes_no_more_memory_than_the_requests_can_need(
    decode: Callable[..., list[Completion]], model: PreTrainedModel
) -> None:
    policy = presets.rkv(10_000_000, interval=16)
    [short, long] = decode(policy, [[9] * 3, [9] * 30], max_new_tokens=10)
    assert short.stats.peak_kv_bytes == long.stats.peak_kv_bytes == bytes_of(model, 40)
    # of prompts that are taken as they are needed none is known to be the longest
    [taken] = decode(policy, iter([[9] * 3]), max_new_tokens=10)
    assert taken.stats.peak_kv_bytes == bytes_of(model, 32768)  # all positions


def test_the_allocation_does_not_grow_with_the_generation(
    decode: Callable[..., list[Completion]],
) -> None:
    policy = presets.rkv(32, interval=16)
    short, long = (decode(policy, ["a"], max_new_tokens=n)[0].stats for n in (60, 500))
    assert short.peak_kv_bytes == long.peak_kv_bytes


@pytest.mark.parametrize("name", ["full", *PRESETS])
def test_tokens_do_not_depend_on_neighbours_order_or_used_slots(
    name: str, decode: Callable[..., list[Completion]]
) -> None:
    policy = presets.full() if name == "full" else presets.get(name)(32, interval=16)
    alone = [decode(policy, [prompt])[0].tokens for prompt in PROMPTS]
    assert tokens(decode(policy)) == alone
    assert tokens(decode(policy, PROMPTS[::-1]))[::-1] == alone
    assert tokens(decode(policy, batch_size=2)) == alone
    assert tokens(decode(policy.with_(scheduler=LengthGrouped(batch_size=2)))) == alone


def test_a_long_prompt_does_not_depend_on_its_neighbours_either(
    decode: Callable[..., list[Completion]],
) -> None:
    policy = presets.skipkv(32, threshold=0.5, interval=16)
    prompts = [[5 + i % 70 for i in range(n)] for n in (70, 200, 48, 49, 3)]
    alone = [decode(policy, [prompt])[0] for prompt in prompts]
    assert all(c.stats.peak_entries <= 48 for c in alone)
    assert tokens(decode(policy, prompts)) == tokens(alone)
    assert tokens(decode(policy, prompts, batch_size=2)) == tokens(alone)


def test_eviction_equals_a_plain_cache_from_which_entries_are_taken(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The whole runtime against a loop over transformers' DynamicCache, one prompt at a time."""
    policy = Policy(budget=Budget(tokens=24, interval=8, window=4), scorer=-1 * KeyRedundancy())
    engine = Engine(model, tokenizer, policy, batch_size=4)
    for completion, prompt in zip(
        engine.generate(PROMPTS, max_new_tokens=100), PROMPTS, strict=True
    ):
        expected = evicting_by_hand(model, tokenizer(prompt)["input_ids"], policy, 100)
        assert list(completion.tokens) == expected


@torch.no_grad()
def evicting_by_hand(
    model: PreTrainedModel, prompt: list[int], policy: Policy, count: int
) -> list[int]:
    from transformers import DynamicCache

    budget = policy.budget
    assert budget is not None
    assert budget.tokens is not None
    cache, found, ids, seen = DynamicCache(config=model.config), [], prompt, 0
    heads = model.config.num_key_value_heads
    held: list[Tensor] = [torch.empty(1, heads, 0, dtype=torch.long) for _ in cache.layers]
    while len(found) < count:
        positions = torch.arange(seen, seen + len(ids))
        output = model(
            torch.tensor([ids]), position_ids=positions[None], **{cache_name(model): cache},
            attention_mask=torch.ones(1, len(ids) + held[0].shape[-1]),
        )  # fmt: skip
        seen += len(ids)
        held = [torch.cat([h, positions.expand(1, heads, -1)], dim=-1) for h in held]
        if (seen - 1) % budget.interval == 0 and held[0].shape[-1] > budget.tokens:
            for number, layer in enumerate(cache.layers):
                view = CacheView(
                    keys=layer.keys,
                    values=layer.values,
                    positions=held[number],
                    protected=held[number] >= seen - budget.window,
                    seen=torch.tensor([seen]),
                    sequences=torch.tensor([0]),
                )
                keep = policy.evictor.keep(policy.scorer.score(view), view, budget.tokens)
                slots = [keep[0, head].nonzero()[:, 0] for head in range(heads)]
                held[number] = torch.stack([held[number][0, h, s] for h, s in enumerate(slots)])[
                    None
                ]
                for name in ("keys", "values"):
                    tensor = getattr(layer, name)
                    kept = torch.stack([tensor[0, h, s] for h, s in enumerate(slots)])[None]
                    setattr(layer, name, kept)
        ids = [int(output.logits[0, -1].argmax())]
        found += ids
    return found


def test_ratio_budgets_follow_the_tokens_seen(decode: Callable[..., list[Completion]]) -> None:
    policy = Policy(budget=Budget(ratio=0.25, interval=8, window=2), scorer=KeyNorm())
    for completion in decode(policy, max_new_tokens=200, trace=True):
        records = completion.trace or ()
        assert records
        for record in records:
            assert record.kept.shape[-1] == max(-(-record.seen // 4), 3)  # window and one more


def test_a_protected_prompt_is_never_dropped(
    decode: Callable[..., list[Completion]], tokenizer: PreTrainedTokenizerFast
) -> None:
    policy = Policy(budget=Budget(tokens=40, interval=8, window=4, prompt=True), scorer=Recency())
    for completion in decode(policy, max_new_tokens=150, trace=True):
        for record in completion.trace or ():
            prompt = torch.arange(completion.prompt_tokens)
            assert (record.kept[..., : completion.prompt_tokens] == prompt).all()


def test_sampling_is_the_requests_own(decode: Callable[..., list[Completion]]) -> None:
    policy = presets.snapkv(32, interval=16)
    sampling = Sampling(temperature=1.0, top_p=0.9, top_k=20, n=2, seed=7)
    whole = decode(policy, sampling=sampling)
    assert [(c.index, c.sample) for c in whole] == [(i, s) for i in range(4) for s in range(2)]
    assert len(set(tokens(whole))) == 8
    assert tokens(decode(policy, sampling=sampling, batch_size=3)) == tokens(whole)
    [*_, last] = decode(policy, PROMPTS[3:], sampling=sampling, seeds=[7 + 3])
    assert last.tokens == whole[-1].tokens
    assert (
        tokens(decode(policy, PROMPTS[::-1], sampling=sampling, seeds=[10, 9, 8, 7]))[:2]
        == (tokens(whole)[-2:])
    )


def test_a_sequence_ends_at_eos_and_its_slot_is_used_again(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = toy_model(eos=True, seed=3)
    engine = Engine(model, tokenizer, presets.rkv(32, interval=16), batch_size=2)
    sampling = Sampling(temperature=1.5, n=12)
    completions = list(engine.generate(["a"], max_new_tokens=200, sampling=sampling))
    ended = [c for c in completions if c.stop_reason == "eos"]
    assert ended
    for completion in completions:
        assert (1 in completion.tokens) == (completion.stop_reason == "eos")
        assert 1 not in completion.tokens[:-1]
        assert completion.stats.new_tokens == len(completion.tokens)
    alone = Engine(model, tokenizer, presets.rkv(32, interval=16), batch_size=12)
    assert tokens(list(alone.generate(["a"], max_new_tokens=200, sampling=sampling))) == tokens(
        completions
    )


@pytest.mark.parametrize("name", ["full", "skipkv"])
def test_looking_at_the_tokens_less_often_changes_none(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """On an accelerator the host looks every few steps; what was decoded too far is thrown away."""
    policy = presets.full() if name == "full" else presets.skipkv(32, threshold=0.5, interval=16)
    model = toy_model(eos=True, seed=3)
    options: dict[str, Any] = {
        "max_new_tokens": 50,
        "stop": ["so"],
        "sampling": Sampling(temperature=1.5, n=4),
    }
    every_step, seldom = (
        list(
            Engine(model, tokenizer, policy, batch_size=3, read_every=steps).generate(
                PROMPTS, **options
            )
        )
        for steps in (1, 16)
    )
    assert {c.stop_reason for c in every_step} == {"eos", "stop_string", "length"}
    assert [(c.tokens, c.text, c.stop_reason) for c in seldom] == [
        (c.tokens, c.text, c.stop_reason) for c in every_step
    ]


def test_a_stop_string_ends_the_text_before_it(
    decode: Callable[..., list[Completion]], tokenizer: PreTrainedTokenizerFast
) -> None:
    [whole] = decode(presets.full(), ["a"])
    stop = tokenizer.decode(whole.tokens[20:23])  # spans tokens
    at = whole.text.index(stop)
    [stopped] = decode(presets.full(), ["a"], stop=["never said", stop])
    assert stopped.text == whole.text[:at]
    assert stopped.stop_reason == "stop_string"
    assert len(stopped.tokens) <= 23


def test_one_stop_string_needs_no_list(decode: Callable[..., list[Completion]]) -> None:
    [whole] = decode(presets.full(), ["a"])
    stop = whole.text[10:13]
    assert decode(presets.full(), ["a"], stop=stop)[0].text == whole.text.partition(stop)[0]


def test_completions_come_in_order_or_as_they_finish(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    stop = tokenizer.decode(greedy(model, tokenizer("a")["input_ids"], 3)[-1:])
    engine = Engine(model, tokenizer, presets.full(), batch_size=4)
    options: dict[str, Any] = {"max_new_tokens": 60, "stop": [stop]}
    ordered = list(engine.generate(PROMPTS, **options))
    assert [c.index for c in ordered] == [0, 1, 2, 3]
    finished = list(engine.generate(PROMPTS, ordered=False, **options))
    lengths = [len(c.tokens) for c in finished]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1
    assert {c.index: c.tokens for c in finished} == {c.index: c.tokens for c in ordered}


def test_a_chat_goes_through_the_template(model: PreTrainedModel) -> None:
    tokenizer = toy_tokenizer()
    chat = [[{"role": "user", "content": "one plus two"}]]
    engine = Engine(model, tokenizer, presets.full())
    with pytest.raises(InputError, match="no chat template"):
        engine.generate(chat, max_new_tokens=5)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}?"
    [completion] = engine.generate(chat, max_new_tokens=5)
    [plain] = engine.generate(["one plus two?"], max_new_tokens=5)
    assert completion.tokens == plain.tokens


class Poisoned:
    """Scores NaN for sequences whose keys say so."""

    def __init__(self, tokens_seen: int) -> None:
        self.tokens_seen = tokens_seen

    def score(self, view: CacheView) -> Tensor:
        scores = view.positions.float()
        scores[view.seen == self.tokens_seen] = torch.nan
        return scores


def test_a_scorer_that_breaks_fails_its_sequence_and_no_other(
    decode: Callable[..., list[Completion]],
) -> None:
    budget = Budget(tokens=24, interval=8)
    healthy = decode(Policy(budget=budget, scorer=Recency()), [[9] * 30, [9] * 40, [9] * 26])
    policy = Policy(budget=budget, scorer=WindowAttention() * 0 + Poisoned(40))
    first, broken, last = decode(policy, [[9] * 30, [9] * 40, [9] * 26])
    assert broken.stop_reason == "error"
    assert isinstance(broken.error, PartError)
    assert "Poisoned" in str(broken.error)
    assert "NaN" in str(broken.error)
    assert first.error is None
    assert first.stop_reason == "length"
    assert (first.tokens, last.tokens) == (healthy[0].tokens, healthy[2].tokens)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda view: view.positions.float()[:, :1], r"must return \[R, H, L\]"),
        (lambda view: view.positions, "torch.float32"),
        (lambda view: 1 / 0, "ZeroDivisionError"),
        (lambda view: None, "NoneType"),
    ],
)
def test_a_scorer_with_a_wrong_answer_is_named(
    answer: Callable[[CacheView], Any], message: str, decode: Callable[..., list[Completion]]
) -> None:
    class Wrong:
        def score(self, view: CacheView) -> Any:
            return answer(view)

        def __repr__(self) -> str:
            return "Wrong()"

    for completion in decode(Policy(budget=Budget(tokens=24, interval=8), scorer=Wrong())):
        assert completion.stop_reason == "error"
        assert 0 < len(completion.tokens) < 80
        assert "Wrong()" in str(completion.error)
        with pytest.raises(PartError, match=message):
            raise completion.error  # type: ignore[misc]


def test_a_scheduler_that_starves_the_engine_is_named(
    decode: Callable[..., list[Completion]],
) -> None:
    class Idle:
        def admit(self, waiting: Any, *, free: int, running: int) -> list[int]:
            return []

    for completion in decode(Policy(scheduler=Idle())):
        assert completion.stop_reason == "error"
        assert re.search(r"Idle.*admit returned \[\]", str(completion.error))


@pytest.mark.parametrize("answer", [None, ["first"], 0])
def test_a_scheduler_that_answers_with_no_indices_is_named(
    answer: Any, decode: Callable[..., list[Completion]]
) -> None:
    class Odd:
        def admit(self, waiting: Any, *, free: int, running: int) -> Any:
            return answer

        def __repr__(self) -> str:
            return "Odd()"

    for completion in decode(Policy(scheduler=Odd())):
        with pytest.raises(
            PartError, match=rf"Odd\(\)\.admit must return .*, got {re.escape(repr(answer))}"
        ):
            raise completion.error  # type: ignore[misc]


def test_the_model_is_as_it_was_whenever_a_result_is_handed_out(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    def state() -> tuple[Any, ...]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        return model.config._attn_implementation, hooks

    before, ids = state(), tokenizer("so")["input_ids"]
    expected = greedy(model, ids, 20)
    engine = Engine(model, tokenizer, presets.skipkv(32, interval=8), batch_size=1)
    for _ in engine.generate(PROMPTS, max_new_tokens=50):
        assert state() == before
        assert greedy(model, ids, 20) == expected
    stream = engine.generate(PROMPTS, max_new_tokens=50)
    next(stream)
    del stream  # abandoned half-way
    assert state() == before


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["one", ""], {}, "Prompt 1 is empty"),
        (["  \n"], {}, "Prompt 0 is empty"),
        ([[]], {}, "Prompt 0 is empty: it has no tokens and no messages"),
        ([[3, 1000]], {}, "token id 1000; the vocabulary has"),
        ("one", {}, r"Wrap it: \[prompt\]"),
        (["one"], {"max_new_tokens": 0}, "at least 1, got 0"),
        (["one"], {"max_new_tokens": 2.5}, "whole number of at least 1, got 2.5"),
        (["one"], {"max_new_tokens": True}, "max_new_tokens must be a whole number"),
        (["one"], {"max_new_tokens": 40000}, "32768 positions"),
        (["one"], {"stop": [""]}, "empty string"),
        (["one"], {"stop": ["so", 7]}, "stop must hold strings, got 7"),
        (["one"], {"stop": 7}, "stop must be a string or a list of strings, got 7"),
        (["one"], {"invalid": "skip"}, "'raise' or 'fail', got 'skip'"),
        (["one"], {"seeds": [1, 2]}, "for each of the 1 prompts"),
        (["one"], {"seeds": [1.5]}, "seeds must hold whole numbers of at least 0, got 1.5"),
        (["one"], {"seeds": [-1]}, "seeds must hold whole numbers of at least 0, got -1"),
        (["one"], {"chat_template_kwargs": {"tokenize": True}}, "must not hold tokenize"),
        (["one"], {"chat_template_kwargs": {"max_length": 9}}, "max_length, which no template"),
    ],
)
def test_bad_input_is_refused_at_the_call(
    prompts: Any,
    options: dict[str, Any],
    message: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    engine = Engine(model, tokenizer, presets.full())
    with pytest.raises(InputError, match=message):
        engine.generate(prompts, **{"max_new_tokens": 8, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "4"}, "batch_size='4'"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"prefill_chunk": None}, "prefill_chunk=None"),
        ({"graphs": "cuda"}, "graphs='cuda'"),
        ({"read_every": 2.0}, "read_every=2.0"),
        ({"read_every": 0}, "read_every=0"),
        ({"eos_token_ids": ["</s>"]}, "eos_token_ids must hold whole numbers .*got '</s>'"),
        ({"eos_token_ids": "</s>"}, "eos_token_ids must be a list of whole numbers, got '</s>'"),
    ],
)
def test_settings_of_another_kind_are_refused(
    options: Any,
    message: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    as_users_call: None,
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        Engine(model, tokenizer, presets.full(), **options)


def test_a_prompt_too_long_to_be_protected_is_refused_at_the_call(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    policy = Policy(budget=Budget(tokens=20, window=4, prompt=True))
    engine = Engine(model, tokenizer, policy)
    with pytest.raises(InputError, match="leaves no room in a budget of 20"):
        engine.generate([[9] * 16], max_new_tokens=8)
    assert len(list(engine.generate([[9] * 15], max_new_tokens=8))) == 1


def test_an_engine_that_cannot_work_is_not_built(tokenizer: PreTrainedTokenizerFast) -> None:
    model = toy_model()
    with pytest.raises(ConfigError, match="batch_size=0"):
        Engine(model, tokenizer, presets.full(), batch_size=0)
    with pytest.raises(ConfigError, match="prefill_chunk=0"):
        Engine(model, tokenizer, presets.full(), prefill_chunk=0)
    model.generation_config.eos_token_id = None
    tokenizer = toy_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="names an EOS token"):
        Engine(model, tokenizer, presets.full())
    endless = Engine(model, tokenizer, presets.full(), eos_token_ids=[])
    assert len(next(endless.generate(["a"], max_new_tokens=9)).tokens) == 9


def test_a_tokenizer_without_a_pad_token_is_enough(
    model: PreTrainedModel, decode: Callable[..., list[Completion]]
) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.pad_token = None
    engine = Engine(model, tokenizer, presets.full(), batch_size=4)  # nothing is ever padded
    assert tokens(list(engine.generate(PROMPTS, max_new_tokens=80))) == tokens(
        decode(presets.full())
    )


def test_no_prompts_give_no_completions(decode: Callable[..., list[Completion]]) -> None:
    assert decode(presets.full(), []) == []


def test_first_come_first_served_fills_a_freed_slot_at_once(
    decode: Callable[..., list[Completion]],
) -> None:
    running_when_admitted = []

    class Watched(Continuous):
        def admit(self, waiting: Any, *, free: int, running: int) -> Any:
            running_when_admitted.append(running)
            return super().admit(waiting, free=free, running=running)

    [a, _] = decode(presets.full(), ["a", "one plus two"], max_new_tokens=30)
    stop = a.text[10:12]
    decode(presets.full().with_(scheduler=Watched()), ["a"] + ["so"] * 5, batch_size=3, stop=[stop])
    assert running_when_admitted[0] == 0
    assert any(running > 0 for running in running_when_admitted[1:])


def test_padding_is_what_batches_filled_to_their_longest_prompt_would_have_stored(
    decode: Callable[..., list[Completion]], tokenizer: PreTrainedTokenizerFast
) -> None:
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    policy = Policy(scheduler=LengthGrouped(batch_size=2))
    together, grouped, alone = (
        [completion.stats.padding for completion in decode(*how, max_new_tokens=5)]
        for how in ((Policy(),), (policy,), (Policy(), PROMPTS[:1]))
    )
    assert together == [max(lengths) - length for length in lengths]
    assert sum(grouped) == padding_tokens(sorted(lengths), batch_size=2) < sum(together)
    assert alone == [0]


def test_a_segmenter_that_breaks_fails_its_sequence_and_no_other(
    decode: Callable[..., list[Completion]],
) -> None:
    class Picky(Newline):
        def cut(self, stream: Any) -> Any:
            if "wait" in stream.text:
                raise RuntimeError("no waiting")
            return super().cut(stream)

    policy = presets.skipkv(32, interval=16).with_(segmenter=Picky())
    calm = [[9] * 60, [9] * 3]
    prompts = [calm[0], *toy_tokenizer()(["wait so", "so"])["input_ids"], calm[1]]
    first, broken, *_ = completions = decode(policy, prompts, max_new_tokens=12)
    assert broken.stop_reason == "error"
    assert "no waiting" in str(broken.error)
    assert first.error is None
    assert {c.stop_reason for c in completions} == {"error", "length"}


def test_a_repeated_sentence_of_the_prompt_is_spared_where_asked_for() -> None:
    """The same line three times: at an event the first two are redundant, unless spared."""
    line, end = [5, 6, 7, 8, 9], toy_tokenizer()("\n\n")["input_ids"]
    prompt = (line + end) * 3
    spared = {}
    for prompt_sentences in (True, False):
        policy = presets.skipkv(
            len(prompt), threshold=0.5, interval=8, prompt_sentences=prompt_sentences
        )
        engine = Engine(toy_model(), toy_tokenizer(), policy, eos_token_ids=[])
        [done] = engine.generate([prompt], max_new_tokens=20, trace=True)
        assert done.trace is not None
        kept = done.trace[-1].kept
        spared[prompt_sentences] = int(((kept >= 0) & (kept < 2 * len(line + end))).sum())
    assert spared[False] > spared[True]
