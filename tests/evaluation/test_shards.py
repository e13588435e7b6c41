"""Shards of a sweep join to what one process would have written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from fake_runs import Fakes, fake_model
from test_resume import untimed, untimed_records

from skipkv import Sampling
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import DataSet, Defaults, Problem, Shard, Sweep, merge, summarize
from skipkv.testing import toy_model, toy_tokenizer

DATA = DataSet(
    name="toy",
    problems=[Problem(id=str(i), question=f"{10**i}+1", answer="2") for i in range(7)],
    defaults=Defaults(interval=8, max_new_tokens=30, batch_size=3, instruction=""),
)
MEASURED = ("peak_kv_bytes", "batch_size")
"""What depends on who is decoded together."""


def sweep_of(budgets: str = "16,60%", seed: int = 3) -> Sweep:
    sampling = Sampling(temperature=1.0, n=2, seed=seed)
    return Sweep(data=DATA, policies="rkv", budgets=budgets, sampling=sampling)


@pytest.fixture
def run_shard(fakes: Fakes) -> Callable[..., bool]:
    def run(folder: Path, shard: str, sweep: Sweep | None = None, model: Any = None) -> bool:
        part = Shard.parse(shard)
        sweep = sweep or sweep_of()
        model = model or fakes.model
        return sweep.run_shard(model, fakes.tokenizer, folder, shard=part, progress=False)

    return run


def content(folder: Path) -> dict[str, Any]:
    """`run.json` without what is of a process alone."""
    run = json.loads((folder / "run.json").read_text())
    return {key: value for key, value in run.items() if key != "sessions"}


def records(folder: Path) -> dict[Any, Any]:
    measured = dict.fromkeys(MEASURED, 1)
    return {k: attrs.evolve(r, **measured) for k, r in untimed_records(folder).items()}


@pytest.fixture
def whole(fakes: Fakes, tmp_path: Path) -> Path:
    """The folder of one process."""
    sweep_of().run(fakes.model, fakes.tokenizer, tmp_path / "whole", progress=False)
    return tmp_path / "whole"


@pytest.fixture
def sharded(run_shard: Callable[..., bool], tmp_path: Path) -> Path:
    """Three shards, each done; the last one needs one pass, since the others are done before."""
    folder = tmp_path / "sharded"
    assert [run_shard(folder, f"{i}/3") for i in range(3)] == [False, False, True]
    with pytest.raises(InputError, match=r"Shard 0/3 has decoded the full cache, and waits"):
        merge(folder)
    assert [run_shard(folder, f"{i}/3") for i in (0, 1)] == [True, True]
    return folder


def test_joined_shards_equal_one_process_and_joining_again_changes_nothing(whole, sharded):
    folder = sharded
    merge(folder)
    assert content(folder) == content(whole)
    assert records(folder) == records(whole)
    rows = [untimed(summarize(place)) for place in (folder, whole)]
    assert [attrs.evolve(row, peak_kv_bytes=0) for row in rows[0]] == [
        attrs.evolve(row, peak_kv_bytes=0) for row in rows[1]
    ]
    before = (folder / "records.jsonl").read_bytes()
    merge(folder)
    assert (folder / "records.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_joined_folder_goes_on_in_one_process(fakes, whole, sharded):
    folder = sharded
    merge(folder)
    for place in (folder, whole):
        more = sweep_of(budgets="16,20,60%")
        more.run(fakes.model, fakes.tokenizer, place, progress=False)
    assert records(folder) == records(whole)
    with pytest.raises(InputError, match=r"samples that no shard has, as of toy: rkv at 20\."):
        merge(folder)


def test_a_failed_sample_that_was_decoded_again_is_not_replaced_by_the_failed_one(fakes, sharded):
    lines = [json.loads(line) for line in (sharded / "shards/0-of-3/records.jsonl").open()]
    failed = {**lines[0], "stop_reason": "error", "error": "Broken."}
    edited(sharded / "shards/0-of-3/records.jsonl", lambda lines: [failed, *lines[1:]])
    merge(sharded)
    merge(sharded)  # the same failure as before is none that would be lost
    again = sweep_of()
    again.run(fakes.model, fakes.tokenizer, sharded, progress=False, retry_failed=True)
    with pytest.raises(InputError, match=r"holds samples that no shard has, as of toy: full"):
        merge(sharded)


@pytest.mark.slow
def test_budgets_in_tokens_need_one_pass_and_a_real_model_decodes_the_same(tmp_path):
    problems = [Problem(id=str(i), question=f"one plus {i}", answer="1") for i in range(5)]
    sweep = Sweep(
        data=attrs.evolve(DATA, problems=problems), policies="rkv", budgets=16, max_new_tokens=25
    )
    model, tokenizer = toy_model(eos=True), toy_tokenizer()
    for index in range(2):
        shard = Shard(index=index, of=2)
        assert sweep.run_shard(model, tokenizer, tmp_path, shard=shard, progress=False)
    merge(tmp_path)
    alone = tmp_path / "alone"
    sweep.run(model, tokenizer, alone, progress=False)
    assert content(tmp_path) == content(alone)
    assert records(tmp_path) == records(alone)


def edited(path: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in edit(lines)))


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda lines: lines[:-1], "Shard 1/3 does not hold the 4 records of toy: rkv at 60%"),
        (lambda lines: [*lines, lines[0]], "does not hold the 4 records of toy: full"),
        (lambda lines: [lines[1], *lines[1:]], "is in two shards, or twice in one"),
        (lambda lines: [{**lines[0], "seed": 5}, *lines[1:]], "has the seed 5 instead of"),
        (lambda lines: [*lines, {**lines[0], "policy": "h2o"}], "records of toy: h2o, which it"),
    ],
)
def test_a_record_that_is_missing_there_twice_or_of_another_seed_is_found(sharded, edit, part):
    folder = sharded
    edited(folder / "shards" / "1-of-3" / "records.jsonl", edit)
    with pytest.raises(InputError, match=part):
        merge(folder)
    assert not (folder / "run.json").exists()


def test_shards_that_do_not_belong_together_are_refused(sharded, run_shard, tmp_path):
    folder = sharded
    other = folder / "shards" / "2-of-3"
    run = json.loads((other / "run.json").read_text())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"settings": {**run["settings"], "model": {"type": "other"}}}, "other settings: model"),
        ({"cells": run["cells"][:-1]}, "have different policies or budgets"),
        ({"mean_traces": {"toy": 1.0}}, "different mean lengths"),
        (
            {"cells": [{**cell, "code": "3.11:0"} for cell in run["cells"]]},
            "the code or a value of a part changed",
        ),
        ({"shard": {"complete": False}}, "Shard 2/3 is not done"),
    ]
    for change, part in changes:
        (other / "run.json").write_text(json.dumps({**run, **change}))
        with pytest.raises(InputError, match=part):
            merge(folder)
    for path in other.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"lacks 2/3\. Run these shards"):
        merge(folder)
    with pytest.raises(InputError, match="holds no shards"):
        merge(tmp_path / "nowhere")


def test_shards_of_policies_described_otherwise_are_joined_where_the_user_vouches(sharded):
    folder = sharded
    other = folder / "shards" / "2-of-3" / "run.json"
    other.write_text(other.read_text().replace(", pool=7", ""))
    with pytest.raises(InputError, match=r"has lost pool=7\. Where both do the same, --same-pol"):
        merge(folder)
    merge(folder, same_policies=True)
    count = len(records(folder / "shards" / "2-of-3")) // 3
    assert [note.partition(" when")[0] for note in summarize(folder).vouched] == [
        f"Vouched for: toy: rkv at {budget} had {count} samples"
        for budget in ("16", "60% (31 tokens)")
    ]


def test_a_failed_baseline_that_is_decoded_again_changes_no_shards_budgets(
    fakes, run_shard, tmp_path
):
    """Shard 0 has its budgets in percent before, and shard 1 would have had others."""
    assert not run_shard(tmp_path, "1/2")
    broken = {"stop_reason": "error", "error": "Broken."}
    path = tmp_path / "shards/1-of-2/records.jsonl"
    edited(path, lambda lines: [{**lines[0], **broken}, *lines[1:]])
    assert run_shard(tmp_path, "0/2")
    options = {"shard": Shard(index=1, of=2), "progress": False, "retry_failed": True}
    assert sweep_of().run_shard(fakes.model, fakes.tokenizer, tmp_path, **options)
    merge(tmp_path)


def test_a_shard_of_another_seed_or_model_is_refused_before_it_counts_the_others(
    sharded, run_shard
):
    folder = sharded
    for path in (folder / "shards" / "2-of-3").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="seed was 3 and is 4"):
        run_shard(folder, "2/3", sweep_of(seed=4))
    with pytest.raises(InputError, match="weights differ"):
        run_shard(folder, "2/3", model=fake_model(seed=9))


@pytest.mark.parametrize("text", ["1", "3/3", "-1/3", "a/b", "0/0", "1/3/5"])
def test_a_shard_is_a_number_from_0_of_several(text):
    with pytest.raises(ConfigError, match="must be"):
        Shard.parse(text)


def test_more_shards_than_problems_are_refused(run_shard, tmp_path):
    with pytest.raises(InputError, match="toy has only 7 problems"):
        run_shard(tmp_path, "0/12")
