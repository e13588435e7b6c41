"""Teacher forcing gives the logits of decoding, however texts are cut and batched."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from skipkv import Budget, CacheView, Engine, Needs, Policy, presets
from skipkv._types import Decayed, LastAbove, Memory
from skipkv.fidelity.forced import forced_logits
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

MODEL, TOKENIZER = toy_model(), toy_tokenizer()
TEXTS = [[5 + (7 * i + n * i * i) % 80 for i in range(50 - 9 * n)] for n in range(3)]
VECTOR = SteeringVector(vector=torch.linspace(-1, 1, 64), layer=1)


@attrs.frozen
class Recorded:
    """Reads statistics of attention, and what it remembered at the last event."""

    needs = Needs(records=(Decayed(factor=0.9), LastAbove(threshold=0.02), Memory("before")))

    def score(self, view: CacheView) -> Tensor:
        received, stamps, before = (view.record(record) for record in self.needs.records)
        return received + 0.01 * stamps + 0.5 * before

    def remember(self, view: CacheView) -> dict[Memory, Tensor]:
        return {Memory("before"): self.score(view)}


POLICIES = {
    "records": Policy(budget=Budget(tokens=20, interval=8), scorer=Recorded()),
    **{name: presets.get(name)(20, interval=8) for name in ("h2o", "expected_attention", "vase")},
    "skipkv": presets.skipkv(20, interval=8, threshold=0.5),
    "prompt kept": presets.rkv(20, interval=8, window=4, prompt=True),
    "a ratio": presets.snapkv(0.4, interval=8),
}


def logits_of(
    texts: Any, policy: Policy, *, prompt_tokens: int = 8, model: Any = MODEL, **options: Any
) -> list[Tensor]:
    rows: list[list[Tensor]] = [[] for _ in texts]
    stretches = forced_logits(
        model, TOKENIZER, texts, policy, prompt_tokens=prompt_tokens, **options
    )
    for stretch in stretches:
        for row, logits in zip(rows, stretch, strict=True):
            row.append(logits)
    return [torch.cat(row) for row in rows]


@pytest.mark.parametrize("prompt", [8, 9, 15])
@pytest.mark.parametrize("name", POLICIES)
def test_stretches_between_events_give_what_single_tokens_give(name: str, prompt: int) -> None:
    policy = POLICIES[name]
    stretches = logits_of(TEXTS, policy, prompt_tokens=prompt)
    singles = logits_of(TEXTS, policy, prompt_tokens=prompt, one_by_one=True)
    for text, one, other in zip(TEXTS, stretches, singles, strict=True):
        assert len(one) == len(text) - prompt
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["h2o", "skipkv", "prompt kept"])
def test_what_the_engine_decoded_is_the_most_likely_everywhere(name: str) -> None:
    policy = POLICIES[name]
    engine = Engine(MODEL, TOKENIZER, policy, eos_token_ids=[])
    prompt = TEXTS[0][:15]
    [done] = engine.generate([prompt], max_new_tokens=35)
    assert done.stats.events > 2
    [logits] = logits_of([[*prompt, *done.tokens]], policy, prompt_tokens=15)
    assert logits.argmax(dim=-1).tolist() == list(done.tokens)


def test_a_steered_policy_steers_as_while_decoding() -> None:
    policy = presets.skipkv(
        20, interval=8, threshold=0.5, steering=AdditiveSteerer(VECTOR, strength=8.0)
    )
    engine = Engine(MODEL, TOKENIZER, policy, eos_token_ids=[])
    [done] = engine.generate([TEXTS[1][:15]], max_new_tokens=35)
    [logits] = logits_of([[*TEXTS[1][:15], *done.tokens]], policy, prompt_tokens=15)
    assert logits.argmax(dim=-1).tolist() == list(done.tokens)


@pytest.mark.parametrize("name", ["vase", "skipkv"])
def test_a_text_does_not_depend_on_its_neighbours(name: str) -> None:
    together = logits_of(TEXTS, POLICIES[name])
    for text, logits in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(
            logits, logits_of([text], POLICIES[name])[0], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_full_cache_gives_the_model_s_own_logits(family: Any) -> None:
    model = toy_model(family)
    for text, logits in zip(TEXTS, logits_of(TEXTS, presets.full(), model=model), strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([text])).logits[0, 7:-1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_prompt_beyond_budget_and_interval_is_fed_too() -> None:
    [logits] = logits_of(TEXTS[:1], presets.rkv(12, interval=8), prompt_tokens=40)
    assert len(logits) == len(TEXTS[0]) - 40
    assert logits.isfinite().all()
