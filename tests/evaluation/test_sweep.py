"""The sweep, with an engine that is not there; and once with one that is."""

import json
import math
import re
import sys
from types import SimpleNamespace

import attrs
import pytest
import torch
from fake_runs import Fakes, fake_model, sums
from tqdm.auto import tqdm

from skipkv import Budget, Policy, Sampling, __version__, presets
from skipkv._runs import RunFolder
from skipkv.errors import ConfigError, InputError, MissingExtraError
from skipkv.evaluation import DataSet, Problem, Sweep, summarize
from skipkv.evaluation.records import read_records
from skipkv.scorers import WriteGate
from skipkv.testing import toy_model, toy_tokenizer


def run(sweep: Sweep, fakes: Fakes, folder, **options):
    return sweep.run(fakes.model, fakes.tokenizer, folder, progress=False, **options)


def records(folder):
    return read_records(folder / "records.jsonl")[0]


def test_every_policy_stands_at_every_budget_beside_the_full_cache(fakes, tmp_path):
    found = run(Sweep(data=sums(), policies="rkv,skipkv", budgets="20,90"), fakes, tmp_path)
    assert [str(row.cell) for row in found.rows] == [
        "sums: full", "sums: rkv at 20", "sums: rkv at 90", "sums: skipkv at 20",
        "sums: skipkv at 90",
    ]  # fmt: skip
    assert [row.accuracy.value for row in found.rows] == [1, 0, 1, 0, 1]
    assert [row.non_execution for row in found.rows] == [1] * 5
    assert {p.name for p in tmp_path.iterdir()} == {
        "run.json", "records.jsonl", "summary.md", "summary.csv", "lock", "accuracy-sums.png",
        "length-sums.png",
    }  # fmt: skip
    assert (tmp_path / "summary.md").read_text() == found.markdown()


def test_the_full_cache_comes_first_once_per_data_set(fakes, tmp_path):
    sweep = Sweep(data=[sums(2, "a"), sums(3, "b")], policies="full,rkv", budgets=[20])
    run(sweep, fakes, tmp_path)
    assert [d["budget"] for d in fakes.decoded] == [None] * 5 + [20] * 5
    assert sweep.samples == len(records(tmp_path)) == 10


def test_a_percentage_is_of_the_full_caches_mean_trace(fakes, tmp_path):
    found = run(Sweep(data=sums(), policies="rkv", budgets="50%"), fakes, tmp_path)
    trace = found.row("full").trace
    assert found.row("rkv", "50%").cell.budget == round(trace / 2)


def test_policies_may_be_functions_and_finished_policies(fakes, tmp_path):
    own = Policy(budget=Budget(tokens=70, interval=4))
    sweep = Sweep(data=sums(), policies={"mine": presets.h2o, "own": own}, budgets=[30])
    found = run(sweep, fakes, tmp_path)
    assert [str(row.cell) for row in found.rows] == ["sums: full", "sums: mine at 30", "sums: own"]
    assert {d["budget"] for d in fakes.decoded} == {None, 30, 70}


def test_the_data_sets_settings_hold_where_the_sweep_has_none(fakes, tmp_path):
    run(Sweep(data=sums(max_new_tokens=33), policies="rkv", budgets=[20]), fakes, tmp_path / "a")
    assert {d["max_new_tokens"] for d in fakes.decoded} == {33}
    compositions = [
        c["composition"] for c in json.loads((tmp_path / "a/run.json").read_text())["cells"]
    ]
    assert "interval=16" in compositions[1]
    fakes.decoded.clear()
    sweep = Sweep(data=sums(), policies="rkv", budgets=[20], interval=5, max_new_tokens=7)
    run(sweep, fakes, tmp_path / "b")
    assert {d["max_new_tokens"] for d in fakes.decoded} == {7}
    assert '"interval": 5' in (tmp_path / "b/run.json").read_text()


