"""A scripted model says, attends and has in mind what its script says, under any policy."""

import pytest
import torch

from skipkv import Budget, Engine, Policy, presets
from skipkv.errors import ConfigError
from skipkv.evictors import SentencePrimary
from skipkv.scorers import AccumulatedAttention, LastQueryAttention, Recency
from skipkv.testing import scripted_model, toy_tokenizer

SCRIPT = "one plus two is three.\n\nwait one plus two is three.\n\n"
TOKENS = len(toy_tokenizer()(SCRIPT)["input_ids"])


@pytest.mark.parametrize("policy", [presets.full(), presets.streaming_llm(6, interval=3)], ids=str)
def test_it_says_its_script_whatever_is_evicted(policy: Policy) -> None:
    engine = Engine(scripted_model(SCRIPT, layers=2, heads=2, groups=2), toy_tokenizer(), policy)
    prompts = ["one ", "one plus two "]
    completions = list(engine.generate(prompts, max_new_tokens=TOKENS))
    assert [p + c.text for p, c in zip(prompts, completions, strict=True)] == [SCRIPT, SCRIPT]
    assert {c.stop_reason for c in completions} == {"eos"}


def test_transformers_own_generate_follows_it_too() -> None:
    tokenizer = toy_tokenizer()
    ids = tokenizer(SCRIPT)["input_ids"]
    output = scripted_model(SCRIPT).generate(
        torch.tensor([ids[:3]]), max_new_tokens=TOKENS, do_sample=False
    )
    assert output[0].tolist() == [*ids, 1]


@pytest.mark.parametrize("scorer", [AccumulatedAttention(), LastQueryAttention()], ids=repr)
def test_what_the_script_attends_to_is_kept(scorer: object) -> None:
    """Each head looks at two positions of its own; they stay, with the newest."""
    attention = torch.full((2, TOKENS, TOKENS), 0.01)
    attention[0, :, [0, 2]] = 10.0
    attention[1, :, [1, 3]] = 10.0
    policy = Policy(budget=Budget(tokens=3, interval=4, window=1), scorer=scorer)
    if isinstance(scorer, LastQueryAttention):
        policy = policy.with_(scorer=LastQueryAttention(shared=False))
    engine = Engine(scripted_model(SCRIPT, attention=attention, heads=2), toy_tokenizer(), policy)
    [completion] = engine.generate(["one plus two is "], max_new_tokens=30, trace=True)
    last = completion.trace[-1]
    assert last.kept.tolist() == [[[0, 2, last.seen - 1], [1, 3, last.seen - 1]]]


def test_sentences_mean_what_the_script_has_in_mind() -> None:
    """The scorer would keep the oldest; where both sentences are on one topic, the older goes."""
    first = len(toy_tokenizer()("one plus two is three.\n\n")["input_ids"])
    policy = Policy(
        budget=Budget(tokens=TOKENS - first, interval=1, window=1),
        scorer=-1 * Recency(),
        evictor=SentencePrimary(threshold=0.95),
    )

    def kept(hidden: torch.Tensor) -> list[int]:
        engine = Engine(scripted_model(SCRIPT, hidden=hidden), toy_tokenizer(), policy)
        [completion] = engine.generate(["one "], max_new_tokens=TOKENS, trace=True)
        return completion.trace[-1].kept[0, 0].tolist()

    one_topic = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(TOKENS, 1)
    two_topics = one_topic.clone()
    two_topics[:first] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert set(range(first)) <= set(kept(two_topics))
    assert not set(range(first)) <= set(kept(one_topic))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attention": torch.ones(3, 3)},
            r"attention=\[1, 3, 3\]\) must be \[T, T\] or",
        ),
        ({"hidden": torch.ones(3, 3)}, r"hidden=\[3, 3\]\) must be \[T, E\]"),
    ],
)
def test_a_script_that_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scripted_model(SCRIPT, **options)


def test_a_script_of_one_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="two tokens or more"):
        scripted_model("one")
