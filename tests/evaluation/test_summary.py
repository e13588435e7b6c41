"""From records to rows, tables and plots."""

import csv
import io
import random
from itertools import combinations

import attrs
import numpy as np
import pytest
from fake_runs import record, sums

from skipkv.errors import InputError
from skipkv.evaluation import Cell, Summary, Sweep, summarize
from skipkv.evaluation.plots import figures, plot, styles
from skipkv.evaluation.summary import folder_at, rows_of

FULL = {"policy": "full", "asked": None, "budget": None}
CELLS = [
    Cell(data="sums", policy="rkv", asked="50%", budget=96),
    Cell(data="sums", policy="full"),
    Cell(data="sums", policy="rkv", asked="20", budget=20),
]


def summary(records, **wanted):
    rows = rows_of(records, CELLS, wanted or {"sums": 4})
    return Summary(model="toy", sampling={"temperature": 0, "samples": 1}, rows=tuple(rows))


RECORDS = [
    *(record(**FULL, problem=str(i), new_tokens=100 + i, prompt_tokens=8) for i in range(4)),
    *(record(asked="50%", problem=str(i), correct=i > 1, stop_reason="length") for i in range(4)),
    record(asked="20", budget=20, problem="3", correct=False, stop_reason="error", error="NaN"),
]


def test_a_row_holds_what_its_records_say():
    found = summary(RECORDS)
    full, rkv = found.row("full"), found.row("rkv", "50%")
    assert (full.accuracy.value, full.difference, full.trace) == (1.0, None, 109.5)
    assert (rkv.accuracy.value, rkv.problems, rkv.samples) == (0.5, 4, 4)
    assert rkv.difference.value == -0.5
    assert rkv.budget_percent == pytest.approx(100 * 96 / 109.5)
    assert (rkv.truncated, full.truncated) == (1.0, 0.0)
    assert (rkv.execution, rkv.non_execution, rkv.events, rkv.evicted) == (3, 3, 2, 40)
    assert (rkv.mean_entries, rkv.peak_entries, rkv.peak_kv_bytes) == (20.5, 30, 1000)
    assert rkv.tokens_per_second == 40.0


def random_records(policy, problems, seed):
    draw = random.Random(seed)
    for problem in problems:
        for sample in range(3):
            end = draw.choice(["eos", "eos", "length", "error"])
            yield record(
                **policy, problem=str(problem), sample=sample, stop_reason=end,
                error="NaN" if end == "error" else None,
                correct=end == "eos" and draw.random() < problem / 60,
                prompt_tokens=draw.randrange(5, 30), new_tokens=draw.randrange(1, 400),
                peak_entries=draw.randrange(99), peak_kv_bytes=draw.randrange(10**6),
                mean_entries=draw.random(), wall_seconds=draw.random(), evicted=draw.randrange(99),
            )  # fmt: skip


