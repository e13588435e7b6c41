"""The steering hook: what a steerer is told, and what becomes of its delta."""

import re
from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marked_tokenizers import HARMONY, messages, renamed
from torch import Tensor

from skipkv import Budget, Policy
from skipkv._types import Needs, SteeringContext
from skipkv.errors import ConfigError
from skipkv.runtime.parts.steering import Steering, check_steerer
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.seam.lending import borrowed
from skipkv.runtime.session import Session
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.thinking import TAGS, ThinkingMarks
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import FixedLength
from skipkv.steerers import NoSteering
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.testing.fakes import VOCABULARY

modest = settings(max_examples=60, deadline=None)
SIZE = 4
SENTENCES = Needs(sentences=True)
ID = {text: i for i, text in enumerate(VOCABULARY)}
X, LINE, PARAGRAPH = ID["x"], ID[".\n"], ID[".\n\n"]
OPEN, CLOSE = ID["<think>"], ID["</think>"]
TOKENS = st.sampled_from([X, LINE, PARAGRAPH, ID["\n\n"], OPEN, CLOSE])
ROWS = st.lists(TOKENS, min_size=1, max_size=8)
TEXT = TokenText(toy_tokenizer())


@attrs.frozen(kw_only=True)
class Nudge:
    """Adds 1 + the number of thoughts wherever the law allows it; remembers what it was told."""

    layer: int | None = 1
    needs: Needs = attrs.field(default=SENTENCES, repr=False)
    told: list[SteeringContext] = attrs.field(factory=list, repr=False)

    def delta(self, hidden: Tensor, context: SteeringContext) -> Tensor:
        # the runtime goes on writing into what it shows
        self.told.append(attrs.evolve(context, thoughts=context.thoughts.clone()))
        strength = 1.0 + context.thoughts.sum(dim=-1)
        return (strength * (context.at_delimiter & context.thinking))[:, None].expand_as(hidden)


class WithoutMarks:
    """The toy tokenizer, as if its think marks were plain words."""

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        pieces = TEXT.pieces(token_ids)
        return "".join("think" if "think>" in piece else piece for piece in pieces)


def steering(steerer: Any = None, *, marked: bool = True, sequences: int = 3) -> Steering:
    return Steering(
        steerer or Nudge(),
        sequences=sequences,
        vocabulary=len(VOCABULARY) + 2,  # models round up
        text=TEXT if marked else TokenText(WithoutMarks()),
        thinking=TAGS if marked else None,
        device="cpu",
    )


def step(state: Steering, first: int, ids: list[int], *, asks: bool = True) -> Tensor:
    """One decode step; what was added to each row's hidden state."""
    hidden = torch.randn(len(ids), 1, SIZE)
    positions = torch.arange(len(ids))[:, None]
    state.begin(first, torch.tensor(ids)[:, None], positions, known=ids if asks else None)
    answer = state.hook(torch.nn.Module(), (hidden, "mask"), {"more": 1})
    state.end()
    if answer is None:
        return torch.zeros(len(ids))
    (steered, *rest), kwargs = answer
    assert rest == ["mask"]
    assert kwargs == {"more": 1}
    added = (steered - hidden)[:, 0]
    assert torch.allclose(added, added[:, :1].expand_as(added), atol=1e-5)
    return added[:, 0].round()


def thinks(tokens: list[int], before: bool) -> bool:
    """Whether a sequence thinks after these tokens."""
    for token in tokens:
        before = (before or token == OPEN) and token != CLOSE
    return before


@modest
@given(prompt=ROWS, cuts=st.lists(st.integers(0, 8), max_size=2), decoded=ROWS, asks=st.booleans())
def test_deltas_fall_on_paragraph_ends_inside_the_think_block_alone(
    prompt: list[int], cuts: list[int], decoded: list[int], asks: bool
) -> None:
    state = steering()
    state.start(1)
    bounds = [0, *sorted(cuts), len(prompt)]
    for start, end in pairwise(bounds):
        state.read_prompt(1, prompt[start:end])
    for i, token in enumerate(decoded):
        thinking = thinks(prompt + decoded[: i + 1], before=False)
        expected = thinking and "\n\n" in VOCABULARY[token]
        assert step(state, 1, [token], asks=asks).tolist() == [float(expected)]


