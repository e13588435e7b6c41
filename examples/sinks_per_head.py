"""An evictor of one's own: every KV head has its own number of sinks.

Some heads attend to the first tokens of a sequence, others hardly do. Here a head keeps its
leading tokens for as long as they score above its own average, and the table shows how many that
were, layer by layer: `python examples/sinks_per_head.py`.
"""

import attrs
import torch
import typer
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv import Budget, CacheView, Engine, Policy, tiny
from skipkv.evictors import TopK
from skipkv.scorers import AccumulatedAttention
from skipkv.testing import check_evictor, laws_of


@attrs.frozen(kw_only=True)
class SinksPerHead:
    """Keeps the protected entries, then each head's own sinks, then the highest scores.

    A head's sinks are its first tokens up to the first that scores below the head's mean.

    Args:
        most: sinks a head may have, in tokens.
    """

    most: int = 32

    def sinks(self, scores: Float[Tensor, "R H L"], view: CacheView) -> Bool[Tensor, "R H L"]:
        """The entries that are sinks; entries are in the order of their positions."""
        held = view.occupied
        total = scores.masked_fill(~held, 0.0).sum(dim=-1, keepdim=True)
        above = scores >= total / held.sum(dim=-1, keepdim=True).clamp_min(1)
        first = view.positions == torch.arange(held.shape[-1], device=held.device)
        return (above & first & (view.positions < self.most)).cumprod(dim=-1).bool() & held

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """At most `budget` entries: TopK puts protected ones before all, then the highest."""
        sinks = self.sinks(scores, view)
        return TopK().keep(scores.masked_fill(sinks, torch.finfo(torch.float32).max), view, budget)


def main(budget: int = 96, most: int = 32) -> None:
    """Check the evictor, decode with it, print the sinks that each head has at the end."""
    torch.set_num_threads(1)
    evictor = SinksPerHead(most=most)
    check_evictor(evictor)
    print(f"{evictor} keeps {len(laws_of(evictor))} laws of evictors.\n")
    policy = Policy(
        budget=Budget(tokens=budget, interval=16, window=8),
        scorer=AccumulatedAttention(),
        evictor=evictor,
    )
    engine = Engine(*tiny.load(device="cpu"), policy)
    [problem] = tiny.problems(1)
    chat = [{"role": "user", "content": problem.question}]
    [done] = engine.generate([chat], max_new_tokens=160, trace=True, progress=False)
    assert done.trace, "asked for above"
    last = done.trace[-1]
    print(f"After {last.seen} tokens, of the first {most} (of {budget} kept per head):")
    for layer, heads in enumerate(last.kept):
        first = torch.arange(heads.shape[-1])
        counts = [int((head == first)[:most].cumprod(dim=0).sum()) for head in heads]
        print(f"layer {layer}  " + "  ".join(f"{n:>2} {'#' * n:<{most}}" for n in counts))


if __name__ == "__main__":
    typer.run(main)