def test_samples_have_seeds_of_their_own_which_all_policies_share(fakes, tmp_path):
    sampling = Sampling(temperature=0.5, n=3, seed=4)
    run(Sweep(data=sums(2), policies="rkv", budgets=[20], sampling=sampling), fakes, tmp_path)
    full = {(r.problem, r.sample): r.seed for r in records(tmp_path) if r.policy == "full"}
    rkv = {(r.problem, r.sample): r.seed for r in records(tmp_path) if r.policy == "rkv"}
    assert full == rkv
    assert len(set(full.values())) == 6
    assert {d["sampling"].n for d in fakes.decoded} == {1}
    # as they finish: none waits in memory for one before it
    assert {d["ordered"] for d in fakes.decoded} == {False}
    seeds = {(d["question"], d["seed"]) for d in fakes.decoded}
    assert ("1+2", full["1", 0]) in seeds


def test_what_is_done_is_not_decoded_again(fakes, tmp_path):
    sweep = Sweep(data=sums(), policies="rkv", budgets="20,50%")
    first = run(sweep, fakes, tmp_path)
    fakes.decoded.clear()
    assert run(sweep, fakes, tmp_path) == first
    assert fakes.decoded == []


def test_more_policies_budgets_and_data_sets_add_to_a_folder(fakes, tmp_path):
    run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path)
    fakes.decoded.clear()
    sweep = Sweep(data=[sums(), sums(2, "more")], policies="h2o,rkv", budgets="20,40")
    found = run(sweep, fakes, tmp_path)
    assert len(fakes.decoded) == 4 * 3 + 2 * 5
    assert len(found.rows) == 10
    # and fewer leave what is there in the summary
    assert run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": sums(3)}, r"data sums problems was 4 and is 3; data sums: its problems differ"),
        ({"max_new_tokens": 9}, "data sums max_new_tokens was 30 and is 9"),
        ({"interval": 9}, "data sums interval was 16 and is 9"),
        ({"sampling": Sampling(seed=3)}, "sampling seed was 0 and is 3"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(changes, message, fakes, tmp_path):
    settings = {"data": sums(), "policies": "rkv", "budgets": "20"}
    run(Sweep(**settings), fakes, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    other = Sweep(**{**settings, **changes})
    with pytest.raises(InputError, match=f"holds a run with other settings: {message}"):
        other.check_folder(tmp_path)
    with pytest.raises(InputError, match=message):
        run(other, fakes, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_another_model_or_policy_in_the_same_folder_is_refused(fakes, tmp_path):
    sweep = Sweep(data=sums(), policies={"mine": presets.rkv}, budgets=[20])
    run(sweep, fakes, tmp_path)
    with pytest.raises(InputError, match="model: the weights differ"):
        sweep.run(fake_model(seed=1), fakes.tokenizer, tmp_path, progress=False)
    ended = fake_model()
    ended.generation_config = SimpleNamespace(eos_token_id=[7])
    with pytest.raises(InputError, match=r"model eos was \[\] and is \[7\]"):
        sweep.run(ended, fakes.tokenizer, tmp_path, progress=False)
    other = Sweep(data=sums(), policies={"mine": presets.h2o}, budgets=[20])
    with pytest.raises(InputError, match=r"mine at 20 measured with another policy: Budget\("):
        run(other, fakes, tmp_path)


def test_a_whole_solution_as_the_known_answer_is_refused():
    problem = Problem(id="7", question="1+1", answer="So. " * 300)
    with pytest.raises(ConfigError, match=r"Problem 7 of a has an answer of 1200 char.*boxed"):
        Sweep(data=DataSet(name="a", problems=[problem]), policies="rkv", budgets=96)


def test_two_runs_do_not_share_a_folder(fakes, tmp_path):
    pytest.importorskip("fcntl")
    with (
        RunFolder(tmp_path, "eval").locked(),
        pytest.raises(InputError, match="is in use by another run"),
    ):
        run(Sweep(data=sums(), policies="rkv", budgets=[20]), fakes, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": "nonsense"}, "No preset is called 'nonsense'"),
        ({"policies": "rkv,rkv"}, "policy rkv is named twice"),
        ({"policies": {"full": presets.rkv}}, "label 'full' is reserved"),
        ({"budgets": "20,20"}, "budget 20 is named twice"),
        ({"budgets": "8"}, r"rkv at a budget of 8: Budget\(tokens=8\) must exceed"),
        ({"budgets": "8.5"}, "neither a whole number"),
        ({"budgets": []}, "must hold a budget for rkv"),
        ({"policies": "rkv:window=99999", "budgets": "5%"}, r"at a budget of \d+: Budget"),
        ({"data": []}, "must hold a data set"),
        ({"data": [sums(), sums()]}, "data set sums is named twice"),
        ({"interval": 0}, r"Sweep\(interval=0\)"),
    ],
)
def test_what_needs_no_model_is_checked_when_the_sweep_is_built(changes, message):
    with pytest.raises(ConfigError, match=message):
        Sweep(**{"data": sums(), "policies": "rkv", "budgets": "20", **changes})


def test_every_prompt_is_checked_before_the_first_token(fakes, tmp_path):
    long = DataSet(name="long", problems=[Problem(id="0", question="1" * 101, answer="1")])
    with pytest.raises(InputError, match="long: full: Prompt 0 is too long"):
        run(Sweep(data=[sums(), long], policies="rkv", budgets="20"), fakes, tmp_path / "x")
    assert fakes.decoded == []
    assert not (tmp_path / "x").exists()


def test_a_percentage_too_small_is_said_after_the_baseline_which_is_kept(fakes, tmp_path):
    with pytest.raises(ConfigError, match=r"rkv at a budget of \d: Budget"):
        run(Sweep(data=sums(), policies="rkv", budgets="50%,1%"), fakes, tmp_path)
    assert [r.policy for r in records(tmp_path)] == ["full"] * 4


def test_a_missing_extra_is_said_before_anything_is_decoded(fakes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib, for plots, .* extra `eval`"):
        run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path)
    assert fakes.decoded == []


def test_a_broken_policy_costs_its_samples_and_no_others(fakes, tmp_path, capsys):
    data = DataSet(
        name="sums",
        problems=[Problem(id=q, question=q, answer=str(eval(q))) for q in ("0+0", "1+1")],
        defaults=sums().defaults,
    )
    found = run(Sweep(data=data, policies="rkv", budgets="60"), fakes, tmp_path)
    assert (found.row("rkv", 60).failed, found.row("full").failed) == (1, 0)
    assert "sums: rkv at 60: problem 0+0: Recency returned NaN." in capsys.readouterr().err
    assert [r.error for r in records(tmp_path)].count("Recency returned NaN.") == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("40 GiB"), RuntimeError("CPU: not enough memory: 9 bytes")]
)
def test_where_memory_runs_out_batches_get_smaller_and_answers_stay(error, fakes, tmp_path, capsys):
    sweep = Sweep(data=sums(5, batch_size=8), policies="rkv", budgets="60")
    whole = run(sweep, fakes, tmp_path / "whole")
    fakes.engine.memory, fakes.engine.out_of_memory = 3, error
    found = run(sweep, fakes, tmp_path / "narrow")
    for row in found.rows:
        assert row.accuracy == whole.row(row.cell.policy, row.cell.asked).accuracy
        assert (row.samples, row.failed) == (5, 0)
    assert {r.batch_size for r in records(tmp_path / "narrow")} == {8, 4, 2}
    said = capsys.readouterr().err
    assert "sums: full: out of memory with 8 sequences; going on with 4." in said