def test_a_row_is_what_numpy_makes_of_its_records():
    """Problems that one of the two lacks; samples that failed, and that were cut off."""
    asked = [p for p in range(60) if p % 3]
    full = list(random_records(FULL, range(40), 1))
    own = list(random_records({}, asked, 2))
    random.Random(0).shuffle(own)
    row = rows_of([*own, *full], [full[0].cell, own[0].cell], {"sums": 180})[1]

    right = {p: np.mean([r.correct for r in own if r.problem == str(p)]) for p in asked}
    before = {p: np.mean([r.correct for r in full if r.problem == str(p)]) for p in range(40)}
    assert row.accuracy.value == pytest.approx(np.mean(list(right.values())))
    pairs = np.array([right[p] - before[p] for p in asked if p < 40])
    drawn = np.random.default_rng(1).choice(pairs, (20_000, len(pairs))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert row.difference.value == pytest.approx(pairs.mean())
    assert (row.difference.low, row.difference.high) == pytest.approx((low, high), abs=0.02)

    ended = [r for r in own if not r.failed]
    assert (row.samples, row.missing, row.failed) == (120, 60, 120 - len(ended))
    assert row.truncated == pytest.approx(np.mean([r.stop_reason == "length" for r in ended]))
    assert row.trace == pytest.approx(np.mean([r.prompt_tokens + r.new_tokens for r in ended]))
    assert row.mean_entries == pytest.approx(np.mean([r.mean_entries for r in ended]))
    assert row.evicted == pytest.approx(np.mean([r.evicted for r in ended]))
    assert row.peak_entries == max(r.peak_entries for r in ended)
    assert row.peak_kv_bytes == max(r.peak_kv_bytes for r in ended)
    length = np.mean([r.prompt_tokens + r.new_tokens for r in full if not r.failed])
    assert row.budget_percent == pytest.approx(100 * 96 / length)


def test_speed_counts_the_time_and_tokens_of_samples_that_failed_beside_the_others():
    failed = record(problem="0", stop_reason="error", error="NaN", new_tokens=99, wall_seconds=9.9)
    good = record(problem="1", new_tokens=100, wall_seconds=0.1)  # decoded beside it, done after it
    [row] = rows_of([failed, good], [good.cell], {"sums": 2})
    assert row.tokens_per_second == pytest.approx(19.9)
    assert row.new_tokens.value == 100  # in no other column


def test_memory_beyond_a_gigabyte_is_written_out():
    [row] = rows_of([record(peak_kv_bytes=1_878_654_976)], [record().cell], {"sums": 1})
    found = Summary(model="toy", sampling={"temperature": 0}, rows=(row,))
    assert "| 1879 | 40 |" in found.markdown()


def test_rows_come_full_cache_first_and_budgets_rising_in_whatever_order_records_were_written():
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    assert summary(shuffled) == summary(RECORDS)
    assert [row.cell.budget for row in summary(shuffled).rows] == [None, 20, 96]


def test_samples_of_a_problem_are_averaged_before_problems_are():
    records = [
        *(record(problem="0", sample=i, correct=i < 3) for i in range(4)),
        *(record(problem="1", sample=i, correct=False) for i in range(2)),
    ]
    [row] = rows_of(records, [record().cell], {"sums": 8})
    assert row.accuracy.value == pytest.approx(3 / 8)  # (3/4 + 0) / 2, not 3/6
    assert (row.problems, row.samples, row.missing) == (2, 6, 2)
    assert row.difference is None  # no full cache to stand beside


def test_the_difference_is_over_the_problems_both_have():
    assert summary(RECORDS).row("rkv", 20).difference.value == -1.0


def test_a_row_that_is_not_there_is_said():
    with pytest.raises(KeyError, match="0 rows of policy h2o"):
        summary(RECORDS).row("h2o", 96)


def test_the_table_is_for_people():
    text = summary(RECORDS).markdown()
    assert "# Evaluation of toy" in text
    assert "| full | - | - | 100.0 [51.0, 100.0] | - |" in text
    assert "| rkv | 96 | 88 | 50.0 [15.0, 85.0] | -50.0 [-100.0, +0.0] | 20 | 100.0 |" in text
    assert "Incomplete: rkv at 20 lacks 3 samples." in text
    assert "Failed: 1 samples of rkv at 20 ended with an error; they count as wrong." in text
    assert "--retry-failed decodes these samples again" in text


def test_the_csv_has_every_column_of_every_row():
    rows = list(csv.DictReader(io.StringIO(summary(RECORDS).csv())))
    assert [row["budget"] for row in rows] == ["", "20", "96"]
    assert float(rows[2]["accuracy_low"]) < float(rows[2]["accuracy"]) == 0.5
    assert rows[0]["difference"] == ""
    assert all(None not in row.values() for row in rows)


def test_names_are_shown_as_they_are_and_do_nothing(tmp_path):
    policy, data = "a|b <b>$x_{$ [l](x)\n\x1b[2J", "=1+1"
    records = [record(**{**FULL, "data": data}), record(data=data, policy=policy)]
    cells = [r.cell for r in records]
    rows = tuple(rows_of(records, cells, {data: 1}))
    found = Summary(model="m|<i>", sampling={"temperature": 0}, rows=rows)
    lines = found.markdown().splitlines()
    assert "# Evaluation of m\\|&lt;i&gt;" in lines
    [line] = [line for line in lines if line.startswith("| a")]
    assert line.startswith("| a\\|b &lt;b&gt;$x_{$ \\[l\\](x)\\\\n\\\\x1b\\[2J | 96 |")
    [_, row] = csv.DictReader(io.StringIO(found.csv()))
    assert row["data"] == "'=1+1"
    assert float(row["difference"]) == 0.0
    assert len(plot(found, tmp_path)) == 2


@pytest.mark.parametrize("plot_format", ["png", "svg"])
def test_plots_are_drawn_for_accuracy_and_length(plot_format, tmp_path):
    paths = plot(summary(RECORDS), tmp_path, plot_format=plot_format)
    assert [p.name for p in paths] == [f"accuracy-sums.{plot_format}", f"length-sums.{plot_format}"]
    head = {"png": b"\x89PNG", "svg": b"<?xml"}[plot_format]
    assert all(path.read_bytes().startswith(head) for path in paths)
    if plot_format == "svg":
        first = paths[0].read_text()
        for label in ("budget (tokens per KV head)", "accuracy (pass@1, %)", "110 tokens on av"):
            assert label in first, label


def test_a_plot_has_the_values_and_the_intervals_of_its_rows():
    found = summary(RECORDS)
    accuracy, length = (
        dict(figures(found))[f"{kind}-sums"].axes[0] for kind in ("accuracy", "length")
    )
    [line] = [bars.lines[0] for bars in accuracy.containers]
    rows = [found.row("rkv", "20"), found.row("rkv", "50%")]
    assert line.get_xdata() == pytest.approx([20, 96])
    assert line.get_ydata() == pytest.approx([100 * row.accuracy.value for row in rows])
    [ends] = accuracy.containers[0].lines[2]
    assert np.array(ends.get_segments())[:, :, 1] == pytest.approx(
        np.array([[100 * row.accuracy.low, 100 * row.accuracy.high] for row in rows])
    )
    [line] = [bars.lines[0] for bars in length.containers]
    assert line.get_ydata() == pytest.approx([row.new_tokens.value for row in rows])
    [above] = accuracy.child_axes  # % of the full cache's mean trace, of 109.5 tokens
    assert above.get_xticks() == pytest.approx([100 * 20 / 109.5, 100 * 96 / 109.5])


@pytest.mark.parametrize("presets", [(), ("rkv",), ("skipkv", "rkv", "snapkv", "h2o", "tova")])
def test_no_two_policies_of_a_plot_look_alike(presets):
    looks = [tuple(s.values()) for s in styles([*presets, *(f"own {n}" for n in range(20))])]
    assert len(set(looks)) == len(looks)
    assert [s["color"] for s in styles([*presets, "own"])][:-1] == [
        s["color"] for s in styles([*presets])
    ]


@pytest.mark.parametrize(("model", "title"), [("toy", "toy on sums"), ("sums", "sums on its own")])
def test_a_plot_is_titled_with_the_model_and_the_problems(model, title, tmp_path):
    named = attrs.evolve(summary(RECORDS), model=model)
    assert f"<!-- {title}" in plot(named, tmp_path, plot_format="svg")[0].read_text()


def test_nothing_is_plotted_where_no_budget_was_measured(tmp_path):
    assert plot(summary(RECORDS[:4]), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_another_plot_format_is_said(tmp_path):
    with pytest.raises(InputError, match="png or svg, not 'bmp'"):
        plot(summary(RECORDS), tmp_path, plot_format="bmp")


def test_a_folder_without_a_sweep_is_said(tmp_path):
    with pytest.raises(InputError, match="holds no sweep"):
        summarize(tmp_path)


def test_pass_at_k_is_the_share_of_choices_of_k_samples_that_hold_a_right_one():
    right = [[True, False, False, False], [False] * 4, [True] * 4]
    records = [
        record(problem=str(p), sample=s, correct=c)
        for p, samples in enumerate(right)
        for s, c in enumerate(samples)
    ]
    [row] = rows_of(records, [record().cell], {"sums": 12})
    for k, share in row.passes:
        sets = [list(combinations(samples, k)) for samples in right]
        expected = [sum(map(any, some)) / len(some) for some in sets]
        assert share == pytest.approx(sum(expected) / 3)
    assert [k for k, _ in row.passes] == [2, 4]
    assert rows_of(records[:-1], [record().cell], {"sums": 12})[0].passes == ()
    found = Summary(model="toy", sampling={"temperature": 1}, rows=(row,))
    assert "| rkv | 96 | 41.7 | 50.0 | 66.7 |" in found.markdown()
    assert "pass_at_2" in found.csv().splitlines()[0]


def test_accuracy_among_those_that_ended_leaves_out_what_was_cut_off():
    records = [
        record(problem="0"),
        record(problem="1", correct=False),
        record(problem="2", correct=False, stop_reason="length"),
    ]
    [row] = rows_of(records, [record().cell], {"sums": 3})
    assert (row.accuracy.value, row.accuracy_ended) == (pytest.approx(1 / 3), 0.5)
    found = Summary(model="toy", sampling={"temperature": 0}, rows=(row,))
    assert "| policy | budget | accuracy among ended % |" in found.markdown()
    [doubt] = found.doubts
    assert doubt.startswith("Cut off: 33% of rkv at 96 reached --max-new-tokens")


def test_a_budget_under_which_nothing_was_evicted_is_said():
    [row] = rows_of([record(evicted=0, events=0)], [record().cell], {"sums": 1})
    found = Summary(model="toy", sampling={"temperature": 0}, rows=(row,))
    assert found.doubts == [
        "Nothing was evicted under rkv at 96: no trace outgrew the budget, so the row is that of a "
        "full cache."
    ]
    assert found.doubts[0] in found.markdown()


def test_a_folder_with_a_record_twice_or_of_no_known_policy_has_no_table(fakes, tmp_path):
    sweep = Sweep(data=sums(), policies="rkv", budgets=60)
    sweep.run(fakes.model, fakes.tokenizer, tmp_path, progress=False)
    path = tmp_path / "records.jsonl"
    good = path.read_text()
    path.write_text(good + good.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="problem 4, sample 0 twice"):
        summarize(tmp_path)
    path.write_text(good.replace('"policy": "rkv"', '"policy": "h2o"'))
    with pytest.raises(InputError, match="does not say with which policy"):
        summarize(tmp_path)


def test_a_cell_that_was_not_begun_is_named(tmp_path):
    data = {"sums": {"problems": 1}, "more": {"problems": 1}}
    run = {
        "settings": {"sampling": {"temperature": 0, "samples": 1}, "data": data},
        "model": "toy",
        "sessions": [],
        "cells": [
            *map(attrs.asdict, CELLS),
            attrs.asdict(Cell(data="more", policy="full")),
        ],
    }
    folder_at(tmp_path).write(run)
    (tmp_path / "records.jsonl").write_text(record(**FULL).line())
    found = Summary.of_folder(tmp_path)
    assert found.doubts == [
        f"Not begun: {cell} has no sample yet, and no row."
        for cell in ("sums: rkv at 50% (96 tokens)", "sums: rkv at 20", "more: full")
    ]
    assert all(note in found.markdown() for note in found.doubts)


def test_rows_become_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = summary(RECORDS).to_pandas()
    assert list(frame["policy"]) == ["full", "rkv", "rkv"]
    assert pandas.isna(frame["difference"][0])
    assert list(frame["accuracy"]) == [1.0, 0.0, 0.5]
    assert frame["difference"].mean() == -0.75  # numbers, not objects
    assert {frame.dtypes[name].kind for name in ("difference", "budget_percent")} == {"f"}
    rows = tuple(rows_of([record(policy="-mine")], [record(policy="-mine").cell], {"sums": 1}))
    found = Summary(model="toy", sampling={"temperature": 0}, rows=rows)
    assert list(found.to_pandas()["policy"]) == ["-mine"]  # no spreadsheet reads it
    assert ",'-mine," in found.csv()
