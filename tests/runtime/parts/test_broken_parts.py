"""What becomes of a generation when a part of the policy breaks, or the model does."""

import gc
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import torch
from replayed_steps import Recorder
from torch import Tensor
from transformers import PreTrainedModel

import skipkv
from skipkv import Budget, Completion, Engine, Policy, Sampling, ThinkingMarks, presets
from skipkv._types import CacheView, Needs, SteeringContext
from skipkv.errors import ModelError, PartError
from skipkv.evictors import Reserved, Shared, TopK
from skipkv.runtime.parts import checked
from skipkv.scorers import KeyNorm
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.testing.fakes import VOCABULARY

NEEDS = Needs(queries=4, sentences=True)
BUDGET = Budget(tokens=24, interval=8)
ID = {text: i for i, text in enumerate(VOCABULARY)}
OPEN, PARAGRAPH, X, BAD = ID["<think>"], ID[".\n\n"], ID["x"], ID["seven"]
PROMPTS = [[X] * 30, [X] * 40, [X] * 26]


def decode(policy: Policy, prompts: Any = PROMPTS, **options: Any) -> list[Completion]:
    model = options.pop("model", None) or toy_model()
    names = ("batch_size", "read_every", "graphs")
    how = {name: options.pop(name) for name in names if name in options}
    engine = Engine(model, toy_tokenizer(), policy, **{"batch_size": 4, **how})
    return list(engine.generate(prompts, **{"max_new_tokens": 40, **options}))


def part(**methods: Any) -> Any:
    """An object with these methods, called `Odd()`."""
    members = {name: staticmethod(method) for name, method in methods.items() if callable(method)}
    members |= {name: value for name, value in methods.items() if not callable(value)}
    return type("Odd", (), {**members, "__repr__": lambda self: "Odd()"})()


def policy_with(kind: str, method: Callable[..., Any]) -> Policy:
    """A policy in which every part is asked, one of them being this."""
    name = {
        "scorer": "score",
        "evictor": "keep",
        "segmenter": "cut",
        "steerer": "delta",
        "scheduler": "admit",
    }[kind]
    odd = part(**{name: method, "needs": NEEDS, "layer": 1})
    return presets.skipkv(24, interval=8).with_(**{kind: odd})


KINDS = ["scorer", "evictor", "segmenter", "steerer", "scheduler"]
STEERED = [OPEN, X, X, PARAGRAPH]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        KeyboardInterrupt(),
    ],
    ids=["cuda", "python", "linux", "other", "interrupt"],
)
def test_running_out_of_memory_in_a_part_is_not_the_parts_error(
    kind: str, error: BaseException
) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        decode(policy_with(kind, short), [STEERED * 10])
    assert caught.value is error


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_a_completion_carries_keeps_nothing_of_the_cache_and_says_where_it_arose(
    kind: str,
) -> None:
    kept: list[weakref.ref[Tensor]] = []

    def fails(*shown: Any, **__: Any) -> Any:
        for value in shown:
            tensor = getattr(value, "keys", getattr(value, "positions", value))
            kept.extend([weakref.ref(tensor)] if isinstance(tensor, Tensor) else [])
        raise KeyError("topic")

    [completion] = decode(policy_with(kind, fails), [STEERED * 10])
    assert completion.stop_reason == "error"
    assert str(completion.error).startswith("Odd().")
    assert "raised KeyError: 'topic'" in str(completion.error)
    assert 'raise KeyError("topic")' in "".join(completion.error.__notes__)
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert kept or kind in ("segmenter", "scheduler")


def test_heads_that_share_budgets_keep_no_more_than_their_sum() -> None:
    def keep(scores: Tensor, view: CacheView, budget: int) -> Tensor:
        return TopK().keep(scores, view, budget + 1)

    pooled = part(keep=keep, mixes_heads=True, most_per_head=lambda budget: 2 * budget)
    policy = Policy(budget=BUDGET, scorer=KeyNorm(), evictor=pooled)
    for completion in decode(policy):
        assert completion.stop_reason == "error"
        assert str(completion.error) == (
            "Odd() kept more than the budget of 24 entries per head, or more than 48 of one head."
        )


