"""The comparison of two versions shows the medians of what both have measured."""

import attrs
import before_after

from skipkv.benchmark import Measurement, Row, Summary


def rows(step: float, subjects: tuple[str, ...]) -> dict[before_after.Case, Row]:
    measured = [
        Measurement(
            subject=subject,
            batch_size=1,
            budget=64,
            repeat=repeat,
            new_tokens=11,
            first_token=0.1,
            seconds=0.1 + 10 * step,
            cpu_seconds=10 * step,
            steps=10,
            step_seconds=10 * step,
            step_median=step,
            step_p95=step,
            events=events,
            event_seconds=0.0,
            event_median=events * 0.004,
        )
        for repeat in range(3)
        for subject, events in zip(subjects, (0, 1), strict=False)
    ]
    summary = Summary.of(measured, model="tiny", settings={"interval": 16})
    return {(row.case.subject, row.case.batch_size): row for row in summary.rows}


def test_only_what_both_have_is_compared() -> None:
    text = before_after.table(rows(0.002, ("floor", "rkv")), rows(0.003, ("floor",)))
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| floor"]
    assert "| floor | 1 | 2.00 | 3.00 | - | - |" in text


def test_a_policy_has_its_events_and_its_cost_beside_its_own_floor() -> None:
    before, after = rows(0.002, ("floor", "rkv")), rows(0.003, ("floor", "rkv"))
    line = before_after.table(before, after).splitlines()[-1]
    # an event of 4 ms in 10 steps: (2 + 0.4) / 2 and (3 + 0.4) / 3
    assert line == "| rkv | 1 | 2.00 | 3.00 | 4.00 | 4.00 | 1.20 | 1.13 |"


def test_a_case_that_failed_has_dashes() -> None:
    good = rows(0.002, ("floor", "rkv"))
    failed = {
        case: attrs.evolve(row, step=None, event=None, cost=None) for case, row in good.items()
    }
    line = before_after.table(good, failed).splitlines()[-1]
    assert line == "| rkv | 1 | 2.00 | - | 4.00 | - | 1.20 | - |"
