"""LiveCodeBench: its problems as a data set, a sweep's programs for its evaluator, and grading.

Programs are graded by LiveCodeBench's own runner, which executes them. The other parts need no more
than a local file of the problems.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipkv._runs import writing
from skipkv._runs.jsonl import objects
from skipkv.errors import InputError, MissingExtraError
from skipkv.evaluation import Cell, DataSet, Defaults, Problem, Record, Summary
from skipkv.evaluation.records import read_records
from skipkv.evaluation.summary import UNGRADED, folder_at
from skipkv.runtime.text.thinking import TAGS, ThinkingMarks

__all__ = ["code_of", "data_set", "export", "grade"]

_ASKS = "Solve this programming problem in Python.\n\n{question}\n\n{form}"
_STARTER = "Begin with this code, and give the whole program in one block:\n```python\n{code}\n```"
_STDIN = "Read from standard input, write to standard output, and give the program in one block:\n"
_STDIN += "```python\n# the program\n```"
_FENCE = "```"


def data_set(path: str | Path, *, name: str = "livecodebench") -> DataSet:
    """The problems of a local file, to be decoded by a `Sweep`.

    Sampled at 0.6 with top-p 0.95, if the sweep's sampling says so, and up to 32768 tokens. Answers
    are programs, which the sweep does not grade: its summary says so.

    Args:
        path: a JSONL file of LiveCodeBench's code generation, as its releases have it, with
            `question_id`, `question_content` and `starter_code`.
        name: of the data set.

    Raises:
        InputError: the file cannot be read, or a line is not a problem.
    """
    problems = [
        Problem(id=str(row["question_id"]), question=_question(row), answer=UNGRADED)
        for row in _rows(path)
    ]
    defaults = Defaults(max_new_tokens=32768, instruction="", temperature=0.6, top_p=0.95)
    return DataSet(name=name, problems=problems, defaults=defaults)


def export(
    folder: str | Path,
    output: str | Path,
    *,
    data: str = "livecodebench",
    marks: ThinkingMarks = TAGS,
) -> list[Path]:
    """Write the programs of a sweep in the format of LiveCodeBench's custom evaluator.

    A file for each policy and budget: `[{"question_id": ..., "code_list": [...]}, ...]`, sorted by
    the question, with a program per sample. A sample without a program has an empty one. So has
    one that was cut off inside the thinking. Where thinking ends in some text in which it did not
    begin, the prompts have begun it.

    Args:
        folder: of a sweep that is done.
        output: folder for the files.
        data: name of the data set in the sweep.
        marks: how the model marks its thinking: `engine.thinking`.

    Returns:
        The files. `lcb_runner.runner.custom_evaluator --custom_output_file` takes one.

    Raises:
        InputError: the folder holds no such sweep, samples are missing, or texts were not kept.
    """
    output = Path(output)
    files = []
    for cell, programs in _programs(Path(folder), data, marks).items():
        named = [cell.policy, *([cell.asked] if cell.asked else [])]
        stem = "-at-".join("".join(c if c.isalnum() else "-" for c in part) for part in named)
        path = output / f"{stem}.json"
        if path in files:
            raise InputError(f"Two policies of {folder} would be written to {path}. Rename one.")
        rows = [{"question_id": q, "code_list": programs[q]} for q in sorted(programs)]
        with writing(path):
            output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        files.append(path)
    return files


def grade(
    folder: str | Path,
    problems: str | Path,
    *,
    data: str = "livecodebench",
    marks: ThinkingMarks = TAGS,
    processes: int = 4,
    timeout: int = 6,
) -> dict[Cell, dict[str, float]]:
    """The pass@k of a sweep's programs, from LiveCodeBench's own runner.

    **It executes programs that a model wrote**, on this machine, as the runner does it: use a
    container.

    Args:
        folder: of the sweep.
        problems: the file that `data_set` read, with its tests.
        data: name of the data set in the sweep.
        marks: how the model marks its thinking: `engine.thinking`.
        processes: programs that run at a time.
        timeout: seconds per test.

    Returns:
        For each policy and budget the runner's metrics, `pass@1` among them, from 0 to 1.

    Raises:
        MissingExtraError: the runner is not installed.
        InputError: as for `export`, or the file lacks a problem.
    """
    try:
        benchmark = importlib.import_module("lcb_runner.benchmarks.code_generation")
        runner = importlib.import_module("lcb_runner.evaluation.compute_code_generation_metrics")
    except ImportError as cause:
        raise MissingExtraError(
            f"LiveCodeBench's runner cannot be imported ({cause}). It is on no package index: clone"
            " its repository and put it on PYTHONPATH, with `datasets`. `export` works without it, "
            "and writes files for a machine that has it."
        ) from cause
    tests = {
        str(row["question_id"]): benchmark.CodeGenerationProblem(**row).get_evaluation_sample()
        for row in _rows(problems)
    }
    found = {}
    for cell, programs in _programs(Path(folder), data, marks).items():
        if lacking := sorted(set(programs) - set(tests)):
            raise InputError(f"{problems} lacks the problem {lacking[0]}, which {cell} answers.")
        asked = sorted(programs)
        metrics, *_ = runner.codegen_metrics(
            [tests[question] for question in asked],
            [programs[question] for question in asked],
            num_process_evaluate=processes,
            timeout=timeout,
        )
        found[cell] = {k: float(v) for k, v in metrics.items() if k.startswith("pass@")}
    return found


def code_of(text: str, *, marks: ThinkingMarks = TAGS, opened: bool = False) -> str:
    """The last block of code after the thinking, as LiveCodeBench's runner takes it; or "".

    Args:
        text: a model's text.
        marks: how the model marks its thinking.
        opened: whether the prompt has begun the thinking.

    Example:
        >>> code_of("<think>```no```</think>So:\\n```python\\nprint(1)\\n```\\nDone.")
        'print(1)'
    """
    _, answer = marks.split(text, begun="thinking" if opened else None)
    lines = (answer or "").split("\n")
    fences = [number for number, line in enumerate(lines) if _FENCE in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def _question(row: Mapping[str, Any]) -> str:
    code = row.get("starter_code")
    form = _STARTER.format(code=code) if code else _STDIN
    return _ASKS.format(question=row["question_content"], form=form)


def _rows(path: str | Path) -> list[Mapping[str, Any]]:
    rows: dict[str, Mapping[str, Any]] = {}
    try:
        with Path(path).open("rb") as file:
            for place, row in objects(file, str(path)):
                if not {"question_id", "question_content"} <= row.keys():
                    raise InputError(
                        f"{place} is not a problem of LiveCodeBench's code generation: it has no "
                        "question_id or no question_content."
                    )
                if (name := str(row["question_id"])) in rows:
                    raise InputError(
                        f"{place}: a line before has question_id {name!r} too. Keep one of them: "
                        "samples are told apart by it."
                    )
                rows[name] = row
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    if not rows:
        raise InputError(f"{path} holds no problem.")
    return list(rows.values())


def _programs(folder: Path, data: str, marks: ThinkingMarks) -> dict[Cell, dict[str, list[str]]]:
    """The programs of each cell: question -> one per sample, in their order."""
    summary = Summary.of_folder(folder)
    rows = [row for row in summary.rows if row.cell.data == data]
    if not rows:
        raise InputError(f"{folder} holds no data set {data!r}: {', '.join(summary.data)}.")
    for row in rows:
        if row.missing:
            raise InputError(f"{row.cell} lacks {row.missing} samples. Let the sweep end first.")
    records, _ = read_records(folder / folder_at(folder).records)
    found: dict[Cell, dict[str, list[str]]] = {row.cell: {} for row in rows}
    of_data = [record for record in records if record.cell in found]
    opened = any(_ends_thinking_alone(record.text or "", marks) for record in of_data)
    for record in sorted(of_data, key=lambda record: record.sample):
        program = _program(record, marks, opened=opened)
        found[record.cell].setdefault(record.problem, []).append(program)
    return found


def _ends_thinking_alone(text: str, marks: ThinkingMarks) -> bool:
    """Whether thinking ends in a text in which it did not begin: prompts have begun it."""
    before, mark, _ = text.partition(marks.closes)
    return bool(mark) and not any(m in before for m in (marks.opens, marks.answers or marks.opens))


def _program(record: Record, marks: ThinkingMarks, *, opened: bool) -> str:
    if record.failed:
        return ""
    if record.text is None:
        raise InputError(
            f"{record.cell}: the text of problem {record.problem} was not kept. Decode without "
            "--no-texts."
        )
    return code_of(record.text, marks=marks, opened=opened)
