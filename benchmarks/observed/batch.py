"""Observation 1: batches whose padding is stored lose accuracy."""

from typing import Any

from observed.numbers import bars, kept, mean_of, shown, table
from observed.setting import INTERVAL, MAX_NEW_TOKENS, SIDE_BY_SIDE, Setting, rkv
from skipkv.evaluation import decode_with_stored_padding, grade, stored_padding
from skipkv.evaluation.answers import final_answer
from skipkv.evaluation.intervals import paired, proportion
from skipkv.schedulers import LengthGrouped

BATCH = 10  # the paper's
BUDGETS = ("40%", "60%")


def measure(setting: Setting) -> dict[str, Any]:
    """R-KV at batch 1, at batch 10, and at batch 10 grouped by length."""
    lengths = [len(prompt) for prompt in setting.prompts]
    arrival = stored_padding(lengths, batch_size=BATCH)
    grouped = stored_padding(lengths, batch_size=BATCH, scheduler=LengthGrouped(batch_size=BATCH))
    rows = []
    for budget in BUDGETS:
        alone = [record.correct for record in setting.records("rkv", budget)]
        tokens = setting.tokens(budget)
        graded = _graded(setting, tokens, [arrival, grouped], alone)
        rows.append(_row(budget, tokens, "1", [0] * len(alone), alone, alone))
        for name, padding in ((f"{BATCH}", arrival), (f"{BATCH}, by length", grouped)):
            correct = [graded[pair] for pair in enumerate(padding)]
            rows.append(_row(budget, tokens, name, padding, correct, alone))
    return {"prompt": [min(lengths), max(lengths)], "interval": INTERVAL, "rows": rows}


def _graded(
    setting: Setting, budget: int, paddings: list[list[int]], alone: list[bool]
) -> dict[tuple[int, int], bool]:
    """(problem, its padding) -> whether the answer is right.

    A problem with the same padding in two kinds of batches is decoded once, because its answer
    depends only on the padding.
    """
    model, tokenizer = setting.model
    pairs = sorted({(i, stored) for p in paddings for i, stored in enumerate(p) if stored})
    completions = decode_with_stored_padding(
        model,
        tokenizer,
        rkv,
        [setting.prompts[place] for place, _ in pairs],
        budget=budget,
        padding=[stored for _, stored in pairs],
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=SIDE_BY_SIDE,
    )
    graded = {(place, 0): right for place, right in enumerate(alone)}
    for (place, stored), completion in zip(pairs, completions, strict=True):
        text = tokenizer.decode(list(completion.tokens), skip_special_tokens=False)
        gold = setting.data.problems[place].answer
        graded[place, stored] = grade(final_answer(text), gold)
    return graded


def _row(
    asked: str, budget: int, batch: str, padding: list[int], correct: list[bool], alone: list[bool]
) -> dict[str, Any]:
    return {
        "asked": asked,
        "budget": budget,
        "batch": batch,
        "padding": mean_of(padding),
        "most": max(padding),
        "accuracy": kept(proportion(sum(correct), len(correct))),
        "difference": None if batch == "1" else kept(paired(correct, alone)),
    }


def show(found: dict[str, Any]) -> str:
    """The table."""
    head = (
        "batch", "budget", "mean padding stored", "most", "accuracy %", "difference to batch 1",
    )  # fmt: skip
    return table(
        head,
        [
            (
                row["batch"],
                f"{row['budget']} ({row['asked']})",
                f"{row['padding'][0]:.1f}",
                row["most"],
                shown(row["accuracy"], percent=True),
                shown(row["difference"], percent=True, sign="+"),
            )
            for row in found["rows"]
        ],
    )


def draw(found: dict[str, Any], axes: Any) -> None:
    """Accuracy of each kind of batch."""
    names = list(dict.fromkeys(row["batch"] for row in found["rows"]))
    for place, budget in enumerate(BUDGETS):
        own = [row for row in found["rows"] if row["asked"] == budget]
        triples = [[100 * v for v in row["accuracy"]] for row in own]
        points = [names.index(row["batch"]) + 0.04 * place for row in own]
        bars(
            axes,
            points,
            triples,
            marker="os"[place],
            label=f"budget {own[0]['budget']}",
            linestyle="",
        )
    axes.set_xticks(range(len(names)), [f"batch {name}" for name in names])
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