CHANNELS = renamed(HARMONY)
CHANNEL_MARKS = ThinkingMarks.of(CHANNELS)
CHANNEL_TOKENS = messages().map(CHANNELS.convert_tokens_to_ids)


@modest
@given(
    prompt=CHANNEL_TOKENS,
    cut=st.integers(0, 10),
    decoded=CHANNEL_TOKENS,
    asks=st.booleans(),
    moved=st.integers(0, 10),
)
@example(  # a word between the parts of a mark
    prompt=[],
    cut=0,
    decoded=CHANNELS.convert_tokens_to_ids(
        ["<|channel|>", "so", "analysis", "<|message|>", ".\n\n"]
    ),
    asks=True,
    moved=9,
)
def test_marks_of_several_tokens_are_found_across_chunks_steps_and_moves(
    prompt: list[int], cut: int, decoded: list[int], asks: bool, moved: int
) -> None:
    text = TokenText(CHANNELS)
    marks = Marks.of(text, len(VOCABULARY), CHANNEL_MARKS)
    state = Steering(
        Nudge(),
        sequences=2,
        vocabulary=len(VOCABULARY),
        text=text,
        thinking=CHANNEL_MARKS,
        device="cpu",
    )
    lane = 0
    state.start(lane)
    for part in (prompt[:cut], prompt[cut:]):
        state.read_prompt(lane, part)
    expected = marks.thinking(prompt, decoded)[len(prompt) :]
    for place, token in enumerate(decoded):
        if place == moved:
            state.load(1, state.save(0))
            lane = 1
        acts = expected[place] and marks.ends_paragraph(token)
        assert step(state, lane, [token], asks=asks).tolist() == [float(acts)]


@modest
@given(decoded=ROWS)
def test_without_think_marks_all_that_is_decoded_counts_as_thinking(decoded: list[int]) -> None:
    state = steering(marked=False)
    state.start(0)
    state.read_prompt(0, decoded)
    for token in decoded:
        assert step(state, 0, [token]).tolist() == [float("\n\n" in VOCABULARY[token])]


@modest
@given(rows=st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=3), asks=st.booleans())
def test_rows_follow_their_own_sequence(rows: list[tuple[int, ...]], asks: bool) -> None:
    """Steps for a part of the sequences leave the state of the others alone."""
    state, alone = steering(), [steering(sequences=1) for _ in rows]
    for number, prompt in enumerate(rows):
        state.start(number)
        state.read_prompt(number, prompt[:1])
        alone[number].start(0)
        alone[number].read_prompt(0, prompt[:1])
    together = [step(state, 0, [row[1] for row in rows], asks=asks).tolist()]
    first = len(rows) // 2
    together.append(step(state, first, [row[2] for row in rows[first:]], asks=asks).tolist())
    for number, row in enumerate(rows):
        assert step(alone[number], 0, [row[1]]).tolist() == [together[0][number]]
        if number >= first:
            assert step(alone[number], 0, [row[2]]).tolist() == [together[1][number - first]]


def test_the_steerer_is_told_the_counts_of_thoughts_last_refreshed() -> None:
    nudge = Nudge()
    state = steering(nudge)
    for number in (0, 1):
        state.start(number)
        state.read_prompt(number, [OPEN])
    state.count(1, torch.tensor([0, 0, 2]))
    assert step(state, 0, [PARAGRAPH, PARAGRAPH]).tolist() == [1.0, 4.0]
    assert nudge.told[-1].thoughts.tolist() == [[0, 0, 0], [2, 0, 1]]
    assert nudge.told[-1].at_delimiter.tolist() == [True, True]
    assert nudge.told[-1].positions.tolist() == [0, 1]
    state.count(1, torch.tensor([0, 0, 2, 1, 1]))
    assert step(state, 1, [PARAGRAPH]).tolist() == [6.0]
    state.count(1, torch.tensor([], dtype=torch.long))
    assert step(state, 1, [PARAGRAPH]).tolist() == [1.0]


