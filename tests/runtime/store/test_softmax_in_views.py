"""What scorers compute again from recent queries is what the model attended to."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import skipkv
from skipkv import Budget, CacheView, Engine, Needs, Policy
from skipkv.scorers import LastQueryAttention, RecentAttention, WindowAttention
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.testing import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT, WINDOW = 24, 16


@attrs.frozen
class SinceThen:
    """Attention received from the tokens of the window, summed over query heads."""

    start: float = 0.0

    def update(self, held: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
        recent = (positions >= PROMPT - WINDOW)[:, None, None, :, None]
        return held + (weights * recent).sum(dim=(2, 3))


@attrs.frozen
class LastOnly:
    """Attention received from the newest token of the prompt, summed over query heads."""

    start: float = 0.0

    def update(self, held: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
        last = (positions == PROMPT - 1)[:, None, None, :, None]
        return held + (weights * last).sum(dim=(2, 3))


@attrs.define(eq=False)
class Comparing(ScorerAlgebra):
    """Compares what scorers compute again with what the attention itself has recorded."""

    compared: int = 0
    apart: float = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(queries=WINDOW, records=(SinceThen(), LastOnly()))

    def score(self, view: CacheView) -> Tensor:
        assert view.queries is not None
        groups = view.queries.shape[2]
        if int(view.seen[0]) == PROMPT:
            window = RecentAttention(window=WINDOW, pool=1).score(view) * WINDOW * groups
            last = LastQueryAttention(shared=False).score(view) * groups
            for found, record in ((window, SinceThen()), (last, LastOnly())):
                difference = (found - view.record(record)).abs().max()
                self.apart = max(self.apart, float(difference))
            self.compared += 1
            assert WindowAttention(window=4).score(view).isfinite().all()
        return torch.zeros(view.positions.shape)


def small(family: str, **own: Any) -> Any:
    config = AutoConfig.for_model(
        family,
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=1,
        **own,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if name.endswith("sinks"):
                torch.nn.init.normal_(weight, std=2.0)
    return model.eval()


KINDS = ["full_attention", "sliding_attention", "full_attention"]
MODELS = {
    "plain": lambda: toy_model(layers=3),
    "soft-capping": lambda: small(
        "gemma2", layer_types=KINDS, attn_logit_softcapping=0.5, query_pre_attn_scalar=3
    ),
    "sinks": lambda: small(
        "gpt_oss", layer_types=KINDS, num_local_experts=2, num_experts_per_tok=1
    ),
}


@attrs.frozen(eq=False)
class Learned:
    """Weights attention by a learned number; notes whether gradients reach what is recorded."""

    factor: torch.nn.Parameter = attrs.field(factory=lambda: torch.nn.Parameter(torch.ones(1)))
    tracked: list[bool] = attrs.field(factory=list)
    start: float = 0.0

    def update(self, held: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
        found = held + self.factor * weights.sum(dim=(2, 3))
        self.tracked.extend(t.requires_grad for t in (held, weights, found))
        return found


@pytest.mark.parametrize("kind", MODELS)
def test_no_gradient_reaches_statistics_where_the_caller_computes_some(kind: str) -> None:
    """The cache would hold every step's graph."""
    statistic, model = Learned(), MODELS[kind]()

    class Reading(ScorerAlgebra):
        needs = Needs(records=(statistic,))

        def score(self, view: CacheView) -> Tensor:
            return view.record(statistic)

    policy = Policy(budget=Budget(tokens=20, window=4, interval=8), scorer=Reading())
    ids = torch.tensor([[5 + 7 * i % 70 for i in range(PROMPT)]])
    with skipkv.attach(model, policy), torch.enable_grad():
        given: dict[str, Any] = {"input_ids": ids}
        for _ in range(20):
            output = model(**given, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            given = {"input_ids": token, "past_key_values": output.past_key_values}
    assert output.logits.requires_grad
    assert len(statistic.tracked) > 9
    assert not any(statistic.tracked)


@pytest.mark.parametrize("kind", MODELS)
def test_recomputed_attention_is_the_models_own(kind: str) -> None:
    scorer = Comparing()
    policy = Policy(budget=Budget(tokens=20, window=WINDOW, interval=8), scorer=scorer)
    engine = Engine(MODELS[kind](), TOKENIZER, policy, batch_size=2)
    prompts = [[5 + (7 * i + row) % 70 for i in range(PROMPT)] for row in range(2)]
    done = list(engine.generate(prompts, max_new_tokens=2))
    assert [one.error for one in done] == [None, None]
    assert scorer.compared
    assert scorer.apart < 1e-4