def test_a_scorer_inside_an_evictor_is_held_to_finite_scores_too() -> None:
    def score(view: CacheView) -> Tensor:
        longest = (view.seen == 40)[:, None, None]
        return torch.where(longest, torch.nan, view.positions.float())

    odd = part(score=score)
    for evictor in (Reserved(scorer=odd), Shared(evictor=Reserved(scorer=odd))):
        policy = Policy(budget=BUDGET, scorer=KeyNorm(), evictor=evictor)
        first, second, third = decode(policy)
        assert (first.error, third.error) == (None, None)
        assert str(second.error).startswith("Odd() scored an entry NaN or infinite.")


def edits(view: CacheView, name: str) -> None:
    """Write to a tensor of the view."""
    if name == "ends":
        assert view.sentences is not None
        view.sentences[0].ends.add_(1)
    else:
        getattr(view, name)[..., :1].zero_()


@pytest.mark.parametrize("name", ["keys", "values", "positions", "protected", "queries", "ends"])
@pytest.mark.parametrize("kind", ["scorer", "evictor"])
def test_a_part_that_edits_its_view_in_place_ends_its_event(kind: str, name: str) -> None:
    def score(view: CacheView) -> Tensor:
        edits(view, name)
        return view.positions.float()

    def keep(scores: Tensor, view: CacheView, budget: int) -> Tensor:
        edits(view, name)
        return TopK().keep(scores, view, budget)

    policy = policy_with(kind, score if kind == "scorer" else keep)
    prompts = [([X, X, PARAGRAPH] * 12)[: len(prompt)] for prompt in PROMPTS]
    for completion in decode(policy, prompts):
        assert completion.stop_reason == "error"
        where = "sentences[0].ends" if name == "ends" else name
        assert f"edited view.{where} in place" in str(completion.error)
        assert str(completion.error).startswith("Odd().")


def replace_keys(view: CacheView) -> Tensor:
    """Put another tensor into a view, past its being frozen."""
    object.__setattr__(view, "keys", torch.zeros(2, 1).clone())
    return view.positions.float()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda view: view.positions.float().to_sparse(), "must return a dense tensor"),
        (replace_keys, r"edited view\.keys"),
    ],
    ids=["sparse", "replaced"],
)
def test_what_a_scorer_does_never_ends_the_whole_generation(
    score: Callable[[CacheView], Tensor], message: str
) -> None:
    for completion in decode(policy_with("scorer", score)):
        assert completion.stop_reason == "error"
        assert isinstance(completion.error, PartError)
        assert re.search(message, str(completion.error))


def test_protection_is_worked_out_by_the_runtime_whatever_became_of_the_view() -> None:
    def score(view: CacheView) -> Tensor:
        view.protected.data.zero_()  # torch does not count this
        return -view.positions.float()

    for completion in decode(Policy(budget=BUDGET, scorer=part(score=score))):
        assert "dropped an entry of view.protected" in str(completion.error)


@attrs.frozen
class Pushes:
    """Steers as the law says; may break on rows that are at some positions."""

    at: tuple[int, ...] = ()
    fault: Callable[[Tensor], Any] = attrs.field(default=lambda delta: 1 / 0, repr=False)
    layer: int = 1
    acted: list[int] = attrs.field(factory=list, repr=False)

    def delta(self, hidden: Tensor, context: SteeringContext) -> Any:
        acts = context.at_delimiter & context.thinking
        delta = acts[:, None] * torch.ones_like(hidden)
        here = context.positions[acts].tolist()
        self.acted.extend(here)
        return self.fault(delta) if set(here) & set(self.at) else delta


# decodes paragraph ends often enough
SAMPLED = Sampling(temperature=5.0, seed=1)
THINKING = [[OPEN] + [X] * n for n in (5, 7, 9, 11)]


def steps_of(completion: Completion) -> list[int]:
    """Positions at which a completion's sequence was steered while decoding."""
    thinking, steps = True, []
    for i, token in enumerate(completion.tokens[:-1]):
        thinking = (thinking or token == OPEN) and token != ID["</think>"]
        if thinking and "\n\n" in VOCABULARY[token]:
            steps.append(completion.prompt_tokens + i)
    return steps


FAULTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "raises": (lambda delta: 1 / 0, "raised ZeroDivisionError"),
    "another shape": (lambda delta: delta[:, :1], r"must return [R, E]"),
    "another device": (lambda delta: delta.to("meta"), "on cpu, got"),
    "no tensor": (lambda delta: None, "got NoneType"),
    "NaN": (lambda delta: torch.where(delta > 0, torch.nan, delta), "NaN or infinite"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("read_every", [1, 16])
def test_a_steerer_that_breaks_ends_the_sequences_it_broke_on_and_no_other(
    fault: str, read_every: int
) -> None:
    healthy = decode(Policy(budget=BUDGET, steerer=Pushes()), THINKING, sampling=SAMPLED)
    position = max(at for completion in healthy for at in steps_of(completion))
    guilty = [i for i, c in enumerate(healthy) if position in steps_of(c)]
    assert 0 < len(guilty) < len(healthy)
    change, message = FAULTS[fault]
    policy = Policy(budget=BUDGET, steerer=Pushes((position,), change))
    for number, (broke, well) in enumerate(
        zip(decode(policy, THINKING, sampling=SAMPLED, read_every=read_every), healthy, strict=True)
    ):
        if number in guilty:
            assert broke.stop_reason == "error"
            assert isinstance(broke.error, PartError)
            assert str(broke.error).startswith(f"Pushes(at=({position},), layer=1).delta ")
            assert message in str(broke.error)
            # the last token is the one it broke on
            assert broke.tokens == well.tokens[: position + 1 - broke.prompt_tokens]
        else:
            assert (broke.tokens, broke.error) == (well.tokens, None)


def test_a_recorded_step_tells_that_a_delta_became_nan_later() -> None:
    healthy = decode(Policy(budget=BUDGET, steerer=Pushes()), THINKING, sampling=SAMPLED)
    position = max(at for completion in healthy for at in steps_of(completion))

    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        acts = context.at_delimiter & context.thinking
        number = torch.where(context.positions == position, torch.nan, 1.0)
        return torch.where(acts[:, None], number[:, None], torch.zeros_like(hidden))

    recorder = Recorder()
    policy = Policy(budget=BUDGET, steerer=part(delta=delta, layer=1))
    broke = decode(policy, THINKING, sampling=SAMPLED, graphs=recorder)
    assert recorder.replays
    assert [c.error is not None for c in broke] == [position in steps_of(c) for c in healthy]
    for completion in broke:
        if completion.error is not None:
            assert str(completion.error).startswith("Odd().delta returned NaN")


def test_a_steerer_that_spoils_the_end_of_a_prompt_is_blamed_where_it_is_compressed_at_once() -> (
    None
):
    """The event came before the logits were read, and found the model's keys not finite."""

    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        acts = context.at_delimiter & context.thinking
        return torch.where(acts[:, None], torch.nan, torch.zeros_like(hidden))

    policy = Policy(budget=BUDGET, scorer=KeyNorm(), steerer=part(delta=delta, layer=0))
    for prompt in (STEERED, [*STEERED[:1], *[X] * 40, PARAGRAPH]):
        [completion] = decode(policy, [prompt])
        assert str(completion.error).startswith("Odd().delta returned NaN")


def test_a_steerer_that_breaks_on_several_rows_together_only_ends_all_it_acted_on() -> None:
    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        if len(hidden) > 1 and bool(context.at_delimiter.any()):
            raise RuntimeError("one at a time")
        return torch.zeros_like(hidden)

    policy = Policy(steerer=part(delta=delta, layer=1))
    first, second, other = decode(policy, [STEERED, STEERED, [OPEN, X, X, X]], max_new_tokens=2)
    assert "one at a time" in str(first.error)
    assert (first.error, first.tokens) == (second.error, second.tokens) == (first.error, ())
    assert len(other.tokens) == 2


def test_a_steerer_that_edits_what_it_is_shown_ends_all_rows_of_the_step() -> None:
    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        return hidden.add_(1) * 0

    for completion in decode(
        Policy(steerer=part(delta=delta, layer=1)), [STEERED, [OPEN, X, X, X]]
    ):
        assert str(completion.error).startswith("Odd().delta edited hidden in place")


@pytest.mark.parametrize("raises", [False, True])
def test_an_edit_concerns_rows_too_on_which_the_steerer_did_not_act(raises: bool) -> None:
    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        hidden.add_(1)
        if raises:
            raise RuntimeError("after the edit")
        return torch.zeros_like(hidden)

    context = SteeringContext(
        at_delimiter=torch.tensor([True, False]),
        thinking=torch.tensor([True, True]),
        thoughts=torch.zeros(2, 3, dtype=torch.long),
        positions=torch.tensor([5, 5]),
    )
    added, faults = checked.delta(part(delta=delta, layer=1), torch.zeros(2, 4), context)
    assert set(faults) == {0, 1}
    assert added.isnan().all()
    assert all(fault.edited for fault in faults.values())


@pytest.mark.parametrize("read_every", [1, 16])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda waiting: 1 / 0, "raised ZeroDivisionError"),
        (lambda waiting: [len(waiting)], "must return distinct indices"),
        (lambda waiting: ["first"], "must return a sequence of indices"),
        (lambda waiting: iter(int, 1), "must return distinct indices"),  # without an end
    ],
    ids=["raises", "no such request", "no numbers", "endless"],
)
def test_a_scheduler_that_breaks_ends_what_waits_and_what_runs_goes_on(
    answer: Callable[[Any], Any], message: str, read_every: int
) -> None:
    def admit(waiting: Any, *, free: int, running: int) -> Any:
        return [0, 1] if len(waiting) == 4 else answer(waiting)

    prompts = [*PROMPTS, [X] * 8]
    healthy = decode(Policy(budget=BUDGET), prompts, batch_size=2)
    policy = Policy(budget=BUDGET, scheduler=part(admit=admit))
    *ran, third, fourth = decode(policy, prompts, batch_size=2, read_every=read_every, trace=True)
    assert [c.tokens for c in ran] == [c.tokens for c in healthy[:2]]
    assert [c.error for c in ran] == [None, None]
    for completion in (third, fourth):
        assert completion.stop_reason == "error"
        assert str(completion.error).startswith("Odd()")
        assert message in str(completion.error)
        assert (completion.tokens, completion.text, completion.trace) == ((), "", ())
        assert completion.stats.new_tokens == completion.stats.peak_entries == 0


