"""Where skipkv meets transformers: a policy decodes, or an error says why not; nothing between."""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from toy_prompts import PRESETS, PROMPTS
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import skipkv
from skipkv import Engine, Policy, presets
from skipkv.errors import InputError, SkipKVWarning, UnsupportedModelError
from skipkv.runtime.seam import functions, names, wrapped
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model

POLICY = presets.rkv(32, interval=16)


def generated(model: Any, batch: dict[str, Tensor], **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 80, "do_sample": False, **options}
    return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :].tolist()


# --- every frontend really compresses -------------------------------------------------------------


def test_both_frontends_evict_without_a_warning(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with skipkv.attach(model, POLICY) as attached:
            tokens = generated(model, batch)
        completions = list(Engine(model, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=80))
    assert attached.peak_entries == [c.stats.peak_entries for c in completions] == [48] * 3
    assert attached.events == [c.stats.events for c in completions]
    assert min(attached.events) > 0
    assert tokens == [list(c.tokens) for c in completions]


class SkipsItsCache(torch.nn.Module):
    """Stands in a layer's attention for a version of transformers that stores entries elsewhere."""

    def __init__(self, stock: torch.nn.Module) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        renamed = {name: kwargs[name] for name in kwargs if name not in names.CACHE_NAMES}
        return self.stock(*args, **renamed)


@pytest.mark.parametrize("frontend", ["attach", "engine"])
def test_a_layer_that_bypasses_the_cache_is_an_error_that_names_the_versions(
    frontend: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    model.model.layers[1].self_attn = SkipsItsCache(model.model.layers[1].self_attn)

    def decode() -> None:
        if frontend == "engine":
            list(Engine(model, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=9))
        else:
            with skipkv.attach(model, POLICY):
                generated(model, batch)

    with pytest.raises(UnsupportedModelError, match=r"Of 2 attention layers, 1 wrote") as caught:
        decode()
    assert transformers.__version__ in str(caught.value)


def test_attention_of_a_models_own_is_an_error(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    model.model.layers[0].self_attn.config = config  # it never hears of another attention
    with pytest.raises(UnsupportedModelError, match=r"1 attended through it"):
        list(Engine(model, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=9))


def without_hooks(module: torch.nn.Module) -> None:
    """Give a module the `__call__` of model code that runs `forward` past the hooks."""
    kind = type(module)
    call = {"__call__": lambda self, *args, **kwargs: self.forward(*args, **kwargs)}
    module.__class__ = type(kind.__name__, (kind,), call)


def steering(layer: int, width: int) -> AdaptiveSteerer:
    return AdaptiveSteerer(SteeringVector(vector=torch.ones(width), layer=layer), growth=0.0)


@pytest.mark.parametrize("frontend", ["attach", "engine"])
@pytest.mark.parametrize("deaf", ["body", "layer"])
def test_a_model_that_calls_its_parts_past_their_hooks_is_an_error(
    deaf: str,
    frontend: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    policy = presets.skipkv(32, interval=16)  # reads hidden states
    without_hooks(model.model if deaf == "body" else model.model.layers[1])
    if deaf == "layer":
        policy = Policy(steerer=steering(1, model.config.hidden_size))

    def decode() -> None:
        if frontend == "engine":
            list(Engine(model, tokenizer, policy).generate(PROMPTS, max_new_tokens=9))
        else:
            with skipkv.attach(model, policy, tokenizer=tokenizer):
                generated(model, batch)

    with pytest.raises(UnsupportedModelError, match=r"hooks"):
        decode()
    assert model.config._attn_implementation == "sdpa"


def test_a_newer_version_than_the_tested_ones_warns_once() -> None:
    with pytest.warns(SkipKVWarning, match=r"transformers 5\.99.*tested with transformers 5\.0\.0"):
        names.check_version("5.99.0.dev0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names.check_version("5.99.0.dev0")
        names.check_version(names.NEWEST)


# --- wrappers -------------------------------------------------------------------------------------


class ValueHead(torch.nn.Module):
    """As trainers wrap a model: generation is the inner model's."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.pretrained_model = inner
        self.head = torch.nn.Linear(4, 1)

    def generate(self, **options: Any) -> Any:
        return self.pretrained_model.generate(**options)


@pytest.mark.parametrize("wrap", [torch.compile, ValueHead, lambda m: ValueHead(torch.compile(m))])
@pytest.mark.parametrize("policy", [POLICY, presets.skipkv(32, interval=16)])
def test_a_wrapper_decodes_under_the_policy(
    wrap: Callable[[Any], Any],
    policy: Policy,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    expected = [
        list(c.tokens)
        for c in Engine(model, tokenizer, policy).generate(PROMPTS, max_new_tokens=80)
    ]
    wrapped = wrap(model)
    engine = Engine(wrapped, tokenizer, policy)
    assert [list(c.tokens) for c in engine.generate(PROMPTS, max_new_tokens=80)] == expected
    with skipkv.attach(wrapped, policy, tokenizer=tokenizer) as attached:
        assert generated(wrapped, batch) == expected
    assert min(attached.events) > 0


def test_adapters_that_prepend_virtual_tokens_are_refused(model: PreTrainedModel) -> None:
    wrapper = ValueHead(model)
    wrapper.active_peft_config = SimpleNamespace(is_prompt_learning=True)  # type: ignore[assignment]
    with (
        pytest.raises(UnsupportedModelError, match="virtual tokens"),
        skipkv.attach(wrapper, POLICY),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model.model, "no language model's head"),
        (lambda model: torch.nn.Linear(2, 2), "with 0 transformers models"),
        (lambda model: torch.nn.ModuleList([model, toy_model()]), "with 2 transformers models"),
    ],
)
def test_what_does_not_generate_is_refused(
    make: Callable[[Any], Any],
    message: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(InputError, match=message):
        Engine(make(model), tokenizer, POLICY)
    with pytest.raises(InputError, match=message), skipkv.attach(make(model), POLICY):
        pass


def test_a_name_is_no_model() -> None:
    with pytest.raises(InputError, match=r"got 'tiny'\. To load one.*Engine\.from_pretrained"):
        wrapped.causal_lm("tiny", user="Engine")


def test_a_model_compiled_in_place_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.compile()
    with pytest.raises(InputError, match="compiled in place"):
        Engine(model, tokenizer, POLICY)


def test_leaving_attach_without_a_pass_warns(model: PreTrainedModel) -> None:
    with (
        pytest.warns(SkipKVWarning, match="under no policy"),
        skipkv.attach(model, POLICY),
    ):
        generated(toy_model(), {"input_ids": torch.tensor([[5, 6]])}, max_new_tokens=3)


def test_a_model_defined_in_a_notebook_decodes(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    notebook = ModuleType("a_notebook")  # no file to read its source from
    source = "from transformers import LlamaForCausalLM\nclass Mine(LlamaForCausalLM): pass"
    exec(source, notebook.__dict__)
    stock = toy_model()
    mine = notebook.Mine(stock.config)  # type: ignore[attr-defined]
    mine.load_state_dict(stock.state_dict())
    mine.generation_config = stock.generation_config
    with skipkv.attach(mine.eval(), POLICY) as attached:
        tokens = generated(mine, batch)
    completions = Engine(stock, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=80)
    assert tokens == [list(c.tokens) for c in completions]
    assert min(attached.events) > 0


# --- one user at a time, and all is put back -----------------------------------------------------


def test_engines_of_several_threads_on_one_model_take_turns(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    policies = [POLICY, presets.skipkv(32, interval=8), presets.h2o(24, interval=8), presets.full()]

    def decode(policy: Policy) -> list[tuple[int, ...]]:
        engine = Engine(model, tokenizer, policy, batch_size=2)
        return [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=40)]

    alone = [decode(policy) for policy in policies]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode, policies)) == alone
    assert model.config._attn_implementation == "sdpa"


def test_one_engine_serves_several_threads(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    # Sentences and steering hook into the model. Where the hooks of one thread saw the passes of
    # another, batches of unlike sizes ended in wrong tokens, or in a write beyond a tensor's end.
    policy = presets.skipkv(32, interval=8, steering=steering(1, model.config.hidden_size))
    engine = Engine(model, tokenizer, policy, batch_size=3)

    def decode(count: int) -> list[tuple[int, ...]]:
        return [c.tokens for c in engine.generate(PROMPTS[:count], max_new_tokens=40)]

    counts = [1, 2, 3] * 2
    alone = [decode(count) for count in counts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode, counts)) == alone


class Calls:
    """A scorer that calls something at every event, while a model is in the engine's hands."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.results: list[object] = []

    def score(self, view: Any) -> Tensor:
        self.results.append(self.call())
        return view.positions.float()


@contextmanager
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Runs a call in another thread and waits for it."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda call: pool.submit(call).result(timeout=60)


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_a_plain_padded_generate_in_another_thread_is_what_it_always_is(
    own: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    model.set_attn_implementation(own)
    expected = generated(model, batch, max_new_tokens=12)
    with elsewhere() as run:
        scorer = Calls(lambda: run(lambda: generated(model, batch, max_new_tokens=12)))
        policy = Policy(budget=POLICY.budget, scorer=scorer)
        [completion] = Engine(model, tokenizer, policy).generate(["one plus"], max_new_tokens=60)
    assert completion.error is None
    assert scorer.results
    assert all(result == expected for result in scorer.results)
    assert model.config._attn_implementation == own


def test_the_base_model_called_inside_attach_sees_its_mask(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        expected = model.model(**batch).last_hidden_state
        with skipkv.attach(model, POLICY):
            generated(model, batch, max_new_tokens=20)
            assert torch.equal(model.model(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("generating", [False, True])
def test_an_engine_inside_attach_is_refused_at_once(
    generating: bool,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    engine = Engine(model, tokenizer, POLICY)
    before = generated(model, batch)
    with skipkv.attach(model, POLICY) as attached:
        if generating:
            generated(model, batch)
        with pytest.raises(InputError, match=r"in use by skipkv\.attach\."):
            engine.generate(PROMPTS, max_new_tokens=5)
        with (
            pytest.raises(InputError, match=r"in use by skipkv\.attach\."),
            skipkv.attach(model, POLICY),
        ):
            pass
        with elsewhere() as run, pytest.raises(InputError, match="in another thread"):
            run(lambda: list(engine.generate(PROMPTS, max_new_tokens=5)))
        assert len(generated(model, batch)) == 3  # the first one goes on
    assert min(attached.events) > 0
    assert model.config._attn_implementation == "sdpa"
    assert generated(model, batch) == before


def test_an_engine_called_by_a_part_of_another_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    inner = Engine(model, tokenizer, POLICY)
    scorer = Calls(lambda: inner.generate(["a"], max_new_tokens=3))
    policy = Policy(budget=POLICY.budget, scorer=scorer)
    [completion] = Engine(model, tokenizer, policy).generate(["one plus"], max_new_tokens=60)
    assert "in use by an Engine" in str(completion.error)


def test_two_generations_at_once_under_one_attach_end_one_with_an_error(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    with skipkv.attach(model, POLICY):
        expected = generated(model, batch, max_new_tokens=60)
        barrier = threading.Barrier(2)

        def run(_: int) -> object:
            barrier.wait()
            try:
                return generated(model, batch, max_new_tokens=60)
            except InputError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(run, range(2)))
    assert any(isinstance(result, InputError) for result in results)
    assert all(isinstance(result, InputError) or result == expected for result in results)


def test_a_generation_in_a_thread_of_its_own_is_attached(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    with skipkv.attach(model, POLICY) as attached, elsewhere() as run:
        assert run(lambda: generated(model, batch)) == generated(model, batch)
    assert min(attached.events) > 0


def test_a_copy_made_while_attached_says_what_is_wrong_with_it(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    with skipkv.attach(model, POLICY):
        generated(model, batch, max_new_tokens=3)
        config = copy.deepcopy(model.config)
    copied = type(model)(config)
    copied.config._attn_implementation = functions.NAME
    with pytest.raises(UnsupportedModelError, match="was copied"):
        generated(copied, batch, max_new_tokens=3)
    with pytest.raises(UnsupportedModelError, match="copied or saved"):
        list(Engine(copied, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=3))


def test_a_failed_pass_leaves_the_model_usable(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    expected = generated(model, batch)
    with skipkv.attach(model, POLICY):
        under = generated(model, batch)
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[10_000]]))
        with elsewhere() as run:
            assert run(lambda: generated(model, batch)) == under
    assert generated(model, batch) == expected


def test_training_mode_is_as_it_was(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = [
        c.tokens for c in Engine(model, tokenizer, POLICY).generate(PROMPTS, max_new_tokens=40)
    ]
    model.train()
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    before = [part.training for part in model.modules()]
    engine = Engine(model, tokenizer, POLICY)
    assert [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=40)] == expected
    assert [part.training for part in model.modules()] == before
    # Before transformers 5.24 gradient checkpointing keeps no cache.
    keeps_none = names.cache_name(model) == "past_key_values"
    refused = pytest.raises(UnsupportedModelError, match=r"model\.eval\(\)")
    with skipkv.attach(model, POLICY) as attached, refused if keeps_none else nullcontext():
        generated(model, {"input_ids": torch.tensor([[5, 6]])})
    assert keeps_none or min(attached.events) > 0


# --- what generate() and its callers may ask for --------------------------------------------------


def attention_weights(model: Any, batch: dict[str, Tensor]) -> None:
    model(**batch, output_attentions=True)


def offloading(model: Any, batch: dict[str, Tensor]) -> None:
    generated(model, batch, cache_implementation="offloaded")


def a_static_cache(model: Any, batch: dict[str, Tensor]) -> None:
    generated(model, batch, cache_implementation="static")


def continuous_batching(model: Any, batch: dict[str, Tensor]) -> None:
    model.generate_batch(batch["input_ids"].tolist(), max_new_tokens=3)


def positions_with_a_gap(model: Any, batch: dict[str, Tensor]) -> None:
    columns = torch.arange(batch["input_ids"].shape[1])
    model(**batch, position_ids=columns.expand_as(batch["input_ids"]))


def hidden_states_of_a_long_prompt(model: Any, batch: dict[str, Tensor]) -> None:
    model(input_ids=torch.full((1, 60), 9), logits_to_keep=1, output_hidden_states=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (attention_weights, "output_attentions=True"),
        (offloading, "DynamicCache with offloading"),
        (a_static_cache, "takes the place of StaticCache"),
        (continuous_batching, r"skipkv\.Engine, which batches continuously"),
        (positions_with_a_gap, "position_ids given differ"),
        (hidden_states_of_a_long_prompt, "output_hidden_states=True"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(
    call: Callable[[Any, dict[str, Tensor]], None],
    message: str,
    model: PreTrainedModel,
    batch: dict[str, Tensor],
) -> None:
    with (
        torch.no_grad(),
        skipkv.attach(model, POLICY),
        pytest.raises(InputError, match=message),
    ):
        call(model, batch)
    lent = {"generate_batch", "init_continuous_batching", "prepare_inputs_for_generation"}
    assert not lent & set(vars(model))


def followed(model: Any, batch: dict[str, Tensor], tail: list[list[int]], mask: Tensor) -> Any:
    """A second turn after a first one, in the same cache."""
    options = {"max_new_tokens": 30, "do_sample": False, "return_dict_in_generate": True}
    first = model.generate(**batch, min_new_tokens=30, **options)
    ids = torch.cat([first.sequences, torch.tensor(tail)], dim=1)
    cache = {names.cache_name(model): getattr(first, names.cache_name(model))}
    whole = torch.cat([batch["attention_mask"], torch.ones(3, 30, dtype=torch.long), mask], dim=1)
    return model.generate(ids, attention_mask=whole, **cache, **options).sequences


def test_a_left_padded_second_turn_decodes_as_without_a_policy(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    tail = [[5, 6, 7], [0, 0, 9], [0, 8, 9]]
    mask = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]])
    expected = followed(model, batch, tail, mask)
    with skipkv.attach(model, presets.h2o(400)) as attached:
        assert torch.equal(followed(model, batch, tail, mask), expected)
    tokens = batch["attention_mask"].sum(dim=1) + mask.sum(dim=1) + 59
    assert attached.peak_entries == tokens.tolist()


def test_a_mask_that_hides_what_is_stored_is_refused(
    model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    hidden = {**batch}

    def second_turn() -> None:
        options = {"max_new_tokens": 9, "do_sample": False, "return_dict_in_generate": True}
        first = model.generate(**hidden, min_new_tokens=9, **options)
        ids = torch.cat([first.sequences, torch.tensor([[5], [6], [7]])], dim=1)
        mask = torch.cat([batch["attention_mask"], torch.ones(3, 10, dtype=torch.long)], dim=1)
        mask[1, -4:-2] = 0  # the row had ended before the others
        cache = {names.cache_name(model): getattr(first, names.cache_name(model))}
        ids = torch.cat([ids, ids[:, -1:]], dim=1)
        mask = torch.cat([mask, mask[:, -1:]], dim=1)
        model.generate(ids, attention_mask=mask, **cache, **options)

    with skipkv.attach(model, POLICY), pytest.raises(InputError, match="Row 1: the attention mask"):
        second_turn()


@pytest.mark.parametrize("chunk", [4, 7, 64])
def test_prefill_in_chunks_with_left_padding_decodes_as_without_a_policy(
    chunk: int, model: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    try:
        expected = generated(model, batch, prefill_chunk_size=chunk)
    except ValueError as reason:
        pytest.skip(f"transformers {transformers.__version__} cannot: {reason}")
    with skipkv.attach(model, presets.h2o(400)) as attached:
        assert generated(model, batch, prefill_chunk_size=chunk) == expected
    assert attached.peak_entries == [n + 79 for n in batch["attention_mask"].sum(dim=1).tolist()]


@pytest.mark.parametrize("frontend", ["attach", "engine"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_evicts_under_autocast(
    name: str,
    frontend: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    policy = presets.get(name)(32, interval=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if frontend == "engine":
            completions = list(
                Engine(model, tokenizer, policy).generate(PROMPTS, max_new_tokens=80)
            )
            assert [c.error for c in completions] == [None] * 3
            assert min(c.stats.events for c in completions) > 0
        else:
            with skipkv.attach(model, policy, tokenizer=tokenizer) as attached:
                generated(model, batch)
            assert min(attached.events) > 0


@pytest.mark.parametrize("frontend", ["attach", "engine"])
def test_autocast_decodes_as_without_a_policy(
    frontend: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: dict[str, Tensor],
) -> None:
    row = {name: tensor[:1, -3:] for name, tensor in batch.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = generated(model, row, max_new_tokens=24)
        for policy in (presets.full(), presets.h2o(400), presets.rkv(400)):
            if frontend == "attach":
                with skipkv.attach(model, policy):
                    assert generated(model, row, max_new_tokens=24) == expected
            else:
                engine = Engine(model, tokenizer, policy)
                [found] = engine.generate([row["input_ids"][0].tolist()], max_new_tokens=24)
                assert [list(found.tokens)] == expected


def test_what_is_fed_after_a_rows_end_is_no_cost_of_its_own(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    model = toy_model(eos=True, seed=3)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    policy = presets.rkv(24, interval=8)
    options = {"do_sample": True, "max_new_tokens": 150, "temperature": 1.0, "top_k": 0}
    lengths = None
    for seed in range(40):  # rows that end at different steps
        torch.manual_seed(seed)
        with skipkv.attach(model, policy, trace=True) as attached:
            rows = generated(model, batch, **options)
        eos = model.generation_config.eos_token_id
        lengths = [row.index(eos) + 1 if eos in row else len(row) for row in rows]
        if min(lengths) < 60 < 90 < max(lengths):
            break
    assert lengths is not None
    assert min(lengths) < 60 < 90 < max(lengths)
    prompts = batch["attention_mask"].sum(dim=1).tolist()
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        fed = prompt + length - 1  # the token that ends a sequence is fed to no one
        ends = [seen for seen in range(9, fed + 1, 8) if seen > 24]  # k * interval + 1
        assert attached.events[row] == len(ends) == len(attached.trace[row])
        assert attached.evicted[row] == sum(record.evicted for record in attached.trace[row])
        assert attached.peak_entries[row] <= min(fed, 32)
