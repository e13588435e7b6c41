"""Thoughts are read in whole characters, and how many regenerations agree is counted exactly."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skipkv import Engine, Policy, Thought
from skipkv.calibration.openings import Opening, openings
from skipkv.calibration.stability import agreement
from skipkv.calibration.traces import Trace
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.testing import toy_model, toy_tokenizer


def of_bytes() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes, and two newlines."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\n")[0][0]
    known = {sign: i for i, sign in enumerate([*signs, 2 * newline])}
    inner = Tokenizer(models.BPE(known, [(newline, newline)]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_a_thought_is_classified_by_its_whole_characters() -> None:
    tokenizer = of_bytes()
    prompt, tokens = (tokenizer(t)["input_ids"] for t in ("p\n\n", "三 = 3\n\n等等, so\n\n"))
    text = TokenText(tokenizer)

    def classify(thought: str) -> Thought:
        return Thought.REFLECTION if thought.startswith("等等") else Thought.EXECUTION

    found = openings(
        Trace(index=0, prompt=prompt, tokens=tokens, finished=True),
        marks=Marks.of(text, len(tokenizer), None),
        text=text,
        classify=classify,
    )
    assert [(o.text, o.kind) for o in found] == [
        ("三 = 3\n\n", Thought.EXECUTION),
        ("等等, so\n\n", Thought.REFLECTION),
    ]


def test_all_of_twelve_regenerations_are_the_whole() -> None:
    engine = Engine(toy_model(), toy_tokenizer(), Policy(), eos_token_ids=[])
    trace = Trace(index=0, prompt=[5, 6, 7], tokens=[8, 9], finished=True)
    opened = [Opening(position=at, text="", kind=Thought.EXECUTION) for at in (2, 3)]
    shares = agreement(
        engine,
        trace,
        opened,
        classify=lambda text: Thought.EXECUTION,
        samples=12,
        max_tokens=8,
        temperature=1.0,
        seed=0,
    )
    assert shares.max() == 1
    assert torch.equal(shares, (12 * shares).round() / 12)