def test_a_stream_ends_what_a_broken_scheduler_leaves_waiting() -> None:
    policy = Policy(scheduler=part(admit=lambda waiting, *, free, running: [0] if free == 2 else 0))
    engine = Engine(toy_model(), toy_tokenizer(), policy, batch_size=2)
    pieces = list(engine.stream(["one", "two"], max_new_tokens=5))
    done = {p.index: p.completion.stop_reason for p in pieces if p.completion is not None}
    assert done == {0: "length", 1: "error"}


def test_a_part_whose_repr_fails_is_named_by_its_type() -> None:
    class Nameless:
        def score(self, view: CacheView) -> None:
            return None

        def __repr__(self) -> str:
            raise RuntimeError("no name")

    [completion] = decode(Policy(budget=BUDGET, scorer=Nameless()), PROMPTS[:1])
    assert "Nameless object at " in str(completion.error)


@contextmanager
def spoiled(model: PreTrainedModel, bad: int = BAD) -> Iterator[PreTrainedModel]:
    """A model for which one token is not a number."""

    def spoil(module: torch.nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.masked_fill((args[0] == bad)[..., None], torch.nan)

    handle = model.get_input_embeddings().register_forward_hook(spoil)
    yield model
    handle.remove()


@pytest.mark.parametrize(
    "policy", [presets.full(), presets.rkv(24, interval=8)], ids=["full", "rkv"]
)
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.01)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("length", [4, 40], ids=["short", "compressed"])
def test_logits_that_are_not_finite_end_their_sequence_and_the_model_is_named(
    policy: Policy, sampling: Sampling | None, length: int
) -> None:
    prompts = [[X] * 30, [X] * length + [BAD], [X] * 26]
    healthy = decode(policy, prompts, sampling=sampling)
    with spoiled(toy_model()) as model:
        first, broken, last = decode(policy, prompts, sampling=sampling, model=model)
    assert (first.tokens, last.tokens) == (healthy[0].tokens, healthy[2].tokens)
    assert broken.stop_reason == "error"
    assert broken.tokens == ()
    assert isinstance(broken.error, ModelError)
    assert "not finite (float32)" in str(broken.error)


@pytest.mark.parametrize("read_every", [1, 16])
@pytest.mark.parametrize("recorded", [False, True])
def test_logits_that_become_nan_while_decoding_end_the_sequence_there(
    read_every: int, recorded: bool
) -> None:
    """Neighbours decode on meanwhile, and no token is fed that is none."""
    healthy = decode(Policy(budget=BUDGET), THINKING, sampling=SAMPLED)
    bad = healthy[0].tokens[20]
    assert any(bad not in c.tokens for c in healthy)
    with spoiled(toy_model(), bad) as model:
        ended = decode(
            Policy(budget=BUDGET),
            THINKING,
            sampling=SAMPLED,
            model=model,
            read_every=read_every,
            graphs=(lambda body: body) if recorded else False,
        )
    for completion, well in zip(ended, healthy, strict=True):
        if bad not in well.tokens[:-1]:
            assert completion.tokens == well.tokens
            continue
        assert completion.tokens == well.tokens[: well.tokens.index(bad) + 1]
        assert str(completion.error).startswith("The model's logits are not finite (float32)")