def test_a_sequence_takes_its_state_along_and_a_new_one_finds_none() -> None:
    state = steering()
    for number in (0, 1):
        state.start(number)
    state.read_prompt(1, [OPEN])
    state.count(1, torch.tensor([1, 1]))
    state.put([0], [1])
    assert step(state, 0, [PARAGRAPH]).tolist() == [3.0]
    state.start(0)
    assert step(state, 0, [PARAGRAPH]).tolist() == [0.0]
    state.read_prompt(0, [OPEN])
    assert step(state, 0, [PARAGRAPH]).tolist() == [1.0]


def test_outside_a_decode_step_nothing_is_added() -> None:
    state = steering()
    state.start(0)
    args: Any = (torch.randn(1, 5, SIZE),)
    assert state.hook(torch.nn.Module(), args, {}) is None
    step(state, 0, [OPEN])
    assert state.hook(torch.nn.Module(), args, {}) is None


def test_hidden_states_given_by_name_are_steered_too() -> None:
    state = steering()
    state.start(0)
    state.read_prompt(0, [OPEN])
    state.begin(0, torch.tensor([[PARAGRAPH]]), torch.tensor([[3]]), known=[PARAGRAPH])
    given_ = {"hidden_states": torch.zeros(1, 1, SIZE), "other": 1}
    args, kwargs = state.hook(torch.nn.Module(), (), given_)
    assert args == ()
    assert kwargs["other"] == 1
    assert kwargs["hidden_states"].tolist() == [[[1.0] * SIZE]]
    assert not given_["hidden_states"].any()  # the caller's tensor is not written to


@attrs.frozen
class Fixed:
    """Returns the same whatever it is asked."""

    value: Any
    layer: int = 0

    def delta(self, hidden: Tensor, context: SteeringContext) -> Any:
        return self.value


@pytest.mark.parametrize(
    "value",
    [None, torch.zeros(SIZE), torch.zeros(3, SIZE), torch.zeros(1, SIZE, dtype=torch.float64)],
    ids=["nothing", "one row", "too many rows", "float64"],
)
def test_a_delta_of_another_shape_or_dtype_names_the_steerer(value: Any) -> None:
    """It would otherwise reach the other rows, or change the dtype of all that follows."""
    state = steering(Fixed(value))
    state.start(0)
    state.start(1)
    state.read_prompt(1, [OPEN])
    ids = torch.tensor([[PARAGRAPH], [PARAGRAPH]])
    state.begin(0, ids, torch.tensor([[0], [0]]), known=None)
    (steered,), _ = state.hook(torch.nn.Module(), (torch.zeros(2, 1, SIZE),), {})
    # only the sequence that thinks is steered at all
    assert steered.isnan().all(dim=-1).tolist() == [[False], [True]]
    [(number, error)] = state.end().items()
    assert number == 1
    assert re.search(r"Fixed\([\s\S]*\.delta must return .*\[R, E\] = \[1, 4\]", str(error))


@pytest.mark.parametrize("layer", [-1, 2, 7])
def test_a_layer_the_model_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=rf"steers layer {layer}.*layers are 0 to 1"):
        check_steerer(Nudge(layer=layer), layers=2, width=SIZE)
    check_steerer(Nudge(layer=1), layers=2, width=SIZE)
    check_steerer(NoSteering(), layers=2, width=SIZE)


def session(steerer: Any, *, layer: int = 1) -> Session:
    policy = Policy(
        budget=Budget(tokens=16, interval=4),
        steerer=steerer,
        segmenter=FixedLength(tokens=3),
    )
    return Session(toy_model(layers=3), policy, sequences=2, text=TEXT)


def hooks(model: Any) -> list[int]:
    return [len(layer._forward_pre_hooks) for layer in model.base_model.layers]


def test_one_layer_is_hooked_and_only_while_decoding() -> None:
    steered, plain = session(Nudge(layer=1)), session(NoSteering())
    with steered.hooked():
        assert hooks(steered.model) == [0, 1, 0]
    with plain.hooked():
        assert hooks(plain.model) == [0, 0, 0]
    assert hooks(steered.model) == [0, 0, 0]


def run(state: Session, ids: Tensor, *, prompt: bool) -> Tensor:
    pass_ = state.prompts(0, [ids.shape[1]] * len(ids), ids) if prompt else state.step(ids)
    with state.run(pass_) as arguments:
        logits = state.model(**arguments).logits
    return logits[:, -1]


