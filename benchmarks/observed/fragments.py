"""Observation 3: eviction token by token leaves sentences in pieces."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from observed.numbers import kept, mean_of, shown, table
from observed.setting import MAX_NEW_TOKENS, SIDE_BY_SIDE, THRESHOLD, Setting, rkv, skipkv
from skipkv import Completion, Engine, Policy, TokenStream
from skipkv.evaluation import grade
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.intervals import proportion
from skipkv.evictors import SentencePrimary
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import Newline

BUDGET = "50%"
PROBLEMS = 200
KINDS = ("whole", "in pieces", "gone")


def _whole(budget: int) -> Policy:
    return skipkv(budget).with_(evictor=SentencePrimary(threshold=THRESHOLD, whole=True))


POLICIES: dict[str, Callable[[int], Policy]] = {
    "rkv": rkv,
    "skipkv": skipkv,
    "skipkv, redundant sentences whole": _whole,
}


def measure(setting: Setting) -> dict[str, Any]:
    """What is left of each sentence after the last event of a trace."""
    places = setting.some(PROBLEMS)
    tokens = setting.tokens(BUDGET)
    rows = [_row(setting, name, make(tokens), places) for name, make in POLICIES.items()]
    return {"budget": tokens, "problems": len(places), "rows": rows}


def _row(setting: Setting, name: str, policy: Policy, places: Sequence[int]) -> dict[str, Any]:
    model, tokenizer = setting.model
    engine = Engine(model, tokenizer, policy, batch_size=SIDE_BY_SIDE)
    prompts = [setting.prompts[place] for place in places]
    pieces, shares, right = TokenText(tokenizer), [], 0
    completions = engine.generate(
        prompts, max_new_tokens=MAX_NEW_TOKENS, trace=True, progress=False
    )
    for place, completion in zip(places, completions, strict=True):
        text = tokenizer.decode(list(completion.tokens), skip_special_tokens=False)
        right += grade(final_answer(text), setting.data.problems[place].answer)
        assert policy.budget is not None
        share = left_behind(completion, pieces, window=policy.budget.window)
        if share is not None:
            shares.append(share.tolist())
    broken = [b / (a + b) for a, b, _ in shares]
    return {
        "policy": name,
        "traces": len(shares),
        "accuracy": kept(proportion(right, len(places))),
        **{kind: mean_of(share[i] for share in shares) for i, kind in enumerate(KINDS)},
        "pieces_of_survivors": mean_of(broken),
    }


def left_behind(
    completion: Completion, text: TokenText, *, window: int
) -> Float[Tensor, "3"] | None:
    """Shares of sentences that are whole, in pieces and gone after the last event.

    The shares are over all layers, heads and decoded sentences. Sentences that reach into the
    window, which is never evicted, do not count. None if there was no event or no such sentence.
    """
    if not completion.trace:
        return None
    event, first = completion.trace[-1], completion.prompt_tokens
    cuts = Newline().cut(TokenStream.from_pieces(text.pieces(completion.tokens)))
    ends = [first + cut.end for cut in cuts if first + cut.end <= event.seen - window]
    return fates(event.kept, [first, *ends]) if ends else None


def fates(kept: Int[Tensor, "layers H K"], bounds: Sequence[int]) -> Float[Tensor, "3"]:
    """Shares of the spans between `bounds` of which all, some and none of the positions are kept.

    Args:
        kept: positions per layer and head; -1 for none.
        bounds: first position of each span, and the position after the last one.
    """
    edges = torch.tensor(bounds)
    # positions outside all spans fall below 0 or after the last, and are not counted
    spans = torch.searchsorted(edges, kept.contiguous(), right=True) - 1
    inside = (spans >= 0) & (spans < len(bounds) - 1)
    counts = torch.nn.functional.one_hot(spans.where(inside, len(bounds) - 1), len(bounds))
    counts = counts.sum(dim=-2)[..., :-1]  # [layers H spans]
    whole, gone = counts == edges.diff(), counts == 0
    return torch.stack([share.double().mean() for share in (whole, ~(whole | gone), gone)])


def show(found: dict[str, Any]) -> str:
    """The table."""
    head = ("policy", *(f"{kind} %" for kind in KINDS), "pieces among survivors %", "accuracy %")
    return table(
        head,
        [
            (
                row["policy"],
                *(shown(row[kind], percent=True) for kind in KINDS),
                shown(row["pieces_of_survivors"], percent=True),
                shown(row["accuracy"], percent=True),
            )
            for row in found["rows"]
        ],
    )


def draw(found: dict[str, Any], axes: Any) -> None:
    """A stacked bar per policy."""
    rows = found["rows"][::-1]
    start = [0.0] * len(rows)
    for kind, colour in zip(KINDS, ("#009E73", "#E69F00", "#DDDDDD"), strict=True):
        widths = [100 * row[kind][0] for row in rows]
        axes.barh([r["policy"].replace(", ", ",\n") for r in rows], widths, left=start,
                  color=colour, label=kind)  # fmt: skip
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_xlabel("sentences (%, mean over layers, heads and traces)")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3)
