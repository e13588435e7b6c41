"""A scorer of one's own: hold it to the laws, then compare it with the shipped ones.

The laws need no model and take a second. What a scorer is worth shows on problems with known
answers, at equal budget: `python examples/custom_scorer.py`. Of so few problems one more or less
means nothing: take `--problems 100`, or see threshold_sweep.py for intervals.
"""

import attrs
import torch
import typer
from jaxtyping import Float
from torch import Tensor

from skipkv import Budget, CacheView, Engine, Policy, Scorer, tiny
from skipkv.scorers import KeyRedundancy, Recency, ScorerAlgebra, WindowAttention
from skipkv.testing import check_scorer, laws_of


@attrs.frozen
class ValueNovelty(ScorerAlgebra):
    """Entries whose values point away from the mean value of their head say what no other does."""

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """One less the cosine to the mean value of the occupied slots."""
        values = view.values.float() * view.occupied[..., None]
        mean = values.sum(dim=2, keepdim=True)  # its length does not matter to a cosine
        return 1 - torch.cosine_similarity(values, mean, dim=-1)


def main(problems: int = 8, budget: int = 196) -> None:
    """Check the scorer, then print how many problems each scorer solves at the same budget."""
    torch.set_num_threads(1)
    check_scorer(ValueNovelty())
    print(f"ValueNovelty keeps {len(laws_of(ValueNovelty()))} laws of scorers.\n")
    attention = 0.1 * WindowAttention(window=8, pool=7)
    scorers: dict[str, Scorer | None] = {
        "no eviction": None,
        "Recency": Recency(),
        "ValueNovelty": ValueNovelty(),
        "attention": attention,
        "attention + ValueNovelty": attention + 0.9 * ValueNovelty(),
        "attention - KeyRedundancy": attention - 0.9 * KeyRedundancy(),
    }
    model, tokenizer = tiny.load(device="cpu")
    asked = tiny.problems(problems)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    print(f"{'scorer':<28}{'solved':>8}{'entries per head':>20}   (budget {budget})")
    for name, scorer in scorers.items():
        policy = Policy()
        if scorer is not None:
            policy = Policy(budget=Budget(tokens=budget, interval=16), scorer=scorer)
        engine = Engine(model, tokenizer, policy, batch_size=problems)
        done = list(engine.generate(chats, max_new_tokens=640, progress=False))
        right = [rf"\boxed{{{p.answer}}}" in c.text for p, c in zip(asked, done, strict=True)]
        most = max(c.stats.peak_entries for c in done)
        print(f"{name:<28}{sum(right):>5}/{problems:<2}{most:>20}")


if __name__ == "__main__":
    typer.run(main)