def test_memory_too_small_for_a_single_sequence_is_said_and_what_is_done_is_kept(fakes, tmp_path):
    fakes.engine.memory = 0
    with pytest.raises(InputError, match=r"sums: full: out of memory with a single sequence"):
        run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path)
    assert len(records(tmp_path)) == 2  # with two sequences side by side and then with one


def test_failed_samples_are_decoded_again_where_that_is_asked_for(fakes, tmp_path):
    problems = [Problem(id=q, question=q, answer=str(eval(q))) for q in ("0+0", "1+1")]
    data = DataSet(name="sums", problems=problems, defaults=sums().defaults)
    sweep = Sweep(data=data, policies="rkv", budgets="60,50%")
    run(sweep, fakes, tmp_path)
    fakes.decoded.clear()
    fakes.engine.breaks_on = "none"
    assert run(sweep, fakes, tmp_path).row("rkv", 60).failed == 1
    assert fakes.decoded == []
    only = Sweep(data=data, policies="rkv", budgets="60")
    found = run(only, fakes, tmp_path, retry_failed=True)
    assert [(d["question"], d["budget"]) for d in fakes.decoded] == [("0+0", 60)]
    assert (found.row("rkv", 60).failed, found.row("rkv", 60).samples) == (0, 2)
    assert found.row("rkv", "50%").failed == 1  # of another budget than was asked for


