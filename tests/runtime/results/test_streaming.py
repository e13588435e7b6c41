"""Streamed text is never taken back: pieces join to the text of the completion."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import TOKENIZERS, byte_fallback, byte_level, cleaning
from torch import Tensor

from skipkv import Budget, CacheView, Completion, Engine, Observer, Policy, Sampling, presets, tiny
from skipkv.errors import InputError, PartError
from skipkv.runtime import ObservedPass
from skipkv.runtime.results.streaming import TextStream
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a", "wait. so b is the sum of c"]


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@settings(max_examples=150)
@given(data=st.data())
def test_what_is_streamed_begins_the_text_of_all_tokens_and_the_rest_completes_it(
    any_tokenizer: Any, data: st.DataObject
) -> None:
    few = data.draw(st.lists(st.integers(0, len(any_tokenizer) - 1), min_size=1, max_size=6))
    order = random.Random(data.draw(st.integers(0, 99)))
    ids = order.choices(few, k=data.draw(st.integers(1, 120)))
    whole = any_tokenizer.decode(ids, skip_special_tokens=True)
    # with little context older tokens are let go often, and at awkward places
    stream = TextStream(any_tokenizer, context=data.draw(st.sampled_from([1, 2, 16])))
    streamed, fed = "", 0
    while fed < len(ids):
        count = order.choice([1, 1, 3, 16])
        streamed += stream.feed(ids[fed : fed + count])
        fed += count
        assert whole.startswith(streamed)
    assert streamed + stream.rest(whole) == whole


@settings(max_examples=100)
@given(data=st.data())
def test_nothing_of_a_stop_string_or_behind_it_is_streamed(
    any_tokenizer: Any, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(any_tokenizer) - 1), min_size=1, max_size=40))
    whole = any_tokenizer.decode(ids, skip_special_tokens=True)
    spots = st.tuples(st.integers(0, max(len(whole) - 1, 0)), st.integers(1, 8))
    said = [whole[a : a + n] for a, n in data.draw(st.lists(spots, min_size=1, max_size=3))]
    stop = ["never said", *filter(None, said)]
    stream = TextStream(any_tokenizer, stop=stop)
    streamed = "".join(stream.feed([token]) for token in ids)
    first = min((whole.index(s) for s in stop if s in whole), default=len(whole))
    assert whole[:first].startswith(streamed)


@pytest.mark.parametrize(
    ("make", "tokens", "pieces"),
    [
        (toy_tokenizer, ["one", " ", "two"], ["one", " ", "two"]),
        (byte_level, ["H", "Ã", "©", "!"], ["H", "", "é", "!"]),
        (byte_fallback, ["▁so", "<0xE2>", "<0x82>", "<0xAC>", "x"], ["so", "", "", "", "€x"]),
        (cleaning, ["do", " so", " .", " ", "do", "\n"], ["", "do", "", "", "", " so. do"]),
    ],
)
def test_text_comes_as_soon_as_it_is_certain(
    make: Callable[[], Any], tokens: list[str], pieces: list[str]
) -> None:
    tokenizer = make()
    stream = TextStream(tokenizer)
    assert [stream.feed([i]) for i in tokenizer.convert_tokens_to_ids(tokens)] == pieces


def test_what_may_begin_a_stop_string_waits_until_it_does_not() -> None:
    tokenizer = toy_tokenizer()
    stream = TextStream(tokenizer, stop=["so then", "n so"])
    fed = [tokenizer(text)["input_ids"] for text in ("so", " ", "now", "then", " ", "so", " then")]
    assert [stream.feed(ids) for ids in fed] == ["", "", "so now", "the", "", "", ""]


def test_a_stop_string_may_begin_inside_a_special_token() -> None:
    """The text does not show the token, and what follows it may be the rest of the string."""
    tokenizer = toy_tokenizer()
    stream = TextStream(tokenizer, stop=["k>\n\nso"])
    fed = [tokenizer(text)["input_ids"] for text in ("one", "</think>", "\n\n", "so")]
    assert [stream.feed(ids) for ids in fed] == ["one", "", "", ""]


def test_a_long_text_is_not_decoded_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, lengths = toy_tokenizer(), []
    decode = tokenizer.decode

    def watched(tokens: list[int], **options: Any) -> Any:
        lengths.append(len(tokens))
        return decode(tokens, **options)

    monkeypatch.setattr(tokenizer, "decode", watched)
    stream = TextStream(tokenizer)
    for number in range(1000):
        stream.feed([5 + number % 80])
    assert max(lengths) < 100


@pytest.mark.parametrize("cleans", [False, True])
def test_a_run_of_bytes_stays_whole_when_the_text_before_it_is_let_go(cleans: bool) -> None:
    tokenizer = byte_fallback()
    tokenizer.clean_up_tokenization_spaces = cleans
    ids = tokenizer.convert_tokens_to_ids(["x"] * 46 + ["<0xE2>", "<0x82>", "<0xAC>"] * 8 + ["x"])
    stream = TextStream(tokenizer)
    streamed = "".join(stream.feed([token]) for token in ids)
    assert streamed + stream.rest(tokenizer.decode(ids)) == "x" * 46 + "€" * 8 + "x"


def streamed(engine: Engine, **options: Any) -> tuple[dict[Any, str], dict[Any, Completion]]:
    """The text of each sequence as its pieces give it, and its completion."""
    texts: dict[Any, str] = {}
    completions: dict[Any, Completion] = {}
    for piece in engine.stream(PROMPTS, **options):
        place = (piece.index, piece.sample)
        assert place not in completions, "a piece behind the last"
        texts[place] = texts.get(place, "") + piece.text
        if piece.completion is not None:
            completions[place] = piece.completion
    return texts, completions


ENDING = toy_model(eos=True, seed=3)  # one that may say "<eos>"


@settings(max_examples=10)
@given(
    batch_size=st.integers(1, 4),
    burst=st.sampled_from([1, 3, 16]),
    samples=st.integers(1, 2),
    new=st.integers(1, 40),
    stop=st.lists(st.sampled_from(["so", "so ", "n", ".\n\n", "<think>", "a b", "is the"])),
    seed=st.integers(0, 5),
)
def test_pieces_join_to_the_text_of_what_generate_gives(
    batch_size: int, burst: int, samples: int, new: int, stop: list[str], seed: int
) -> None:
    policy = presets.skipkv(32, threshold=0.5, interval=16)
    model, tokenizer = ENDING, toy_tokenizer()
    often = Engine(model, tokenizer, policy, batch_size=batch_size)
    engine = Engine(model, tokenizer, policy, batch_size=batch_size, read_every=burst)
    options: dict[str, Any] = {
        "max_new_tokens": new,
        "stop": stop,
        "sampling": Sampling(temperature=1.5, n=samples, seed=seed),
    }
    texts, completions = streamed(engine, **options)
    expected = {(c.index, c.sample): c for c in often.generate(PROMPTS, **options)}
    assert texts == {place: c.text for place, c in expected.items()}
    assert {place: (c.tokens, c.stop_reason) for place, c in completions.items()} == {
        place: (c.tokens, c.stop_reason) for place, c in expected.items()
    }


@pytest.mark.parametrize("read_every", [None, 1, 5])  # a CPU reads every token
def test_as_many_tokens_are_streamed_at_once_as_the_engine_is_told(read_every: int | None) -> None:
    class Steps(Observer):
        def __init__(self) -> None:
            self.read: list[int] = []

        def on_pass(self, passed: ObservedPass) -> None:
            self.read.append(passed.steps)

    steps = Steps()
    engine = Engine(toy_model(), toy_tokenizer(), presets.full(), read_every=read_every)
    list(engine.stream(["a"], max_new_tokens=18, observers=[steps]))
    assert steps.read == [0] + ([5, 5, 5, 2] if read_every == 5 else [1] * 17)


def test_tiny_is_streamed_token_by_token_and_two_sequences_side_by_side() -> None:
    engine = Engine(*tiny.load(device="cpu"), presets.rkv(budget=96, interval=16), batch_size=2)
    chats = [[{"role": "user", "content": p.question}] for p in tiny.problems(2)]
    pieces = list(engine.stream(chats, max_new_tokens=60))
    for index in (0, 1):
        own = [piece for piece in pieces if piece.index == index]
        assert own[-1].completion is not None
        assert "".join(piece.text for piece in own) == own[-1].completion.text
        assert len(own) == 60 + 1  # and the completion
    assert [piece.index for piece in pieces[:6]] == [0, 1] * 3 or [1, 0] * 3


def test_a_sequence_that_fails_ends_with_its_error_and_the_text_so_far() -> None:
    class Poisoned:
        def score(self, view: CacheView) -> Tensor:
            scores = view.positions.float()
            scores[view.seen == 41] = torch.nan
            return scores

    policy = Policy(budget=Budget(tokens=24, interval=8), scorer=Poisoned())
    engine = Engine(toy_model(), toy_tokenizer(), policy)
    pieces = list(engine.stream([[9] * 30, [9] * 36], max_new_tokens=20))
    last = {piece.index: piece.completion for piece in pieces if piece.completion is not None}
    assert {index: c.stop_reason for index, c in last.items()} == {0: "error", 1: "error"}
    for index, completion in last.items():
        assert isinstance(completion.error, PartError)
        own = [piece.text for piece in pieces if piece.index == index]
        assert "".join(own) == completion.text != ""


def test_the_model_is_as_it_was_at_every_piece_and_after_the_last_one_taken() -> None:
    model, tokenizer = toy_model(), toy_tokenizer()
    before = model.config._attn_implementation
    pieces = Engine(model, tokenizer, presets.rkv(32, interval=16)).stream(
        PROMPTS, max_new_tokens=30
    )
    for _ in range(8):
        next(pieces)
        assert model.config._attn_implementation == before
        assert not torch.is_inference_mode_enabled()
    pieces.close()
    assert model.config._attn_implementation == before


def test_input_errors_are_raised_before_the_first_piece_is_asked_for() -> None:
    engine = Engine(toy_model(), toy_tokenizer(), presets.full())
    with pytest.raises(InputError, match="Prompt 1 is empty"):
        engine.stream(["a", ""], max_new_tokens=5)
    with pytest.raises(InputError, match="stop must not hold an empty string"):
        engine.stream(["a"], max_new_tokens=5, stop=[""])
    assert list(engine.stream([], max_new_tokens=5)) == []
