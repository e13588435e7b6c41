"""What a policy gets wrong and the full cache right is traced, with the embedded model."""

import json

import pytest
from fake_runs import sums
from typer.testing import CliRunner

from skipkv import Sampling, tiny
from skipkv.cli.app import app
from skipkv.evaluation import Summary, Sweep, load_dataset, trace_failures
from skipkv.evaluation.records import read_records
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.trace import Trace


@pytest.mark.slow
def test_failures_are_traced_and_linked_with_the_first_token_that_differs(tmp_path):
    command = ["eval", "-m", "tiny", "--limit", "1", "-p", "streaming_llm", "-b", "60"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path), "--trace-failures", "1"])
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == (tmp_path / "summary.md").read_text().rstrip("\n")
    records = {(r.policy, r.problem): r for r in read_records(tmp_path / "records.jsonl")[0]}
    [failure] = Summary.of_folder(tmp_path).failures
    assert records["full", failure.problem].correct
    assert not records["streaming_llm", failure.problem].correct
    assert (failure.asked, failure.sample, failure.same) == ("60", 0, True)
    page = tmp_path / "failures" / failure.page
    assert page.read_text().startswith("<!doctype html>")
    right, wrong = (Trace.load(page.with_name(page.stem + end)) for end in ("-full.npz", ".npz"))
    at = right.prompt_tokens + failure.differs
    assert right.ids[:at].tolist() == wrong.ids[:at].tolist()
    assert [right.pieces[at], wrong.pieces[at]] == failure.instead
    assert right.ids[at] != wrong.ids[at]
    assert f"token {failure.differs}: " in result.stdout
    assert f"(failures/{failure.page})" in result.stdout


@pytest.mark.slow
def test_more_failures_are_added_to_those_that_are_there(tmp_path):
    sweep = Sweep(data=load_dataset("tiny", limit=2), policies="streaming_llm", budgets=[60])
    model = tiny.load()
    sweep.run(*model, tmp_path, progress=False)
    [first] = trace_failures(sweep, *model, tmp_path, 1)
    page = tmp_path / "failures" / first.page
    before = page.stat().st_mtime_ns
    again, second = trace_failures(sweep, *model, tmp_path, 2)
    assert again == first
    assert second.problem != first.problem
    assert page.stat().st_mtime_ns == before
    assert Summary.of_folder(tmp_path).failures == (first, second)


def test_a_trace_of_another_text_than_the_record_has_is_said_also_where_both_were_cut_off(tmp_path):
    """Two texts that were cut off are equally long."""
    sampling = Sampling(temperature=1.0, n=2)
    data = sums(1, max_new_tokens=20)
    sweep = Sweep(data=data, policies="streaming_llm", budgets=[12], sampling=sampling)
    model = toy_model(), toy_tokenizer()
    sweep.run(*model, tmp_path, progress=False)
    path = tmp_path / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["correct"] = record["policy"] == "full"
        if (record["policy"], record["sample"]) == ("streaming_llm", 0):
            record["text"] = f"another{record['text']}"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = {f.sample: f.same for f in trace_failures(sweep, *model, tmp_path, 2)}
    assert found == {0: False, 1: True}
    assert "decoded for the trace as another text" in Summary.of_folder(tmp_path).markdown()