def test_a_prompt_that_cannot_be_decoded_fails_alone(fakes, tmp_path, capsys):
    questions = ["1+" * 60 + "1", "1+1"]
    data = DataSet(
        name="sums",
        problems=[Problem(id=str(i), question=q, answer="2") for i, q in enumerate(questions)],
        defaults=sums().defaults,
    )
    found = run(Sweep(data=data, policies="rkv", budgets="60,50%"), fakes, tmp_path)
    assert [(row.samples, row.failed) for row in found.rows] == [(2, 1)] * 3
    full = found.row("full")
    # as it has no answer it is wrong; as nothing was decoded it is in no mean
    assert (full.accuracy.value, full.trace, full.tokens_per_second > 0) == (0.5, 46, True)
    assert "sums: full: problem 0: Prompt 0 is too long" in capsys.readouterr().err
    [*_, first] = [r for r in records(tmp_path) if r.problem == "0"]
    assert (first.stop_reason, first.correct, first.prompt_tokens) == ("error", False, 121)


def test_a_baseline_that_is_completed_later_changes_no_budget(fakes, tmp_path):
    problems = [Problem(id=q, question=q, answer="2") for q in ("1+1", "0+0+0+0+0+0+0+2")]
    data = DataSet(name="sums", problems=problems, defaults=sums().defaults)
    sweep = Sweep(data=data, policies="rkv", budgets="50%")
    fakes.engine.longest = 9
    first = run(sweep, fakes, tmp_path)
    fakes.engine.longest = 100
    found = run(sweep, fakes, tmp_path, retry_failed=True)
    assert found.row("full").trace > first.row("full").trace
    assert [str(row.cell) for row in found.rows] == [str(row.cell) for row in first.rows]
    assert [(row.samples, row.failed) for row in found.rows] == [(2, 0), (2, 0)]


def test_a_part_that_was_edited_meanwhile_is_refused(fakes, tmp_path):
    def policy(sign):
        source = f"class Mine:\n    def score(self, view):\n        return {sign}view.positions"
        namespace = {"__name__": "users_module"}
        exec(source, namespace)
        return lambda budget: Policy(budget=Budget(tokens=budget), scorer=namespace["Mine"]())

    run(Sweep(data=sums(), policies={"mine": policy("+")}, budgets=[20]), fakes, tmp_path)
    edited = Sweep(data=sums(), policies={"mine": policy("-")}, budgets=[20])
    with pytest.raises(InputError, match=r"mine at 20 .* the code or a value of a part changed"):
        run(edited, fakes, tmp_path)
    run(Sweep(data=sums(), policies={"mine": policy("+")}, budgets=[20]), fakes, tmp_path)


