"""`skipkv calibrate`, on the toy model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from skipkv.cli import exits
from skipkv.models import imprint_of
from skipkv.scorers import QueryStatistics
from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, questions, and traces in which thoughts begin differently."""
    folder = tmp_path_factory.mktemp("toys")
    toy_model().save_pretrained(folder / "model")
    toy_tokenizer().save_pretrained(folder / "model")
    thoughts = ["one plus two.\n\n", "wait now\n\n", "so three)\n\n", "alternatively x?\n\n"]
    questions, traces = [], []
    for number in range(10):
        order = [thoughts[(number * k + k) % 4] for k in range(7)]
        questions.append({"question": f"sum {number % 9}<think>", "id": number})
        traces.append({"text": "so.\n\n" + "".join(order) + "</think>x"})
    for name, rows in (("questions", questions), ("traces", traces)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def arguments(toys: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        "calibrate", "--model", toys / "model", "--data", toys / "questions.jsonl",
        "--traces", toys / "traces.jsonl", "--output", out, *more,
    )  # fmt: skip


def test_it_writes_a_vector_and_a_plot_and_reports(run: Any, toys: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run(*arguments(toys, tmp_path / "v.safetensors"))
    assert result.exit_code == 0, result.stderr
    vector = SteeringVector.load(tmp_path / "v.safetensors")
    assert vector.imprint == imprint_of(toy_model())
    assert f"vector of layer {vector.layer} written to" in result.stdout
    assert f"\n{vector.layer} *" in result.stdout
    assert "held-out questions" in result.stdout
    assert vector.model == str(toys / "model")
    assert vector.made.startswith("skipkv calibrate: 10 traces")
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")
    again = run(*arguments(toys, tmp_path / "v.safetensors"))
    assert again.stdout == result.stdout


def test_a_layer_can_be_asked_for(run: Any, toys: Path, tmp_path: Path) -> None:
    options = ("--layer", 1, "--work", tmp_path / "w", "--queries", tmp_path / "q")
    result = run(*arguments(toys, tmp_path / "v", *options))
    assert result.exit_code == 0, result.stderr
    assert SteeringVector.load(tmp_path / "v").layer == 1
    assert (tmp_path / "w" / "traces.jsonl").exists()
    assert f"statistics of queries written to {tmp_path / 'q'}" in result.stdout
    statistics = QueryStatistics.load(tmp_path / "q")
    assert statistics.model == str(toys / "model")
    assert statistics.shape.sizes == {"layers": 2, "heads": 2, "groups": 2, "dim": 16}
    # a run that goes on after all traces are there reads them again
    run(*arguments(toys, tmp_path / "v", *options[:-1], tmp_path / "again"))
    assert QueryStatistics.load(tmp_path / "again") == statistics
    assert statistics.imprint == imprint_of(toy_model())


def restating(folder: Path, *, often: int) -> Path:
    """Traces that state six facts, and then restate some of them."""
    said = ["one plus two", "then if", "sum minus", "check nine times", "me four", "ten way six"]
    lines = []
    for number in range(20):
        facts = [
            f"{words} {name}={(number * k + k) % 10}.\n\n"
            for k, (name, words) in enumerate(zip("uvwxyz", said, strict=True))
        ]
        again = [f"wait {fact}" for fact in facts[:often]] or ["wait k=3.\n\n", "wait l=4.\n\n"]
        lines.append({"text": "so.\n\n" + "".join([*facts, *again]) + "</think>x"})
    path = folder / "restating.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def threshold_arguments(folder: Path, *, often: int, file: Path) -> tuple[object, ...]:
    # with little attention, what a token's state says is mostly the token, as in a trained model
    model = toy_model()
    with torch.no_grad():
        for layer in model.base_model.layers:
            layer.self_attn.o_proj.weight *= 0.01
    model.save_pretrained(folder / "model")
    toy_tokenizer().save_pretrained(folder / "model")
    questions = folder / "questions.txt"
    questions.write_text("sum 1<think>\n" * 20)
    return (
        "calibrate", "--model", folder / "model", "--data", questions, "--output", folder / "v",
        "--traces", restating(folder, often=often), "--threshold", file,
    )  # fmt: skip


def test_a_threshold_is_estimated_beside_the_vector(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "skipkv.json"
    file.write_text(
        json.dumps(
            {
                "rkv": {"budget": 50},
                "calibrated": {"skipkv": {"pool": 5}, "kvzap": {"gate": "g.safetensors"}},
            }
        )
    )
    arguments = threshold_arguments(tmp_path, often=4, file=file)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "sentences: 80 restated later, " in result.stdout
    assert f"threshold written to {file}" in result.stdout
    stored = json.loads(file.read_text())
    threshold = stored["calibrated"]["skipkv"]["threshold"]
    assert f"threshold of a repeated sentence: {threshold:.3f} [" in result.stdout
    assert stored["rkv"] == {"budget": 50}
    assert stored["calibrated"]["skipkv"]["pool"] == 5
    assert stored["calibrated"]["kvzap"] == {"gate": "g.safetensors"}
    assert stored["calibrated"]["made"].startswith("skipkv calibrate: 20 traces, 80 restated")
    again = run(*arguments)  # from the traces and states that are there
    assert again.stdout == result.stdout
    assert json.loads(file.read_text()) == stored


def test_a_threshold_that_cannot_be_estimated_costs_no_vector(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "skipkv.json"
    result = run(*threshold_arguments(tmp_path, often=0, file=file))
    assert result.exit_code == exits.BAD_INPUT
    assert "The threshold cannot be estimated: in 20 traces 0 sentences are" in result.stderr
    assert SteeringVector.load(tmp_path / "v").made.startswith("skipkv calibrate: 20 traces")
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"calibrated": 3}', "'calibrated' must hold an object, got 3"),
    ],
)
def test_a_file_without_settings_is_refused_before_the_work(
    run: Any, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "skipkv.json"
    file.write_text(text)
    result = run(*threshold_arguments(tmp_path, often=4, file=file))
    assert result.exit_code == exits.BAD_INPUT
    assert message in result.stderr
    assert file.read_text() == text
    assert not (tmp_path / "v.work").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--layer", "middle"), "--layer middle must be a number from 0, or auto."),
        (("--layer", "9"), "the model's layers are 0 to 1"),
        (("--output", "no/such/v"), "there is no folder no/such"),
        (("--queries", "no/such/q"), "--queries no/such/q: there is no folder no/such"),
        (("--queries", "./v", "--output", "v"), "--queries v is the file of --output too"),
        (("--threshold", "./v", "--output", "v"), "--threshold v is the file of --output too"),
        (("--threshold", "q", "--queries", "./q"), "--threshold q is the file of --queries too"),
        (("--threshold", "no/such/t"), "--threshold no/such/t: there is no folder no/such"),
        (("--output", "/tmp"), "/tmp is a folder, but a file must be written"),
        (("--field", "q"), "no field 'q'"),
        (("--stable", "2"), "stable=2.0) must be a share"),
        (("--limit", "2"), "at least 3 questions"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    run: Any, toys: Path, tmp_path: Path, more: Any, message: str
) -> None:
    result = run(*arguments(toys, tmp_path / "v", *more))
    assert result.exit_code == exits.BAD_INPUT, result.output
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("skipkv: error: ")


@pytest.mark.parametrize(
    ("question", "more", "message"),
    [
        ("Why is the sky blue, and not green?", (), "does not know"),
        ("b:a+5; a:7. Start at a, find a and b.", ("-n", 4090), "exceeds the model's"),
        ("b:a+5; a:7. Start at a, find a and b.", ("--layer", 9), "the model's layers are 0 to 3"),
    ],
)
def test_no_folder_is_made_for_questions_that_cannot_be_decoded(
    run: Any, tmp_path: Path, question: str, more: Any, message: str
) -> None:
    (tmp_path / "q.txt").write_text(f"{question}\n" * 3)
    vector = tmp_path / "v"
    result = run("calibrate", "-m", "tiny", "--data", tmp_path / "q.txt", "-o", vector, *more)
    assert result.exit_code == exits.BAD_INPUT
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["q.txt"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    SteeringVector(vector=torch.ones(4), layer=1).save(tmp_path / "v.safetensors")
    return str(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("options", "kind", "strength", "growth"),
    [
        (("--policy", "skipkv", "--budget", 64), AdaptiveSteerer, 1.0, 0.02),
        (("--policy", "skipkv", "--budget", 64, "--growth", 0), AdditiveSteerer, 1.0, None),
        (("--policy", "rkv", "--budget", 64, "--strength", 2), AdditiveSteerer, 2.0, None),
        (("--policy", "seal", "--strength", 2), AdditiveSteerer, 2.0, None),
        (("--policy", "full", "--growth", 0.5), AdaptiveSteerer, 1.0, 0.5),
    ],
)
def test_generate_steers_with_a_vector(
    engine: Any, run: Any, file: str, options: Any, kind: type, strength: float, growth: Any
) -> None:
    result = run("generate", "--model", "m", *options, "--vector", file, "hi")
    assert result.exit_code == 0, result.output
    steerer = engine.loaded["policy"].steerer
    assert type(steerer) is kind
    assert steerer.strength == strength
    assert growth is None or steerer.growth == growth


def test_generate_says_that_seal_needs_a_vector(engine: Any, run: Any) -> None:
    result = run("generate", "--model", "m", "--policy", "seal", "hi")
    assert result.exit_code == exits.BAD_INPUT
    assert "Policy seal needs a vector. Add --vector FILE" in result.stderr
