"""Tables: medians over rounds, ratios within a round, and OOM said where it was."""

import json
from collections.abc import Callable

import pytest

from skipkv.benchmark import Case, Measurement, Spread, Summary

SETTINGS = {
    "interval": 4,
    "new_tokens": 4,
    "prompt_tokens": 3,
    "seed": 0,
    "threads": 1,
    "device": "cpu",
    "model": {"dtype": "float32"},
}
Make = Callable[..., Measurement]


def summed(*measurements: Measurement) -> Summary:
    return Summary.of(measurements, model="toy", settings=SETTINGS)


def test_ratios_are_of_runs_of_the_same_round(measured: Make) -> None:
    # the machine is ten times slower in the second round; the ratio is the same in both
    runs = [
        measured(subject, repeat=repeat, steps=(pace * slow,) * 3, cpu=pace * slow)
        for repeat, slow in enumerate((1.0, 10.0, 1.0))
        for subject, pace in (("floor", 1.0), ("rkv", 1.5))
    ]
    row = summed(*runs).row(Case(subject="rkv", batch_size=2, budget=8))
    assert row is not None
    for cost in (row.cost, row.cost_total, row.cost_cpu):
        assert cost == Spread(median=1.5, low=1.5, high=1.5)
    assert row.step == Spread(median=1.5, low=1.5, high=15.0)
    assert row.rounds == 3


def test_a_step_that_the_machine_delayed_counts_in_the_mean_cost_alone(measured: Make) -> None:
    runs = [measured("floor", steps=(1.0,) * 5), measured(steps=(2.0, 2.0, 2.0, 2.0, 12.0))]
    row = summed(*runs).row(runs[1].case)
    assert row is not None
    assert row.cost == Spread.of([2.0])
    assert row.cost_total == Spread.of([4.0])


def test_a_policy_is_compared_at_its_own_budget_and_batch_size(measured: Make) -> None:
    runs = [
        measured("floor", budget=8, steps=(1.0,) * 3),
        measured("floor", budget=16, steps=(2.0,) * 3),
        measured("floor", budget=16, batch_size=4, steps=(4.0,) * 3),
        measured("generate_dynamic", budget=None, steps=(8.0,) * 3, cpu=6.0),
        measured("rkv", budget=16, steps=(3.0,) * 3),
    ]
    row = summed(*runs).row(Case(subject="rkv", batch_size=2, budget=16))
    assert row is not None
    assert row.cost == Spread.of([1.5])
    assert row.speedup["generate_dynamic"] == Spread.of([25 / 10])
    assert row.speedup_cpu["generate_dynamic"] == Spread.of([2.0])
    assert "kvpress" not in row.speedup


def test_the_floor_costs_nothing_beside_itself(measured: Make) -> None:
    summary = summed(measured("floor"), measured("rkv"))
    assert summary.rows[0].cost is None
    assert "| floor |" not in summary.costs()


def test_out_of_memory_is_a_result_and_shown_as_oom(measured: Make) -> None:
    text = summed(
        measured("full", budget=None, answer={"oom": "no memory"}),
        measured("full", budget=None, batch_size=1),
        measured("rkv"),
    ).markdown()
    assert "| full | - | 4.00 | 1 | OOM | OOM |" in text
    assert "| full | - | 2 | OOM | OOM | OOM |" in text
    assert "failed" not in text


def test_the_crossover_is_the_median_over_rounds_and_never_is_longest(measured: Make) -> None:
    slow = {"steps": (2.0, 2.0, 2.0), "first_token": 0.5}
    runs = [
        run
        for repeat, first in enumerate((2.0, 50.0, 3.0))
        for run in (
            measured("generate_dynamic", budget=None, repeat=repeat, **slow),
            measured("rkv", repeat=repeat, steps=(0.1, 0.1, 0.1), first_token=first),
        )
    ]
    summary = summed(*runs)
    row = summary.row(Case(subject="rkv", batch_size=2, budget=8))
    assert row is not None
    assert row.crossover == {"generate_dynamic": 3}
    assert "| rkv | 8 | 2 | token 3 |" in summary.crossings()
    assert "never within 4" in summed(*runs[2:4]).crossings()


def test_the_json_has_every_row_and_is_json(measured: Make) -> None:
    read = json.loads(summed(measured("floor"), measured("rkv")).json())
    assert [row["subject"] for row in read["rows"]] == ["floor", "rkv"]
    assert read["rows"][1]["cost"]["median"] == pytest.approx(1.0)
    assert read["settings"] == SETTINGS