def test_where_nothing_was_decoded_with_a_policy_it_may_be_edited(fakes, tmp_path):
    """Also where all of it failed: --retry-failed decodes again with the policy that was mended."""
    breaks = {"mine": lambda budget: presets.rkv(budget)}
    mended = {"mine": lambda budget: presets.rkv(budget, interval=8)}
    data = DataSet(name="zero", problems=[Problem(id="0", question="0+0", answer="0")])
    data = attrs.evolve(data, defaults=sums().defaults)
    run(Sweep(data=data, policies=breaks, budgets=[20]), fakes, tmp_path)
    sweep = Sweep(data=data, policies=mended, budgets=[20])
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"Budget\(interval=\) was 128 and is 8"):
        run(sweep, fakes, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    fakes.engine.breaks_on = ""
    assert run(sweep, fakes, tmp_path, retry_failed=True).row("mine", 20).failed == 0


def test_a_policy_of_another_description_goes_on_where_the_user_vouches_for_it(fakes, tmp_path):
    sweep = Sweep(data=sums(), policies="rkv", budgets=[20, 60])
    run(sweep, fakes, tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[:-2]))  # of the last cell two are left
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace(", pool=7", "").replace(__version__, "0.0.1"))
    gained = "WindowAttention has gained pool=7"
    with pytest.raises(InputError, match=rf"{gained}\. The folder is of skipkv 0\.0\.1, this is"):
        run(sweep, fakes, tmp_path)
    for again in ({"same_policies": True}, {}):  # once said it is known
        found = run(sweep, fakes, tmp_path, **again)
        assert found.doubts == []
        assert [note.partition(" when")[0] for note in found.vouched] == [
            "Vouched for: sums: rkv at 20 had 4 samples",
            "Vouched for: sums: rkv at 60 had 2 samples",
        ]
        assert all(gained in note and note in found.markdown() for note in found.vouched)


def test_a_policy_that_has_decoded_goes_on_with_its_run(fakes, tmp_path):
    """Its gate had copies on the device, which counted as a value that changed."""
    gate = WriteGate(outer=torch.ones(2, 4, 1), outer_bias=torch.zeros(2, 1))
    sweep = Sweep(
        data=sums(),
        policies={"mine": lambda budget: presets.kvzap(budget, gate=gate)},
        budgets=[20],
    )
    run(sweep, fakes, tmp_path)
    gate(torch.ones(1, 1, 4), layer=0)
    run(sweep, fakes, tmp_path)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "", " ", "a\nb", "a\x00", "\udcff", "x" * 300])
def test_a_data_set_s_name_must_fit_into_a_file_s_name(name):
    with pytest.raises(ConfigError, match="must fit into a file's name"):
        sums(name=name)


def test_data_sets_that_would_share_a_file_are_refused(fakes, tmp_path):
    with pytest.raises(ConfigError, match="sums and Sums differ only in upper and lower case"):
        Sweep(data=[sums(), sums(name="Sums")], policies="rkv", budgets="20")
    run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path)
    with pytest.raises(ConfigError, match="sums and Sums differ"):
        Sweep(data=sums(name="Sums"), policies="rkv", budgets="20").check_folder(tmp_path)