@modest
@given(
    rows=st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=3), columns=st.integers(8, 9)
)
def test_a_prompt_that_ends_a_paragraph_inside_the_think_block_is_steered_at_its_last_token(
    rows: list[tuple[list[int], bool]], columns: int
) -> None:
    state = steering()
    for number in range(len(rows)):
        state.start(number)
    positions = torch.tensor([len(ids) - 1 for ids, _ in rows])
    state.begin_prompt(0, [ids for ids, _ in rows], [end for _, end in rows], positions)
    hidden = torch.randn(len(rows), columns, SIZE)
    output = state.hook(torch.nn.Module(), (hidden,), {})
    added = torch.zeros_like(hidden) if output is None else output[0][0] - hidden
    state.end()
    for (ids, end), got in zip(rows, added, strict=True):
        expected = end and thinks(ids, before=False) and "\n\n" in VOCABULARY[ids[-1]]
        assert not got[:-1].any()
        assert got[-1].round().tolist() == [float(expected)] * SIZE


@torch.inference_mode()
@pytest.mark.parametrize("length", [3, 30])  # in one pass, and in chunks
def test_in_a_model_the_end_of_a_prompt_is_steered_once(length: int) -> None:
    prompts = [[OPEN, *[X] * (length - 2), last] for last in (PARAGRAPH, X)]
    logits = []
    for steerer in (Nudge(layer=1), NoSteering()):
        policy = Policy(budget=Budget(tokens=16, interval=4), steerer=steerer)
        state = Session(toy_model(layers=3), policy, sequences=2, text=TEXT)
        for prompt in prompts:
            state.start(Sequence(prompt_tokens=len(prompt)))
        with borrowed(state.model, by="Engine"), state.hooked():
            for ranges in state.passes([length, length]):
                ids = torch.tensor(prompts)[:, ranges[0].start : ranges[0].stop]
                last = run(state, ids, prompt=True)
                state.events(state.sequences)
        logits.append(last)
    changed = [not torch.equal(a, b) for a, b in zip(*logits, strict=True)]
    assert changed == [True, False]


@torch.inference_mode()
def test_in_a_model_only_the_rows_at_a_delimiter_change() -> None:
    steered, plain = session(Nudge(layer=1)), session(NoSteering())
    prompt = torch.tensor([[OPEN, PARAGRAPH, X], [OPEN, PARAGRAPH, X]])
    steps = [[X, X], [X, PARAGRAPH], [LINE, X], [PARAGRAPH, X]]
    logits: dict[Any, list[Tensor]] = {}
    for state in (steered, plain):
        for _ in prompt:
            state.start(Sequence(prompt_tokens=prompt.shape[1]))
        with borrowed(state.model, by="Engine"), state.hooked():
            outputs = [run(state, prompt, prompt=True)]
            outputs += [run(state, torch.tensor(s)[:, None], prompt=False) for s in steps]
        logits[state] = outputs
    # Row 1 was steered at step 2, row 0 at step 4; before, they are bit for bit as without.
    changed = [
        [not torch.equal(a, b) for a, b in zip(with_, without, strict=True)]
        for with_, without in zip(logits[steered], logits[plain], strict=True)
    ]
    assert changed == [
        [False, False],
        [False, False],
        [False, True],
        [False, True],
        [True, True],
    ]


@torch.inference_mode()
def test_counts_of_thoughts_are_refreshed_at_events() -> None:
    nudge = Nudge(layer=1)
    state = session(nudge)
    state.join(state.start(Sequence(prompt_tokens=4)))
    with borrowed(state.model, by="Engine"), state.hooked():
        run(state, torch.full((1, 4), X), prompt=True)
        state.events(state.sequences)
        for token in [PARAGRAPH] * 6:
            run(state, torch.tensor([[token]]), prompt=False)
            state.sequences[0].fed([token])
            state.events(state.due())
    # sentences of 3: one in the prompt, two more are known after the event that token 9 brings
    assert [int(c.thoughts.sum()) for c in nudge.told] == [1, 1, 1, 1, 1, 3]
