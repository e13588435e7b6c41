"""From problems to token ids."""

import pytest

from skipkv.errors import InputError
from skipkv.evaluation import DataSet, Problem
from skipkv.evaluation.prompts import encode
from skipkv.testing import toy_tokenizer

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}so\n"


def one(question: str, name: str = "gsm8k") -> DataSet:
    return DataSet(name=name, problems=[Problem(id="0", question=question, answer="3")])


def test_question_and_instruction_go_through_the_chat_template():
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = TEMPLATE
    data = one("one plus two", name="tiny")  # no instruction: the toy knows no such words
    assert tokenizer.decode(encode(data, tokenizer).ids[0]).endswith(" one plus two\nso")


def test_the_papers_instruction_follows_the_question():
    seen = []

    class Recorder:
        chat_template = "yes"
        unk_token_id = None

        def apply_chat_template(self, messages, **options):
            seen.append((messages, options))
            return messages[0]["content"]

        def __call__(self, text, add_special_tokens=True):
            assert not add_special_tokens, "the template has them"
            return {"input_ids": [ord(c) for c in text]}

        def decode(self, tokens, **options):
            return "".join(map(chr, tokens))

    encode(one("2+3?"), Recorder())
    [(messages, options)] = seen
    assert messages == [
        {
            "role": "user",
            "content": "2+3?\nPlease reason step by step, and put your final answer within "
            r"\boxed{}.",
        }
    ]
    assert options == {"tokenize": False, "add_generation_prompt": True}


def test_without_a_template_the_prompt_is_the_text():
    tokenizer = toy_tokenizer()
    data = one("one plus two", name="tiny")
    assert tokenizer.decode(encode(data, tokenizer).ids[0]) == "one plus two"


def test_a_prompt_may_open_the_thinking():
    tokenizer = toy_tokenizer()
    assert not encode(one("one", "tiny"), tokenizer).opened
    tokenizer.chat_template = TEMPLATE.replace("so", "<think>")
    assert encode(one("one", "tiny"), tokenizer).opened


def test_a_tokenizer_that_does_not_know_the_words_is_said():
    with pytest.raises(InputError, match=r"Problem 0 of gsm8k: .* does not know \d+% of its"):
        encode(one("Janet's ducks lay 16 eggs per day."), toy_tokenizer())
