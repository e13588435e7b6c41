"""Tables of measurements: medians over rounds, and ratios taken within a round."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from skipkv._runs import RUN, RunFolder, markdown_cell, read_lines, vouched_for
from skipkv.benchmark.case import Case
from skipkv.benchmark.crossover import crossover
from skipkv.benchmark.measurement import Measurement
from skipkv.benchmark.spread import Spread
from skipkv.benchmark.subjects import DYNAMIC, FLOOR, KVPRESS, STATIC
from skipkv.errors import InputError
from skipkv.evaluation.cells import FULL

RIVALS = (DYNAMIC, STATIC, FULL, KVPRESS)
"""The baselines that tokens per second are compared with."""


def folder_at(path: str | Path) -> RunFolder:
    """The folder of a benchmark.

    Args:
        path: its path; the folder need not exist.
    """
    return RunFolder(
        path,
        "bench",
        outputs=("summary.md", "summary.json"),
        holds={"model": str, "sessions": list},
    )


@attrs.frozen(kw_only=True)
class Row:
    """The results of one case. Times are in seconds, memory in bytes.

    Args:
        case: subject, batch size and budget.
        status: "ok", or the kind of failure: "oom" or "error".
        rounds: number of runs that the numbers come from.
        tokens_per_second: throughput of all sequences together, prefill included.
        latency: time from the call to the last token.
        first_token: time from the call to the first token.
        step: median time of a decode step.
        step_p95: 95th percentile of the time of a step.
        event: median time of an event.
        event_share: events' share of the decoding time.
        decode_step: mean time of a step, events' share included.
        cpu_step: the same in processor time.
        memory: peak memory beyond that of the loaded model.
        held: bytes of keys and values that the subject should hold.
        kv: bytes of keys and values allocated.
        cost: typical time of a step (medians, events' share included), divided by the floor's.
        cost_total: time of the whole decoding, divided by the floor's.
        cost_cpu: processor time, divided by the floor's.
        speedup: rival -> tokens per second, divided by the rival's.
        speedup_cpu: rival -> the same for decoding, in processor time.
        crossover: rival -> generated length from which on the case took less time in all; None if
            it never did. Rivals that were not measured are missing.
        curve: (tokens, seconds, bytes), medians over the rounds.
        note: a remark for readers.
    """

    case: Case
    status: str
    rounds: int
    tokens_per_second: Spread | None
    latency: Spread | None
    first_token: Spread | None
    step: Spread | None
    step_p95: Spread | None
    event: Spread | None
    event_share: Spread | None
    decode_step: Spread | None
    cpu_step: Spread | None
    memory: Spread | None
    held: int | None
    kv: int | None
    cost: Spread | None
    cost_total: Spread | None
    cost_cpu: Spread | None
    speedup: dict[str, Spread]
    speedup_cpu: dict[str, Spread]
    crossover: dict[str, int | None]
    curve: tuple[tuple[Any, ...], ...] = attrs.field(repr=False)
    note: str | None


@attrs.frozen(kw_only=True)
class Summary:
    """All rows of a benchmark.

    Args:
        model: name of the model.
        settings: settings of the run.
        rows: one row per case.
        vouched: a note for each policy that was described otherwise at times, and of which the user
            said that it does the same.
    """

    model: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    vouched: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], *, model: str, settings: dict[str, Any]
    ) -> "Summary":
        """Sum up measurements, in the order of their cases.

        Args:
            measurements: measurements of any number of rounds.
            model: name of the model.
            settings: settings of the run.
        """
        cases = list(dict.fromkeys(m.case for m in measurements))
        return cls(
            model=model,
            settings=settings,
            rows=tuple(_row(case, measurements) for case in cases),
        )

    @classmethod
    def of_folder(cls, folder: str | Path) -> "Summary":
        """Sum up what a benchmark has measured so far.

        Raises:
            InputError: the folder holds no benchmark.
        """
        there = folder_at(folder)
        run = there.read()
        if run is None:
            raise InputError(f"{folder} holds no benchmark: it has no {RUN}.")
        measurements, _ = read_lines(there.path / there.records, Measurement)
        found = cls.of(measurements, model=run["model"], settings=run["settings"])
        return attrs.evolve(found, vouched=vouched_for(run.get("policies", {})))

    def json(self) -> str:
        """All rows, without their curves."""
        rows = []
        for row in self.rows:
            fields = attrs.asdict(row)
            fields.pop("curve")
            rows.append({**fields.pop("case"), **fields})
        about = {"model": self.model, "settings": self.settings, "vouched": self.vouched}
        return json.dumps({**about, "rows": rows}, indent=2)

    def markdown(self) -> str:
        """The tables, in Markdown."""
        parts = [
            self.heading(),
            self.throughput(),
            self.steps(),
            self.costs(),
            self.speedups(),
            self.memory(),
            self.crossings(),
            *self.vouched,
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def heading(self) -> str:
        """One sentence with the model, the device and the settings."""
        s = self.settings
        rounds = max((row.rounds for row in self.rows), default=0)
        threads = f", threads: {s['threads']}" if s.get("device") == "cpu" else ""
        return (
            f"{markdown_cell(self.model)} ({s['model']['dtype']}) on {s['device']}{threads}: "
            f"{s['new_tokens']} new tokens after {s['prompt_tokens']}, an event every "
            f"{s['interval']} steps; medians of {rounds} rounds. In brackets: the least and "
            "the most."
        )

    def throughput(self) -> str:
        """Latency and throughput by batch size."""
        sizes = sorted({row.case.batch_size for row in self.rows})
        head = "".join(f" latency s, batch {n} | tokens/s, batch {n} |" for n in sizes)
        lines = [f"| subject | budget |{head}", "|---|--:|" + "--:|--:|" * len(sizes)]
        names = dict.fromkeys((row.case.subject, row.case.budget) for row in self.rows)
        for subject, budget in names:
            cells = []
            for size in sizes:
                row = self.row(Case(subject=subject, budget=budget, batch_size=size))
                if row is None or row.status != "ok":
                    cells += [_missing(row)] * 2
                else:
                    cells += [_number(row.latency, ".2f"), _number(row.tokens_per_second, ".0f")]
            lines.append(f"| {markdown_cell(subject)} | {budget or '-'} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def steps(self) -> str:
        """Times of steps and events."""

        def cells(row: Row) -> list[str]:
            events = row.event is not None and row.event.median > 0
            return [
                _number(row.step, ".2f", 1e3),
                _number(row.step_p95, ".2f", 1e3),
                _number(row.event, ".2f", 1e3) if events else "-",
                _number(row.event_share, ".1f", 1e2) if events else "-",
                _number(row.cpu_step, ".2f", 1e3),
                _number(row.first_token, ".0f", 1e3),
            ]

        heads = ["ms/step", "p95", "ms/event", "events %", "CPU ms/step", "first token ms"]
        return self._table(heads, self.rows, cells)

    def costs(self) -> str:
        """Time of a step, events' share included, divided by the floor's of the same round.

        "median" uses the medians of steps and events, "mean" their total time, and "CPU" the
        processor time.
        """
        rows = [row for row in self.rows if row.cost is not None or row.status != "ok"]
        if not any(row.cost for row in rows):
            return ""

        def cells(row: Row) -> list[str]:
            return [_spread(cost, ".2f") for cost in (row.cost, row.cost_total, row.cost_cpu)]

        return self._table(["cost / floor: median", "mean", "CPU"], rows, cells)

    def speedups(self) -> str:
        """Tokens per second divided by those of full caches and kvpress, in wall and CPU time."""
        rivals = [r for r in RIVALS if any(r in row.speedup for row in self.rows)]
        if not rivals:
            return ""

        def cells(row: Row) -> list[str]:
            wall = [_spread(row.speedup.get(rival), ".2f") for rival in rivals]
            return wall + [_spread(row.speedup_cpu.get(rival), ".2f") for rival in rivals]

        heads = [f"x {rival}" for rival in rivals] + [f"x {rival}, CPU" for rival in rivals]
        return self._table(heads, self.rows, cells)

    def memory(self) -> str:
        """Memory measured beside the bytes that keys and values should take."""

        def cells(row: Row) -> list[str]:
            due, allocated = (
                "-" if size is None else f"{size / 1e6:.1f}" for size in (row.held, row.kv)
            )
            return [_number(row.memory, ".1f", 1e-6), due, allocated]

        heads = ["peak MB", "keys and values MB: due", "allocated"]
        return self._table(heads, self.rows, cells)

    def crossings(self) -> str:
        """The length from which on each subject has taken less time than the full caches."""
        rivals = [r for r in RIVALS if any(r in row.crossover for row in self.rows)]
        if not rivals:
            return ""
        never = f"never within {self.settings['new_tokens']}"

        def cells(row: Row) -> list[str]:
            said = []
            for rival in rivals:
                at = row.crossover.get(rival)
                words = never if at is None else "the first" if at == 1 else f"token {at}"
                said.append(words if rival in row.crossover else "-")
            return said

        rows = [row for row in self.rows if row.crossover]
        return self._table([f"ahead of {rival} from" for rival in rivals], rows, cells)

    def _table(
        self, heads: Sequence[str], rows: Iterable[Row], cells: Callable[[Row], list[str]]
    ) -> str:
        """A row per case; a row without numbers has the reason."""
        lines = [
            f"| subject | budget | batch | {' | '.join(heads)} |",
            "|---|--:|--:|" + "--:|" * len(heads),
        ]
        for row in rows:
            case = row.case
            found = cells(row) if row.status == "ok" else [_missing(row)] * len(heads)
            lines.append(
                f"| {markdown_cell(case.subject)} | {case.budget or '-'} | {case.batch_size} "
                f"| {' | '.join(found)} |"
            )
        return "\n".join(lines)

    def row(self, case: Case) -> Row | None:
        """The row of a case."""
        return next((row for row in self.rows if row.case == case), None)


def _row(case: Case, measurements: Sequence[Measurement]) -> Row:
    own = [m for m in measurements if m.case == case]
    good = [m for m in own if m.ok]
    failed = next((m for m in own if not m.ok), None)

    def over(value: Callable[[Measurement], Any]) -> Spread | None:
        return Spread.of(value(m) for m in good)

    def against(rival: str, value: Callable[[Measurement], Any]) -> Spread | None:
        """Our value divided by the rival's of the same round."""
        return Spread.of(
            value(m) / value(other)
            for m in good
            if (other := _beside(m, rival, measurements)) is not None
            and value(m) is not None
            and value(other)
        )

    cost: dict[str, Spread | None] = dict.fromkeys(("typical", "total", "cpu"))
    if case.subject != FLOOR:
        cost["typical"] = against(FLOOR, lambda m: m.typical_step)
        cost["total"] = against(FLOOR, lambda m: m.decode_step)
        cost["cpu"] = against(FLOOR, lambda m: m.cpu_step)
    speedup, speedup_cpu, crossings = {}, {}, {}
    for rival in RIVALS:
        if rival == case.subject:
            continue
        ratio = against(rival, lambda m: m.tokens_per_second)
        if ratio is not None:
            speedup[rival] = ratio
        work = against(rival, lambda m: 1 / m.cpu_step if m.cpu_step else None)
        if work is not None:
            speedup_cpu[rival] = work
        pairs = [(m, other) for m in good if (other := _beside(m, rival, measurements))]
        if pairs and case.subject != FLOOR and rival != KVPRESS:
            crossings[rival] = _median_length(crossover(m.curve, o.curve) for m, o in pairs)
    return Row(
        case=case,
        status="ok" if failed is None else failed.status,
        rounds=len(good),
        tokens_per_second=over(lambda m: m.tokens_per_second),
        latency=over(lambda m: m.seconds),
        first_token=over(lambda m: m.first_token),
        step=over(lambda m: m.step_median),
        step_p95=over(lambda m: m.step_p95),
        event=over(lambda m: m.event_median),
        event_share=over(lambda m: m.event_share),
        decode_step=over(lambda m: m.decode_step),
        cpu_step=over(lambda m: m.cpu_step),
        memory=over(lambda m: m.peak_bytes),
        held=own[0].held_bytes,
        kv=good[0].kv_bytes if good else None,
        cost=cost["typical"],
        cost_total=cost["total"],
        cost_cpu=cost["cpu"],
        speedup=speedup,
        speedup_cpu=speedup_cpu,
        crossover=crossings,
        curve=_median_curve([m.curve for m in good]),
        note=own[0].note,
    )


def _beside(
    measurement: Measurement, rival: str, measurements: Iterable[Measurement]
) -> Measurement | None:
    """The rival's run of the same round and batch size, and of the same budget if it takes one."""
    return next(
        (
            other
            for other in measurements
            if other.ok
            and other.subject == rival
            and other.repeat == measurement.repeat
            and other.batch_size == measurement.batch_size
            and other.budget in (None, measurement.budget)
        ),
        None,
    )


def _median_curve(curves: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    """The median curve, point by point: all rounds have the same lengths."""
    return tuple(
        (
            points[0][0],
            statistics.median(point[1] for point in points),
            None if points[0][2] is None else statistics.median(point[2] for point in points),
        )
        for points in zip(*curves, strict=False)
    )


def _median_length(lengths: Iterable[int | None]) -> int | None:
    """The median length; None ("never") counts as longer than any length."""
    found = sorted(lengths, key=lambda n: float("inf") if n is None else n)
    return found[(len(found) - 1) // 2]


def _missing(row: Row | None) -> str:
    return "-" if row is None else {"oom": "OOM"}.get(row.status, "failed")


def _number(spread: Spread | None, form: str, factor: float = 1.0) -> str:
    return "-" if spread is None else f"{factor * spread.median:{form}}"


def _spread(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{spread.median:{form}}"
    return f"{spread.median:{form}} [{spread.low:{form}}, {spread.high:{form}}]"
