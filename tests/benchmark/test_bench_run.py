"""A benchmark end to end on a small random model, with a handful of tokens."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from skipkv import Policy, presets
from skipkv._calls import is_out_of_memory
from skipkv._runs import read_lines
from skipkv.benchmark import Bench, Case, Job, Measurement, Subject, baselines_of, policies_of
from skipkv.benchmark.isolation import in_child
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.subjects import PolicySubject
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import Candidate

BASELINES = ["floor", "generate_dynamic", "generate_static"]
POLICIES = ["full,streaming_llm,h2o,tova,snapkv,rkv,seal,skipkv:window=2"]


def bench(subjects: list[Subject], **changes: Any) -> Bench:
    settings = {
        "subjects": subjects,
        "batch_sizes": [2],
        "budgets": [16],
        "interval": 4,
        "new_tokens": 12,
        "prompt_tokens": 10,
        "repeats": 1,
    }
    return Bench(**{**settings, **changes})


def records(folder: Path) -> list[Measurement]:
    return read_lines(folder / "records.jsonl", Measurement)[0]


@attrs.frozen(kw_only=True)
class Fake:
    """Answers what it is told to, wherever it runs."""

    answer: Callable[[], dict[str, Any]]
    label: str = "fake"
    takes_budget: bool = True
    note: str | None = None
    in_process: bool = True

    def entries(self, job: Job) -> int | None:
        return None

    def measure(self, job: Job) -> dict[str, Any]:
        return self.answer()


def test_every_preset_and_baseline_decodes_the_same_tokens(
    small: tuple[Any, Any], tmp_path: Path
) -> None:
    subjects = [
        *baselines_of(BASELINES, kvpress=None),
        *policies_of(POLICIES, settings={}, config=small[0].config),
    ]
    benchmark = bench(subjects)
    summary = benchmark.run(*small, tmp_path, progress=False)
    assert [m.reason for m in records(tmp_path) if not m.ok] == []
    assert [row.case for row in summary.rows] == benchmark.cases()
    for m in records(tmp_path):
        assert m.steps == 11
        assert m.curve[0][0] == 1
        assert m.curve[-1][0] == 12
        assert 0 < m.first_token < m.seconds
        assert m.cpu_seconds > 0
        budgeted = m.subject not in ("full", "generate_dynamic", "generate_static")
        # keys and values of 2 layers, 2 sequences, 2 heads, 8 numbers of 4 bytes
        entries = {"generate_static": 22, "floor": 20}.get(m.subject, 20 if budgeted else 21)
        assert m.held_bytes == entries * 2 * 2 * 2 * 2 * 8 * 4
        assert (m.events > 0) == (m.subject not in ("full", *BASELINES))
    steered = {m.subject: m.note for m in records(tmp_path) if m.note}
    assert set(steered) == {"seal", "skipkv:window=2"}
    assert all("random vector" in note for note in steered.values())


def test_a_run_goes_on_where_it_stood(small: tuple[Any, Any], tmp_path: Path) -> None:
    calls: list[str] = []
    subjects = policies_of(["streaming_llm"], settings={})
    bench(subjects).run(*small, tmp_path, progress=False)
    before = records(tmp_path)
    fake = Fake(answer=lambda: calls.append("asked") or {"error": "x"})
    more = bench([*subjects, fake], repeats=2, batch_sizes=[2, 1])
    more.run(*small, tmp_path, progress=False)
    after = records(tmp_path)
    assert after[:1] == before
    assert sorted((m.batch_size, m.repeat) for m in after if m.subject == "streaming_llm") == [
        (1, 0), (1, 1), (2, 0), (2, 1),
    ]  # fmt: skip


def test_a_folder_of_other_settings_is_refused(small: tuple[Any, Any], tmp_path: Path) -> None:
    subjects = policies_of(["streaming_llm"], settings={})
    bench(subjects).run(*small, tmp_path, progress=False)
    with pytest.raises(InputError, match="interval was 4 and is 8"):
        bench(subjects, interval=8).check_folder(tmp_path)
    with pytest.raises(InputError, match="new_tokens was 12 and is 13"):
        bench(subjects, new_tokens=13).run(*small, tmp_path, progress=False)


def test_another_policy_of_the_same_name_is_refused(small: tuple[Any, Any], tmp_path: Path) -> None:
    def subject(pool: int) -> Subject:
        def source(budget: int, interval: int) -> Policy:
            return presets.snapkv(budget, interval=interval, pool=pool)

        return PolicySubject(candidate=Candidate(label="mine", source=source))

    bench([subject(3)]).run(*small, tmp_path, progress=False)
    with pytest.raises(InputError, match="holds mine at 16 measured with another policy: Window"):
        bench([subject(5)]).run(*small, tmp_path, progress=False)
    for again in ({"same_policies": True}, {}):  # the user says so once
        found = bench([subject(5)]).run(*small, tmp_path, progress=False, **again)
        [note] = found.vouched
        assert note.startswith("Vouched for: mine at 16 was also measured when its policy was")
        assert note in found.markdown()
        assert note in json.loads(found.json())["vouched"]


def test_a_policy_that_was_not_measured_yet_may_change(
    small: tuple[Any, Any], tmp_path: Path
) -> None:
    """A run that was stopped before its first measurement refused the policy mended since."""

    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    other = Fake(answer=stopped, label="other", in_process=False)
    with pytest.raises(KeyboardInterrupt):
        bench([other, *policies_of(["snapkv:pool=3"], settings={})]).run(
            *small, tmp_path, progress=False
        )
    [known] = json.loads((tmp_path / "run.json").read_text())["policies"]

    def mended(budget: int, interval: int) -> Policy:
        return presets.snapkv(budget, interval=interval, pool=5)

    label = known.removesuffix(" at 16")
    subject = PolicySubject(candidate=Candidate(label=label, source=mended))
    assert bench([subject]).run(*small, tmp_path, progress=False).vouched == ()
    with pytest.raises(InputError, match="with another policy"):
        bench(policies_of(["snapkv:pool=3"], settings={})).run(*small, tmp_path, progress=False)


def _exhausted() -> dict[str, Any]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")


def _killed() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.parametrize("answer", [_exhausted, _killed])
def test_a_subject_without_memory_is_oom_once_and_the_others_go_on(
    answer: Callable[[], dict[str, Any]], small: tuple[Any, Any], tmp_path: Path
) -> None:
    subjects = [Fake(answer=answer), *policies_of(["streaming_llm"], settings={})]
    summary = bench(subjects, repeats=2).run(*small, tmp_path, progress=False)
    assert [(m.subject, m.status) for m in records(tmp_path)] == [
        ("fake", "oom"), ("streaming_llm", "ok"), ("streaming_llm", "ok"),
    ]  # fmt: skip
    assert "| fake | 16 | OOM | OOM |" in summary.markdown()


def test_a_broken_subject_says_why_and_where(small: tuple[Any, Any], tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("two\nlines")

    summary = bench([Fake(answer=broken)]).run(*small, tmp_path, progress=False)
    [m] = records(tmp_path)
    assert m.status == "error"
    assert m.reason.startswith("ValueError at test_bench_run.py:")
    assert m.reason.endswith("two lines")
    assert "| fake | 16 | failed |" in summary.markdown()


def test_a_run_in_a_child_leaves_this_process_as_it_was() -> None:
    held: list[int] = []
    assert in_child(lambda: {"pid": os.getpid(), "held": held.append(1) or len(held)}) != {}
    assert held == []
    assert in_child(lambda: {"pid": os.getpid()})["pid"] != os.getpid()


def test_out_of_memory_is_known_on_every_device() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": []}, "a subject and a batch size"),
        ({"batch_sizes": [0]}, "numbers from 1 on"),
        ({"budgets": []}, "a budget for streaming_llm"),
        ({"budgets": [8, 8]}, "holds 8 twice"),
        ({"budgets": [3]}, "must exceed the window and sinks"),
        ({"repeats": 0}, "at least 1"),
        ({"new_tokens": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(policies_of(["streaming_llm"], settings={}), **changes)


def test_a_baseline_that_is_not_known_or_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="No baseline is called 'nonsense'"):
        baselines_of(["nonsense"], kvpress=None)
    with pytest.raises(ConfigError, match="--kvpress-python"):
        baselines_of(["kvpress"], kvpress=None)


def test_prompts_have_the_length_asked_for_and_differ(small: tuple[Any, Any]) -> None:
    made = prompts(small[1], count=4, tokens=70, seed=1)
    assert {len(ids) for ids in made} == {70}
    assert len(set(made)) == 4
    assert made == prompts(small[1], count=4, tokens=70, seed=1)
    assert made[:2] == prompts(small[1], count=2, tokens=70, seed=1)


def test_the_model_s_own_settings_steer_skipkv(small: tuple[Any, Any], tmp_path: Path) -> None:
    from skipkv.steerers import SteeringVector

    path = tmp_path / "v.safetensors"
    SteeringVector(vector=torch.ones(32), layer=1).save(path)
    settings = {"skipkv": {"budget": 99, "threshold": 0.7, "vector": str(path), "strength": 0.6}}
    [subject] = policies_of(["skipkv"], settings=settings, config=small[0].config)
    policy = subject.policy(budget=32, interval=4)
    assert policy.budget.tokens == 32
    assert policy.evictor.threshold == 0.7
    assert policy.steerer.layer == 1
    assert subject.note == (
        "skipkv has the model's settings: threshold=0.7, vector=v.safetensors, strength=0.6"
    )


def test_a_case_is_named_in_a_line() -> None:
    assert str(Case(subject="full", batch_size=1)) == "full, batch 1"


def test_run_json_says_what_the_run_was(small: tuple[Any, Any], tmp_path: Path) -> None:
    bench(policies_of(["streaming_llm"], settings={})).run(
        *small, tmp_path, progress=False, model_name="small"
    )
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["model"] == "small"
    assert run["settings"]["device"] == "cpu"
    assert run["sessions"][0]["versions"]["torch"] == torch.__version__