def test_a_steerer_that_reads_what_the_model_spoiled_is_not_blamed() -> None:
    def delta(hidden: Tensor, context: SteeringContext) -> Tensor:
        return hidden * (context.at_delimiter & context.thinking)[:, None]

    with spoiled(toy_model()) as model:
        policy = Policy(steerer=part(delta=delta, layer=1))
        [completion] = decode(policy, [[OPEN, BAD, PARAGRAPH]], model=model)
    assert str(completion.error).startswith("The model's logits are not finite")


def test_in_float16_the_remedy_is_another_dtype() -> None:
    with spoiled(toy_model().to(torch.float16)) as model:
        [completion] = decode(presets.full(), [[X, BAD]], model=model)
    assert "logits are not finite (float16)" in str(completion.error)
    assert "load the model in bfloat16 or float32" in str(completion.error)


@pytest.mark.parametrize(
    "policy", [presets.full(), presets.rkv(24, interval=8)], ids=["full", "rkv"]
)
def test_under_attach_logits_that_are_not_finite_are_raised_before_a_token_is_made_of_them(
    policy: Policy,
) -> None:
    ids = torch.tensor([[X] * 30 + [BAD], [X] * 31])
    with (
        spoiled(toy_model()) as model,
        skipkv.attach(model, policy),
        pytest.raises(ModelError, match=r"logits are not finite \(float32\)"),
    ):
        model.generate(ids, max_new_tokens=5, do_sample=True)


def test_under_attach_a_broken_steerer_is_raised() -> None:
    model = toy_model()
    policy = Policy(steerer=part(delta=lambda hidden, context: None, layer=1))
    with (
        skipkv.attach(model, policy, tokenizer=toy_tokenizer()),
        pytest.raises(PartError, match=r"Odd\(\)\.delta must return a tensor \[R, E\] = \[1, 64\]"),
    ):
        model.generate(torch.tensor([STEERED]), max_new_tokens=5)


def without_paragraphs() -> Any:
    """The toy tokenizer, as if its empty lines were single ones."""
    tokenizer = toy_tokenizer()
    plain = tokenizer.decode
    tokenizer.decode = lambda ids, **kwargs: plain(ids, **kwargs).replace("\n\n", "\n")
    return tokenizer


def test_a_vocabulary_without_an_empty_line_is_warned_of_where_it_means_no_steering() -> None:
    vector = SteeringVector(vector=torch.ones(64), layer=1, model="toy")
    steered, model = Policy(steerer=AdditiveSteerer(vector)), toy_model()
    says = r"AdditiveSteerer\([\s\S]* never acts on this model[\s\S]*empty line"
    with pytest.warns(UserWarning, match=says):
        engine = Engine(model, without_paragraphs(), steered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        list(engine.generate(["one", "two"], max_new_tokens=3))
    with (
        pytest.warns(UserWarning, match=says),
        skipkv.attach(model, steered, tokenizer=without_paragraphs()),
    ):
        model.generate(torch.tensor([[X, X]]), max_new_tokens=3)


def test_marks_that_the_vocabulary_cannot_write_are_warned_of_where_a_steerer_needs_them() -> None:
    """Without marks it would act in the answer too."""
    vector = SteeringVector(vector=torch.ones(64), layer=1, model="toy")
    steered, model = Policy(steerer=AdditiveSteerer(vector)), toy_model()
    marks = ThinkingMarks(opens="[THINK]", closes="[/THINK]")
    says = r"acts wherever this model decodes[\s\S]*cannot write ThinkingMarks\(opens='\[THINK\]'"
    with pytest.warns(UserWarning, match=says):
        Engine(model, toy_tokenizer(), steered, thinking=marks)
    with (
        pytest.warns(UserWarning, match=says),
        skipkv.attach(model, steered, tokenizer=toy_tokenizer(), thinking=marks),
    ):
        model.generate(torch.tensor([[X, X]]), max_new_tokens=3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("steer", [False, True])
def test_other_vocabularies_and_policies_are_not_warned_of(steer: bool) -> None:
    vector = SteeringVector(vector=torch.ones(64), layer=1, model="toy")
    policy = Policy(steerer=AdditiveSteerer(vector)) if steer else Policy()
    Engine(toy_model(), toy_tokenizer() if steer else without_paragraphs(), policy)
