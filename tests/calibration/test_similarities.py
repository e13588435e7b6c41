"""The similarities of a trace's sentences, and that they are those that the policy sees."""

import math
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skipkv import Engine, Observer, Policy, presets
from skipkv.calibration import SentencePairs, Trace, TraceSimilarities
from skipkv.testing import toy_model, toy_tokenizer


def vectors(*angles: float) -> torch.Tensor:
    """Unit vectors at these angles, in degrees."""
    turned = torch.tensor(angles).deg2rad()
    return torch.stack([turned.cos(), turned.sin()], dim=1)


def test_a_restated_sentence_counts_by_the_sentence_that_restates_it_best() -> None:
    texts = ["x=3", "so x=3", "wait x=3"]
    found = TraceSimilarities.of(texts, vectors(0, 60, 45))
    assert found.restated == pytest.approx([0.5**0.5, math.cos(math.radians(15))])
    assert found.unrestated == ()


def test_other_sentences_count_until_the_first_that_restates() -> None:
    texts = ["x=3", "y=4", "so x=3", "z=5"]
    found = TraceSimilarities.of(texts, vectors(0, 60, 30, 0))
    # z=5 is the nearest to x=3, but comes when x=3 stands a second time
    cos30 = 0.75**0.5
    assert found.restated == pytest.approx([cos30])
    assert found.unrestated == pytest.approx([0.5, cos30, cos30])


def test_sentences_of_which_the_text_does_not_tell_count_nowhere() -> None:
    texts = ["so then", "x=3", "then one two x=3", "so then"]
    found = TraceSimilarities.of(texts, vectors(0, 0, 0, 180))
    assert found.restated == ()
    assert found.unrestated == pytest.approx([-1, -1])


class Tables(Observer):
    """The newest sentence table of the only sequence."""

    def on_event(self, event: Any) -> None:
        self.table = event.sequences[0].sentences


def test_embeddings_are_those_of_the_policy_inside_the_thinking_part() -> None:
    model, tokenizer = toy_model(), toy_tokenizer()
    prompt = "sum 1\n<think>w is 4.\n"
    written = (
        "x is one.\n\ny is 2.\n\nwait x is one.\n\nz is 3.\n\ny plus z</think>\n\nx is one.\n\n"
    )
    text = prompt + written
    tables = Tables()
    ids = tokenizer(text)["input_ids"]
    seen = Engine(model, tokenizer, presets.skipkv(64, interval=1))
    list(seen.generate([ids], max_new_tokens=2, observers=[tables]))

    own = tokenizer(prompt)["input_ids"]
    assert ids[: len(own)] == own
    pairs = SentencePairs(Engine(model, tokenizer, Policy()))
    pairs.add(Trace(index=0, prompt=own, tokens=ids[len(own) :], finished=True))

    # two lines are the prompt's; that with the closing mark and the answer are left out
    inside = tables.table.embeddings[2:6]
    thoughts = ["x is one.", "y is 2.", "wait x is one.", "z is 3."]
    expected = TraceSimilarities.of(thoughts, inside)
    (found,) = pairs.traces
    assert found.restated == pytest.approx(expected.restated, abs=1e-5)
    assert found.unrestated == pytest.approx(expected.unrestated, abs=1e-5)
    assert (len(found.restated), len(found.unrestated)) == (1, 3)


def test_sentences_are_whole_characters_where_tokens_are_bytes() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    model = toy_model()
    model.resize_token_embeddings(256)
    pairs = SentencePairs(Engine(model, tokenizer, Policy(), thinking=None))
    prompt, tokens = (tokenizer(text)["input_ids"] for text in ("p\n", "né 2 ≤ 三\nso 三.\n"))
    texts, embeddings = pairs.sentences(Trace(index=0, prompt=prompt, tokens=tokens, finished=True))
    assert texts == ["né 2 ≤ 三\n", "so 三.\n"]
    assert len(embeddings) == 2
