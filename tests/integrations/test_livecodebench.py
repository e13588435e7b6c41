"""LiveCodeBench's problems, programs and grades; its runner is stood in for by one of its shape."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from skipkv import Sampling, ThinkingMarks
from skipkv.errors import InputError, MissingExtraError
from skipkv.evaluation import Record, Sweep
from skipkv.integrations.livecodebench import code_of, data_set, export, grade
from skipkv.testing import toy_model, toy_tokenizer

ROWS = [
    {"question_id": "b2", "question_content": "Add.", "starter_code": "class Solution: ..."},
    {"question_id": "a1", "question_content": "Print one.", "starter_code": ""},
]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "test6.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def swept(problems: Path, tmp_path: Path) -> Path:
    """A sweep of two samples per problem, whose texts are then what a model would write.

    The second samples were done first, as happens where they are shorter.
    """
    data = data_set(problems)  # with words that the toy's tokenizer knows
    easy = [attrs.evolve(p, question="one plus two") for p in data.problems]
    sweep = Sweep(
        data=attrs.evolve(data, problems=easy),
        policies="streaming_llm",
        budgets=20,
        sampling=Sampling(temperature=0.6, top_p=0.95, n=2),
        interval=8,
        max_new_tokens=10,
    )
    folder = tmp_path / "sweep"
    summary = sweep.run(toy_model(), toy_tokenizer(), folder, progress=False)
    assert "Not graded" in summary.markdown()
    assert any("Not graded" in doubt for doubt in summary.doubts)
    rewrite(folder, lambda line: {**line, "text": written(line)})
    return folder


def written(line: dict[str, Any]) -> str:
    program = f"print({line['policy']!r}, {line['problem']!r}, {line['sample']})"
    return f"<think>```python\nno\n```</think>Here:\n```python\n{program}\n```\n"


def rewrite(folder: Path, change: Any) -> None:
    path = folder / "records.jsonl"
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    lines = sorted(filter(None, lines), key=lambda line: -line["sample"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_question_holds_the_problem_and_the_form_of_its_answer(problems):
    data = data_set(problems)
    assert [p.id for p in data.problems] == ["b2", "a1"]
    assert "Add." in data.problems[0].question
    assert "class Solution: ..." in data.problems[0].question
    assert "standard input" in data.problems[1].question
    assert data.defaults.instruction == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx\ny\n```", "x\ny"),
        ("```\nfirst\n```\nbetter:\n```python\nsecond\n```", "second"),
        ("<think>```\nx\n```</think> none", ""),
        ("<think>```\nx\n```", ""),
        ("no block", ""),
        ("```python\ncut off", ""),
        ("thought</think>```\nx\n```", "x"),
    ],
)
def test_the_last_block_after_the_thinking_is_the_program(text, code):
    assert code_of(text) == code


def test_other_marks_and_thinking_that_the_prompt_began_hold_no_program():
    marks = ThinkingMarks(opens="[THINK]", closes="[/THINK]")
    assert code_of("[THINK]```\nx\n```", marks=marks) == ""
    assert code_of("```\nx\n```", opened=True) == ""
    assert code_of("```\nx\n```</think>```\ny\n```", opened=True) == "y"


def test_a_sample_cut_off_in_thinking_that_the_prompt_began_has_an_empty_program(swept, tmp_path):
    def without_opening(line: dict[str, Any]) -> dict[str, Any]:
        text = line["text"].removeprefix("<think>")
        cut = (line["policy"], line["problem"], line["sample"]) == ("full", "a1", 1)
        return {**line, "text": text.partition("</think>")[0] if cut else text}

    rewrite(swept, without_opening)
    [first, second] = json.loads(export(swept, tmp_path / "out")[0].read_text())
    assert first["code_list"] == ["print('full', 'a1', 0)", ""]
    assert "" not in second["code_list"]


def test_a_line_of_problems_may_hold_every_character(tmp_path):
    path = tmp_path / "test6.jsonl"
    row = {**ROWS[1], "question_content": "one\u2028line\x85 of text"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    [problem] = data_set(path).problems
    assert "one\u2028line\x85 of text" in problem.question


def test_programs_are_written_as_the_custom_evaluator_reads_them(swept, tmp_path):
    files = export(swept, tmp_path / "out")
    assert [f.name for f in files] == ["full.json", "streaming-llm-at-20.json"]
    assert json.loads(files[1].read_text()) == [
        {
            "question_id": question,
            "code_list": [f"print('streaming_llm', '{question}', {n})" for n in (0, 1)],
        }
        for question in ("a1", "b2")
    ]


def test_a_sample_that_failed_has_an_empty_program(swept, tmp_path):
    rewrite(
        swept,
        lambda r: (
            {**r, "stop_reason": "error", "error": "x", "text": None}
            if (r["policy"], r["problem"], r["sample"]) == ("full", "a1", 1)
            else r
        ),
    )
    [first, _] = json.loads(export(swept, tmp_path / "out")[0].read_text())
    assert first["code_list"] == ["print('full', 'a1', 0)", ""]


def test_what_is_not_whole_is_refused(swept, tmp_path):
    with pytest.raises(InputError, match=r"no data set 'lcb': livecodebench"):
        export(swept, tmp_path / "out", data="lcb")
    rewrite(swept, lambda r: {**r, "text": None})
    with pytest.raises(InputError, match=r"was not kept\. Decode without --no-texts"):
        export(swept, tmp_path / "out")
    rewrite(swept, lambda r: r if r["problem"] == "a1" else None)
    with pytest.raises(InputError, match=r"lacks 2 samples\. Let the sweep end first"):
        export(swept, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no problem"),
        ("{", "test.jsonl:1: not JSON"),
        ('{"question_id": "a1", "question_content": ""}\n' * 2, "jsonl:2.*'a1' too"),
        ('{"question": "x"}', "is not a problem of LiveCodeBench"),
    ],
)
def test_a_file_of_something_else_is_refused(content, message, tmp_path):
    (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        data_set(tmp_path / "test.jsonl")
    with pytest.raises(InputError, match="Cannot read"):
        data_set(tmp_path / "none.jsonl")


def test_without_the_runner_grading_says_how_to_get_it(swept, problems, monkeypatch):
    monkeypatch.setitem(sys.modules, "lcb_runner", None)
    with pytest.raises(MissingExtraError, match="clone its repository and put it on PYTHONPATH"):
        grade(swept, problems)


def test_the_runner_is_given_tests_and_programs_in_one_order(swept, problems, monkeypatch):
    asked = []

    class CodeGenerationProblem:
        def __init__(self, **row: Any) -> None:
            self.row = row

        def get_evaluation_sample(self) -> dict[str, str]:
            return {"input_output": self.row["question_id"]}

    def codegen_metrics(tests: Any, programs: Any, **options: Any) -> Any:
        asked.append((tests, programs, options))
        return [{"pass@1": 0.5, "detail": {}}, {}, []]

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    for name in ("lcb_runner", "lcb_runner.benchmarks", "lcb_runner.evaluation"):
        module(name, __path__=[])
    module("lcb_runner.benchmarks.code_generation", CodeGenerationProblem=CodeGenerationProblem)
    module("lcb_runner.evaluation.compute_code_generation_metrics", codegen_metrics=codegen_metrics)
    found = grade(swept, problems, processes=2)
    assert [str(cell) for cell in found] == [
        "livecodebench: full",
        "livecodebench: streaming_llm at 20",
    ]
    assert set(map(str, found.values())) == {"{'pass@1': 0.5}"}
    tests, programs, options = asked[0]
    assert [t["input_output"] for t in tests] == ["a1", "b2"]
    assert programs[1] == ["print('full', 'b2', 0)", "print('full', 'b2', 1)"]
    assert options == {"num_process_evaluate": 2, "timeout": 6}
    (problems.parent / "less.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(InputError, match="lacks the problem a1"):
        grade(swept, problems.parent / "less.jsonl")


def test_a_record_of_a_sweep_is_what_is_read(swept):
    line = json.loads((swept / "records.jsonl").read_text().splitlines()[0])
    assert Record(**line).gold == "(not graded)"
    assert not line["correct"]
