"""`attach`: the same budgets and tokens under transformers' own `generate()`."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_prompts import PRESETS, PROMPTS
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

import skipkv
from skipkv import Budget, Engine, Policy, presets
from skipkv.errors import ConfigError, InputError, PartError, SkipKVWarning, UnsupportedModelError
from skipkv.runtime.seam.names import cache_name
from skipkv.scorers import KeyNorm
from skipkv.testing import toy_model, toy_tokenizer


def decoded(output: Tensor, batch: dict[str, Tensor]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in output[:, batch["input_ids"].shape[1] :].tolist()]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("h2o", "rkv", "skipkv")))
        for name in PRESETS
    ],
)
def test_a_left_padded_batch_decodes_as_the_engine_does(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    policy = presets.get(name)(32, interval=16)
    engine = Engine(model, tokenizer, policy)
    expected = [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=120)]
    with skipkv.attach(model, policy, tokenizer=tokenizer) as attached:
        output = model.generate(**batch, max_new_tokens=120, do_sample=False)
    assert decoded(output, batch) == expected
    assert attached.peak_entries == [48, 48, 48]
    assert all(attached.events)
    assert all(attached.evicted)


# tests/models has the other families
@pytest.mark.parametrize("family", ["qwen2"])
def test_room_for_everything_changes_nothing(family: Any, batch: dict[str, Tensor]) -> None:
    model = toy_model(family)
    options = {**batch, "max_new_tokens": 256, "do_sample": False}
    expected = model.generate(**options)
    for policy in (presets.full(), presets.h2o(400)):
        with skipkv.attach(model, policy) as attached:
            assert (model.generate(**options) == expected).all()
        assert attached.evicted == [0, 0, 0]


def test_sampling_draws_what_transformers_draws(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    options = {**batch, "max_new_tokens": 100, "do_sample": True, "num_return_sequences": 2}
    torch.manual_seed(5)
    expected = model.generate(**options)
    with skipkv.attach(model, presets.snapkv(300)):
        torch.manual_seed(5)
        assert (model.generate(**options) == expected).all()


def test_padding_takes_no_room(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    width = batch["input_ids"].shape[1]
    with skipkv.attach(model, presets.full()) as attached:
        model.generate(**batch, max_new_tokens=11, do_sample=False)
    assert attached.peak_entries == [n + 10 for n in batch["attention_mask"].sum(dim=1).tolist()]
    assert min(attached.peak_entries) < width + 10


def test_a_prompt_longer_than_the_budget_goes_in_in_chunks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [[5 + i % 70 for i in range(n)] for n in (70, 200, 48, 3)]
    policy = presets.skipkv(32, threshold=0.5, interval=16)
    engine = Engine(model, tokenizer, policy)
    expected = [c.tokens for c in engine.generate(prompts, max_new_tokens=60)]
    ids = torch.tensor([[0] * (200 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (200 - len(p)) + [1] * len(p) for p in prompts])
    with skipkv.attach(model, policy, tokenizer=tokenizer) as attached:
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=60, do_sample=False, min_new_tokens=60
        )
    assert decoded(output, {"input_ids": ids}) == expected
    assert attached.peak_entries == [48, 48, 48, 48]


def test_positions_go_on_from_the_true_length(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    seen: list[Tensor] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        with skipkv.attach(model, presets.streaming_llm(16, interval=8)):
            model.generate(**batch, max_new_tokens=60, do_sample=False)
    finally:
        handle.remove()
    lengths = batch["attention_mask"].sum(dim=1)
    for step, positions in enumerate(seen[1:]):
        assert (positions[:, 0] == lengths + step).all()


def test_several_generations_follow_each_other(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    with skipkv.attach(model, presets.rkv(32, interval=16)) as attached:
        first = model.generate(**batch, max_new_tokens=60, do_sample=False)
        single = model.generate(batch["input_ids"][:1, -3:], max_new_tokens=60, do_sample=False)
        assert len(attached.peak_entries) == 1
        again = model.generate(**batch, max_new_tokens=60, do_sample=False)
    assert (first == again).all()
    assert single.shape[1] == 63


def test_everything_is_undone_on_exit_and_after_an_error(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    def state() -> tuple[Any, ...]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        return model.config._attn_implementation, hooks

    class Broken:
        def score(self, view: Any) -> Any:
            raise RuntimeError("no")

    before = state()
    expected = model.generate(**batch, max_new_tokens=30, do_sample=False)
    broken = Policy(budget=Budget(tokens=12, interval=4), scorer=Broken())
    with pytest.raises(PartError, match=r"Broken.*raised RuntimeError: no"):  # noqa: SIM117
        with skipkv.attach(model, broken):
            model.generate(**batch, max_new_tokens=30, do_sample=False)
    assert state() == before
    with skipkv.attach(model, presets.tova(16)):
        model.generate(**batch, max_new_tokens=30, do_sample=False)
    assert state() == before
    assert (model.generate(**batch, max_new_tokens=30, do_sample=False) == expected).all()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_layers_with_a_window_are_no_policys_business(
    family: Any, batch: dict[str, Tensor]
) -> None:
    model = toy_model(family, layers=4, sliding_window=8)
    options = {**batch, "max_new_tokens": 80, "do_sample": False}
    expected = model.generate(**options)
    with skipkv.attach(model, presets.full()):
        assert (model.generate(**options) == expected).all()
    policy = Policy(budget=Budget(tokens=16, interval=8, window=4), scorer=KeyNorm())
    with skipkv.attach(model, policy) as attached:
        model.generate(**options)
        assert attached.peak_entries == [24, 24, 24]
        model.generate(torch.full((1, 40), 9), max_new_tokens=5)  # in chunks
        assert attached.peak_entries == [24]


def right_padding(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model.generate(**{name: tensor.flip(1) for name, tensor in batch.items()}, max_new_tokens=2)


def an_empty_prompt(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    model.generate(batch["input_ids"], attention_mask=mask, max_new_tokens=2)


def no_cache(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model.generate(**batch, max_new_tokens=2, use_cache=False)


def embeddings(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model(inputs_embeds=model.get_input_embeddings()(batch["input_ids"]))


def a_used_cache(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    cache = DynamicCache(config=model.config)
    filled = torch.zeros(3, 2, 1, 16)
    for layer in range(2):
        cache.update(filled, filled, layer)
    model(input_ids=batch["input_ids"], **{cache_name(model): cache})


def all_logits_of_a_long_prompt(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model(input_ids=torch.full((1, 60), 9))


def a_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model(input_ids=batch["input_ids"], labels=batch["input_ids"])


def fewer_rows_than_the_cache_has(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    output = model(**batch, logits_to_keep=1)
    name = cache_name(model)
    model(input_ids=torch.full((1, 1), 9), **{name: getattr(output, name)})


def another_attention(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model.set_attn_implementation("eager")
    model.generate(**batch, max_new_tokens=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (fewer_rows_than_the_cache_has, "holds 3 sequences, and this pass has 1 rows"),
        (another_attention, "became 'eager' while a policy was attached"),
        (right_padding, "padding_side = 'left'"),
        (an_empty_prompt, "Prompt 1 is empty"),
        (no_cache, "use_cache=False"),
        (embeddings, "needs input_ids"),
        (a_used_cache, "must start with an empty cache"),
        (all_logits_of_a_long_prompt, "logits_to_keep=1"),
        (a_loss, "compute a loss outside"),
    ],
)
def test_what_cannot_be_decoded_is_refused(
    call: Callable[[PreTrainedModel, dict[str, Tensor]], None],
    message: str,
    model: PreTrainedModel,
    batch: dict[str, Tensor],
) -> None:
    with (
        torch.no_grad(),
        skipkv.attach(model, presets.tova(32, interval=8)),
        pytest.raises(InputError, match=message),
    ):
        call(model, batch)


def test_a_prompt_too_long_to_be_protected_is_refused(model: PreTrainedModel) -> None:
    policy = Policy(budget=Budget(tokens=20, window=4, prompt=True), scorer=KeyNorm())
    with (
        skipkv.attach(model, policy),
        pytest.raises(InputError, match="leaves no room in a budget of 20"),
    ):
        model.generate(torch.full((1, 16), 9), max_new_tokens=8)


@pytest.mark.parametrize("name", ["h2o", "snapkv"])
def test_a_loop_of_ones_own_may_compute_gradients(
    name: str, model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    """They pass nowhere through the cache, nor through what is recorded beside it."""
    step: Any = model
    policy = presets.get(name)(budget=32, interval=8)
    found = []
    for gradients in (False, True):
        with skipkv.attach(model, policy), torch.set_grad_enabled(gradients):
            output = step(**batch, logits_to_keep=1)
            chosen = [output.logits[:, -1:].argmax(dim=-1)]
            for _ in range(40):
                cache = {cache_name(model): getattr(output, cache_name(model))}
                output = step(input_ids=chosen[-1], **cache)
                chosen.append(output.logits.argmax(dim=-1))
            found.append(torch.cat(chosen, dim=1))
            assert output.logits.requires_grad == gradients
    assert torch.equal(found[0], found[1])


def test_beam_search_is_refused(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    with (
        skipkv.attach(model, presets.tova(32)),
        pytest.raises(UnsupportedModelError, match="Beam search"),
    ):
        model.generate(**batch, max_new_tokens=5, num_beams=2)


@pytest.mark.parametrize(
    ("call", "given"), [("batch_repeat_interleave", 2), ("batch_select_indices", torch.tensor([1]))]
)
def test_rows_of_a_cache_are_neither_repeated_nor_chosen(
    call: str, given: Any, model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    step: Any = model
    with skipkv.attach(model, presets.tova(32)):
        cache = getattr(step(**batch, logits_to_keep=1), cache_name(model))
        with pytest.raises(UnsupportedModelError, match="Start a new generation with the rows"):
            getattr(cache, call)(given)


def test_a_policy_that_reads_text_asks_for_the_tokenizer(model: PreTrainedModel) -> None:
    with (
        pytest.raises(ConfigError, match="tokenizer=tokenizer"),
        skipkv.attach(model, presets.skipkv(64)),
    ):
        pass


def test_costs_are_known_only_after_a_generation(model: PreTrainedModel) -> None:
    with (
        pytest.warns(SkipKVWarning, match="another module decoded it"),
        skipkv.attach(model, presets.full()) as attached,
        pytest.raises(InputError, match="Nothing has been generated"),
    ):
        _ = attached.events


@pytest.mark.usefixtures("as_users_call")
def test_a_tokenizer_that_is_none_is_refused_before_anything_is_decoded(
    model: PreTrainedModel,
) -> None:
    with (
        pytest.raises(InputError, match=r"skipkv\.attach needs the model's tokenizer, got 'tiny'"),
        skipkv.attach(model, presets.skipkv(64), tokenizer="tiny"),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize("pieces", [(9, 1, 15), (9, 1, 1, 1, 13), (1, 1, 23)])
def test_tokens_fed_several_at_once_after_single_ones_are_read_in_their_order(
    pieces: tuple[int, ...],
) -> None:
    """A further turn of a conversation is such a pass."""
    model, tokenizer = toy_model(), toy_tokenizer()
    end = tokenizer.encode("\n\n")
    ids = torch.tensor([[*range(5, 10), *end, *range(12, 16), *end, *range(12, 16), *end]])
    ids = torch.cat([ids, torch.arange(20, 20 + 25 - ids.shape[1])[None]], dim=1)
    policy = presets.skipkv(20, interval=8, window=2, threshold=0.1)

    def kept(pieces: tuple[int, ...]) -> list[tuple[int, list[Any]]]:
        with skipkv.attach(model, policy, tokenizer=tokenizer, trace=True) as attached:
            cache: dict[str, Any] = {}
            for start, stop in itertools.pairwise([0, *itertools.accumulate(pieces)]):
                out = model(input_ids=ids[:, start:stop], use_cache=True, logits_to_keep=1, **cache)
                name = cache_name(model)
                cache = {name: getattr(out, name, None) or out.past_key_values}
            return [(event.seen, event.kept.tolist()) for event in attached.trace[0]]

    assert kept(pieces) == kept((25,))