def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_later(fakes, tmp_path):
    resource = pytest.importorskip("resource")
    sweep = Sweep(data=sums(), policies="rkv", budgets="60")
    whole = run(sweep, fakes, tmp_path / "whole")
    fakes.decoded.clear()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # bytes: five records or so
    try:
        with pytest.raises(InputError, match=r"Cannot write .*records\.jsonl: File too large\."):
            run(sweep, fakes, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = len(records(tmp_path / "full"))
    assert kept == len(fakes.decoded) - 1 > 0
    again = run(sweep, fakes, tmp_path / "full")
    assert [(r.cell, r.samples, r.accuracy) for r in again.rows] == [
        (r.cell, r.samples, r.accuracy) for r in whole.rows
    ]
    assert len(fakes.decoded) == 8 + 1


def test_each_record_is_shown_once_when_it_is_written(fakes, tmp_path):
    seen = []

    def see(record):
        assert record == records(tmp_path)[-1]
        seen.append(record)

    sweep = Sweep(data=sums(3), policies="rkv", budgets="20")
    run(sweep, fakes, tmp_path, on_record=see)
    assert seen == records(tmp_path)
    run(Sweep(data=sums(3), policies="rkv", budgets="20,30"), fakes, tmp_path, on_record=see)
    assert seen == records(tmp_path)
    assert len(seen) == 9


def test_a_record_that_cannot_be_decoded_is_shown_too(fakes, tmp_path):
    seen = []
    fakes.engine.breaks_on = "2+3"
    run(Sweep(data=sums(3), policies="rkv", budgets="20"), fakes, tmp_path, on_record=seen.append)
    assert [r.problem for r in seen if r.failed] == ["2"]


def test_an_error_of_ones_own_function_ends_the_run_and_loses_no_record(fakes, tmp_path):
    def stop(record):
        raise StopAsking

    class StopAsking(Exception):
        pass

    sweep = Sweep(data=sums(3), policies="rkv", budgets="20")
    with pytest.raises(StopAsking):
        run(sweep, fakes, tmp_path, on_record=stop)
    assert len(records(tmp_path)) == 1
    run(sweep, fakes, tmp_path)
    assert len(records(tmp_path)) == len(fakes.decoded) == 6


def test_texts_may_be_left_out(fakes, tmp_path):
    sweep = Sweep(data=sums(), policies="rkv", budgets="20")
    run(sweep, fakes, tmp_path / "a")
    run(sweep, fakes, tmp_path / "b", texts=False)
    assert all("boxed" in r.text for r in records(tmp_path / "a"))
    assert all(r.text is None for r in records(tmp_path / "b"))


def test_the_bar_counts_all_samples_and_starts_where_the_run_stood(
    fakes, tmp_path, capsys, monkeypatch
):
    class Bar(tqdm):
        def close(self):
            closed.append(self.initial)  # what rate and ETA leave out
            super().close()

    closed = []
    monkeypatch.setattr("skipkv._progress.bar_for_people", Bar)
    run(Sweep(data=sums(), policies="rkv", budgets="20"), fakes, tmp_path)
    assert capsys.readouterr().err == ""
    sweep = Sweep(data=sums(), policies="rkv", budgets="20,30")
    sweep.run(fakes.model, fakes.tokenizer, tmp_path, progress=True)
    counts = re.findall(r"(\d+)/12 ", capsys.readouterr().err)
    assert ("8" in counts, counts[-1]) == (True, "12")
    assert closed[-1] == 8


def test_a_real_engine_gives_what_its_records_say(tmp_path):
    problems = [Problem(id=str(i), question=f"one plus {i}", answer="1") for i in range(3)]
    data = DataSet(name="toy", problems=problems, defaults=sums(batch_size=3).defaults)
    sweep = Sweep(data=data, policies="streaming_llm", budgets="12", max_new_tokens=40, interval=8)
    found = sweep.run(toy_model(), toy_tokenizer(), tmp_path, progress=False)
    full, stream = found.row("full"), found.row("streaming_llm", 12)
    assert (full.truncated, full.events, full.new_tokens.value) == (1, 0, 40)
    assert full.mean_entries == full.trace - 40 + 20  # the prompt, and half of 1 .. 39
    assert stream.peak_entries == 20
    assert 12 < stream.mean_entries < 20
    assert stream.evicted > 0
    assert not math.isclose(stream.tokens_per_second, 0)
    [*_, last] = records(tmp_path)
    assert last.peak_kv_bytes == 2 * 2 * 2 * 20 * 16 * 4  # K and V, layers, heads, entries, D, fp32
    assert summarize(tmp_path) == found
