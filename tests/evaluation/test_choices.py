"""Multiple choice: GPQA's rows become lettered questions."""

import json
from collections import Counter

import pytest

from skipkv.errors import InputError
from skipkv.evaluation import grade, load_dataset

ROWS = [
    {
        "Question": f"What is {i} + {i}?",
        "Correct Answer": str(2 * i),
        **{f"Incorrect Answer {k}": str(2 * i + k) for k in (1, 2, 3)},
    }
    for i in range(40)
]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_choices_are_shuffled_with_the_seed_and_the_answer_is_the_letter_of_the_right_one(tmp_path):
    file = write(tmp_path / "d.jsonl")
    data = load_dataset(f"gpqa={file}", seed=3)
    for row, problem in zip(ROWS, data.problems, strict=True):
        assert f"\n{problem.answer}) {row['Correct Answer']}" in problem.question
    assert Counter(p.answer for p in data.problems).keys() == set("ABCD")
    assert data == load_dataset(f"gpqa={file}", seed=3)
    assert data != load_dataset(f"gpqa={file}", seed=4)
    assert "the letter of your final answer" in data.defaults.instruction
    assert (data.defaults.temperature, data.defaults.top_p) == (0.6, 0.95)


def test_the_file_may_be_csv_as_gpqa_comes(tmp_path):
    file = tmp_path / "gpqa_diamond.csv"
    head = ",".join(ROWS[0])
    file.write_text(head + '\n"What,\nnow?",a,b,"c, d",e\n')
    [problem] = load_dataset(str(file)).problems
    assert problem.question.startswith("What,\nnow?\n\nA) ")
    assert ") c, d" in problem.question
    file.write_text(head + "\na,b\n")
    with pytest.raises(InputError, match="as many cells as the head has"):
        load_dataset(str(file))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"Incorrect Answer 1": "0"}, "all different"),
        ({"Question": ""}, "'Question' must be a text"),
        ({"Correct Answer": 4}, "'Correct Answer' must be a text"),
    ],
)
def test_a_row_that_is_no_choice_is_refused(tmp_path, change, part):
    with pytest.raises(InputError, match=part):
        load_dataset(str(write(tmp_path / "d.jsonl", [{**ROWS[0], **change}])))


@pytest.mark.parametrize("answer", ["B", "(B)", "B)", "B.", "B) 5 m", r"\text{B}", r"\text{(B) 5}"])
def test_a_letter_is_right_however_it_is_written(answer):
    assert grade(answer, "B")
    assert not grade(answer, "C")


def test_sets_without_a_place_on_the_hub_say_that_they_come_from_a_file():
    for name in ("aime25", "aime26", "hmmt", "gpqa"):
        with pytest.raises(InputError, match=f"--data {name}=FILE.jsonl"):
            load_dataset(name)
