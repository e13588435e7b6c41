"""The model "skipkv" of lm-evaluation-harness, asked by the harness itself: `make test-lm-eval`."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="make test-lm-eval installs it")

import lm_eval
from lm_eval.tasks import TaskManager

from skipkv import Engine, Sampling, presets, tiny
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import DataSet, Problem, Sweep
from skipkv.evaluation.datasets import DEFAULTS
from skipkv.integrations.lm_eval import GenerationSettings, SkipKVLM
from skipkv.testing import scripted_model, toy_model, toy_tokenizer

TASK = r"""
task: local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
GENERATE = r"""
generation_kwargs:
  until: ["\n\n"]
  max_gen_toks: 640
filter_list:
  - name: boxed
    filter:
      - function: regex
        regex_pattern: '\\boxed\{(\d+)\}'
      - function: take_first
"""
CHOICE = "doc_to_choice: ['1', '2']"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def task(tmp_path: Path) -> Any:
    """Writes a task of tiny's problems; gives their manager."""

    def write(kind: str = "generate_until") -> TaskManager:
        file = tmp_path / "sums.jsonl"
        rows = [{"question": p.question, "answer": p.answer} for p in tiny.problems(12)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        generates = kind == "generate_until"
        text = TASK.format(
            file=file,
            kind=kind,
            target='"{{answer}}"' if generates else 0,
            more=GENERATE if generates else CHOICE,
            metric="exact_match" if generates else "acc",
        )
        (tmp_path / "local.yaml").write_text(text)
        return TaskManager(include_path=str(tmp_path))

    return write


def evaluated(model: Any, manager: TaskManager, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(
        model=model, tasks=["local"], task_manager=manager, bootstrap_iters=0, **options
    )
    assert results is not None
    return results["results"]["local"]


def test_the_accuracy_is_that_of_skipkv_eval_on_the_same_problems(task, tmp_path):
    lm = SkipKVLM("tiny", policy="rkv", budget=200, device="cpu", batch_size=12)
    found = evaluated(lm, task(), apply_chat_template=True)["exact_match,boxed"]
    problems = [
        Problem(id=str(i), question=p.question, answer=p.answer)
        for i, p in enumerate(tiny.problems(12))
    ]
    data = DataSet(name="tiny", problems=problems, defaults=DEFAULTS["tiny"])
    model, tokenizer = tiny.load(device="cpu")
    summary = Sweep(data=data, policies="rkv", budgets=200).run(
        model, tokenizer, tmp_path / "out", progress=False
    )
    assert found == summary.row("rkv", 200).accuracy.value
    assert 0 < found < 1


def test_the_model_is_known_by_its_name_with_arguments_in_a_string(task):
    arguments = "pretrained=tiny,policy=skipkv,budget=160,interval=16,batch_size=8"
    found = evaluated("skipkv", task(), model_args=arguments, apply_chat_template=True, limit=3)
    assert 0 <= found["exact_match,boxed"] <= 1


def test_log_likelihoods_are_refused_and_the_message_names_the_task(task):
    lm = SkipKVLM("tiny", device="cpu")
    with pytest.raises(InputError, match=r"The task local asks for the log-likelihood"):
        evaluated(lm, task("multiple_choice"), apply_chat_template=True)
    with pytest.raises(InputError, match="--model hf"):
        lm.loglikelihood_rolling([])


def test_answers_come_from_lm_evals_cache_the_second_time(task, tmp_path):
    lm = SkipKVLM("tiny", device="cpu", batch_size=4)
    options = {"apply_chat_template": True, "limit": 3, "use_cache": str(tmp_path / "cache")}
    first = evaluated(lm, task(), **options)
    lm.generate_until = None  # type: ignore[method-assign]
    assert evaluated(lm, task(), **options) == first


def requests_of(*asked: tuple[str, dict[str, Any]]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in asked]


def toy_lm(**options: Any) -> SkipKVLM:
    model, tokenizer = toy_model(eos=True, seed=3), toy_tokenizer()
    return SkipKVLM(model, tokenizer=tokenizer, policy=presets.rkv(24, interval=8), **options)


def test_each_request_has_its_tasks_settings_and_answers_keep_their_order():
    lm = toy_lm(think_end_token=None)
    asked = [
        ("one plus two", {"until": ["so", "then"], "max_gen_toks": 30}),
        ("let me check", {"max_new_tokens": 5, "do_sample": False, "temperature": 0.7}),
        ("wait", {"until": "n", "max_tokens": 40, "temperature": 0.0, "num_beams": 1}),
    ]
    engine = Engine(lm.engine.model, lm.tokenizer, lm.engine.policy)
    expected = [
        next(engine.generate([context], max_new_tokens=most, sampling=Sampling(), stop=stop)).text
        for (context, _), most, stop in zip(
            asked, (30, 5, 40), (["so", "then"], (), "n"), strict=True
        )
    ]
    assert lm.generate_until(requests_of(*asked), disable_tqdm=True) == expected


def test_of_two_settings_that_contradict_each_other_the_log_says_once_which_counts(caplog):
    given = {"max_gen_toks": 3, "max_tokens": 9, "do_sample": False, "temperature": 0.7}
    asked = requests_of(("one", given), ("two", given), ("so", {"max_gen_toks": 3}))
    toy_lm().generate_until(asked, disable_tqdm=True)
    said = [record.getMessage() for record in caplog.records if "does not" in record.message]
    assert [line.partition(":")[0] for line in said] == [
        "max_gen_toks=3 counts, as in lm-eval, and max_tokens=9 does not.",
        "do_sample=False decodes greedily",
    ]


def test_repeats_of_a_sampled_request_differ_and_a_second_run_gives_them_again():
    sampled = ("one plus two", {"do_sample": True, "temperature": 1.5, "max_gen_toks": 20})
    lm = toy_lm()
    first = lm.generate_until(requests_of(sampled, sampled, sampled), disable_tqdm=True)
    again = lm.generate_until(requests_of(("a", {}), sampled, sampled), disable_tqdm=True)
    assert len(set(first)) > 1
    assert again[1:] == first[:2]


def test_thinking_is_removed_and_a_string_that_ends_the_answer_may_come_up_in_it():
    sampled = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 60, "until": ["o"]}
    lm = toy_lm()
    asked = requests_of(*[(f"{word} <think>", sampled) for word in ("one", "two", "six", "so")] * 6)
    answers = lm.generate_until(asked, disable_tqdm=True)
    assert Counter(map(bool, answers)).keys() == {True, False}
    assert not [answer for answer in answers if "</think>" in answer or "o" in answer]


@pytest.mark.parametrize(
    ("given", "said", "answer"),
    [
        ("auto", "<think>so two</think>three", "three"),
        ("</think>", "<think>so two</think>three", "three"),
        ("none", "<think>so two</think>three", "so twothree"),
        (None, "<think>so two</think>three", "so twothree"),
        ("so then", "let me check so then three", "three"),
        ("so then", "let me check", "let me check"),
    ],
)
def test_the_end_of_thinking_is_found_or_given(given, said, answer):
    lm = SkipKVLM(
        scripted_model(f"one {said}"),
        tokenizer=toy_tokenizer(),
        policy="full",
        think_end_token=given,
    )
    asked = requests_of(("one ", {"max_gen_toks": 20}))
    assert lm.generate_until(asked, disable_tqdm=True) == [answer]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 of the task"),
        ({"do_sample": True}, "needs a temperature"),
    ],
)
def test_settings_that_are_not_supported_are_refused_by_name(given, part):
    with pytest.raises(InputError, match=part):
        GenerationSettings.read(given)
    with pytest.raises(ConfigError, match="top_p"):
        GenerationSettings.read({"temperature": 1.0, "top_p": 2.0})


def test_a_chat_needs_a_template():
    with pytest.raises(InputError, match="no chat template"):
        toy_lm().apply_chat_template([{"role": "user", "content": "one"}])


def test_the_command_hands_over(run, task, capfd, monkeypatch):
    task()
    result = run("lm-eval", "--help")
    assert result.exit_code == 0
    assert "Language Model Evaluation Harness" in result.output
