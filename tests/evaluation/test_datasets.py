"""Data sets: named ones, files, the hub, the embedded model's own."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv import tiny
from skipkv.errors import ConfigError, InputError, MissingExtraError
from skipkv.evaluation import DataSet, Problem, load_dataset

ROWS = Path(__file__).parents[1] / "data" / "problems"


def test_gsm8k_answers_are_what_follows_the_hashes():
    data = load_dataset(f"gsm8k={ROWS / 'gsm8k.jsonl'}")
    assert [problem.answer for problem in data.problems] == ["18", "70000", "2125"]
    assert data.problems[0].question.startswith("Janet\u2019s ducks")
    assert [problem.id for problem in data.problems] == ["0", "1", "2"]


def test_math500_answers_are_latex():
    data = load_dataset(f"math500={ROWS / 'math500.jsonl'}")
    assert data.problems[0].answer == r"\left( 3, \frac{\pi}{2} \right)"
    assert data.problems[0].question.startswith("Convert the point")


def test_a_file_whose_path_holds_an_equals_sign_is_that_file(tmp_path):
    path = tmp_path / "lr=3.jsonl"
    path.write_text('{"question": "?", "answer": "1"}\n')
    assert load_dataset(str(path)).name == "lr=3"
    assert load_dataset(f"sums={path}").name == "sums"


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("gsm8k", "gsm8k_test.jsonl", 1319),
        ("math500", "math500.jsonl", 500),
        ("aime24", "aime24.jsonl", 30),
    ],
)
def test_the_whole_files_are_read(name, file, count, full_file):
    data = load_dataset(f"{name}={full_file(file)}")
    assert (data.name, len(data.problems)) == (name, count)
    assert all(0 < len(problem.answer) < 100 for problem in data.problems)
    if name == "aime24":
        assert all(0 <= int(problem.answer) <= 999 for problem in data.problems)
        assert data.defaults.max_new_tokens == 16384


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "?", "answer": 204}, "204"),
        ({"prompt": "?", "target": 0.5}, "0.5"),
        ({"problem": "?", "solution": r"so $\boxed{\frac{1}{2}}$."}, r"\frac{1}{2}"),
        ({"problem": "?", "solution": "long", "answer": "7"}, "7"),
        ({"input": "?", "output": "2+2=4\n#### 1,004"}, "1004"),
        ({"input": "?", "output": "#### $1,234,567.50\n"}, "$1234567.50"),
        ({"input": "?", "output": "#### 0,1"}, "0,1"),
        ({"input": "?", "output": "#### 12,34"}, "12,34"),
        ({"input": "?", "output": "#### 1,2,300"}, "1,2,300"),
        ({"input": "?", "output": "#### Solution\nIt is $\\boxed{5}$."}, "5"),
    ],
)
def test_usual_fields_are_found_by_themselves(row, answer, tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    data = load_dataset(str(tmp_path / "mine.jsonl"))
    assert data.name == "mine"
    assert data.problems == (Problem(id="0", question="?", answer=answer),)


def test_other_fields_are_named(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"q": "?", "a": "1", "answer": "2"}\n')
    [problem] = load_dataset(
        f"x={tmp_path / 'mine.jsonl'}", question_field="q", answer_field="a"
    ).problems
    assert (problem.question, problem.answer) == ("?", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no problem"),
        ("{}\n", "mine.jsonl:1: no question, looked for any of question, problem"),
        ('{"question": "?"}\n', "no answer, .*fields there: 'question'. Name it with --answer-fie"),
        ('{"question": "?", "answer": null}\n', "the answer 'answer' must be a text, got null"),
        ('{"question": "  ", "answer": "1"}\n', "the question 'question' .* got an empty text"),
        ('{"question": "?", "answer": "1"}\n[]\n', "mine.jsonl:2: must be a JSON object"),
        ("{\n", "mine.jsonl:1: not JSON"),
        ("[" * 100_000 + "\n", "mine.jsonl:1: not JSON .nested too deeply"),
        ('{"question": "?", "answer": "so 5 ####"}\n', "mine.jsonl:1: the answer ends in '####'"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_with_its_line(content, message, tmp_path):
    (tmp_path / "mine.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        load_dataset(str(tmp_path / "mine.jsonl"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nonsense", "No data set is called 'nonsense'. Known are tiny, rambler, gsm8k"),
        ("gsm8k=none.jsonl", "none.jsonl: No such file"),
        ("none.jsonl", "none.jsonl: No such file"),
        ("gsm8k=", "No data set is called 'gsm8k='|Cannot|extra `hub`"),
    ],
)
def test_an_unknown_data_set_is_said(spec, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises((InputError, MissingExtraError), match=message):
        load_dataset(spec)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[hub\]'"):
        load_dataset("gsm8k")


def test_the_hub_gives_the_same_as_a_file(monkeypatch):
    rows = [json.loads(line) for line in (ROWS / "gsm8k.jsonl").read_text().splitlines()]
    asked = []

    def load(*where, split):
        asked.append((*where, split))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    assert load_dataset("gsm8k") == load_dataset(f"gsm8k={ROWS / 'gsm8k.jsonl'}")
    assert asked == [("openai/gsm8k", "main", "test")]


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    def load(*where, split):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    with pytest.raises(InputError, match=r"aime24 .* ConnectionError: no network .*--data aime24="):
        load_dataset("aime24")


@pytest.mark.parametrize(("name", "interval"), [("tiny", 16), ("rambler", 32)])
def test_problems_of_the_embedded_models_are_generated(name, interval):
    data = load_dataset(name, limit=3, seed=5)
    assert [(problem.question, problem.answer) for problem in data.problems] == [
        (problem.question, problem.answer) for problem in tiny.problems_of(name, 3, seed=5)
    ]
    assert (data.defaults.instruction, data.defaults.interval) == ("", interval)
    assert len(load_dataset(name).problems) == 100


NUMBERS = DataSet(
    name="n", problems=[Problem(id=str(i), question="?", answer="1") for i in range(50)]
)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
def test_a_smaller_limit_gives_a_part_of_a_larger_one(one, other, seed):
    small, large = (NUMBERS.limited(n, seed=seed).problems for n in sorted((one, other)))
    assert len(small) == min(one, other, 50)
    assert set(small) <= set(large)
    assert [int(p.id) for p in small] == sorted(int(p.id) for p in small)


def test_a_limit_takes_no_mere_beginning():
    taken = [NUMBERS.limited(10, seed=seed).problems for seed in (0, 1)]
    assert taken[0] != taken[1]
    assert NUMBERS.problems[:10] not in taken


def test_a_data_set_needs_problems_of_different_names():
    problem = Problem(id="1", question="?", answer="1")
    with pytest.raises(ConfigError, match="two problems with the same id"):
        DataSet(name="x", problems=[problem, problem])
    with pytest.raises(ConfigError, match="must hold a problem"):
        DataSet(name="x", problems=[])
    with pytest.raises(ConfigError, match="limit=0"):
        NUMBERS.limited(0)
