"""The tokenizer: lossless, and with the tokens that policies look for."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from skipkv.segmenters import Delimiter
from skipkv.tiny import problems
from skipkv.tiny.problem import draw
from skipkv.tiny.traces import write_trace
from skipkv.tiny.vocabulary import IDS, TOKENS, tokenizer


@pytest.fixture(scope="module")
def cutter():
    return tokenizer()


@given(st.integers(0, 10**6))
def test_a_trace_is_cut_into_the_tokens_it_was_written_in(cutter, seed):
    rng = random.Random(seed)
    trace = write_trace(draw(rng), rng)
    text = "".join(trace.tokens)
    ids = cutter(text, add_special_tokens=False)["input_ids"]
    assert [TOKENS[i] for i in ids] == trace.tokens
    assert cutter.decode(ids) == text


def test_the_chat_template_gives_the_prompt_that_traces_begin_with(cutter):
    [problem] = problems(1)
    trace = write_trace(problem, random.Random(0))
    prompt = cutter.apply_chat_template(
        [{"role": "user", "content": problem.question}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "".join(trace.tokens[: trace.prompt])


def test_sentences_end_in_single_tokens(cutter):
    ends = {TOKENS[i] for i in Delimiter.from_tokenizer(cutter).ids}
    assert ends == {"\n", "\n\n", ".\n", ".\n\n"}


def test_think_marks_stay_in_the_text_of_a_completion(cutter):
    ids = [IDS["<think>"], IDS["\n"], IDS["</think>"], IDS["<eos>"]]
    assert cutter.decode(ids, skip_special_tokens=True) == "<think>\n</think>"


def test_no_token_stands_twice():
    assert len(set(TOKENS)) == len(TOKENS)


def test_saved_and_loaded_it_is_the_same(cutter, tmp_path: Path):
    cutter.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "a:7; b:a+5. Start at a, find a and b.\n"
    assert again(text)["input_ids"] == cutter(text)["input_ids"]
    assert again.chat_template == cutter.chat_template
    assert again.eos_token_id == IDS["<eos>"]
