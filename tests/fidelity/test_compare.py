"""Policies are compared with the full cache: numbers, records, resuming, refusals."""

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from skipkv import Policy, presets
from skipkv.errors import ConfigError, InputError
from skipkv.fidelity import Comparison, Record, compare, paired, report
from skipkv.fidelity.plot import plot
from skipkv.fidelity.run import first_changed
from skipkv.testing import toy_model, toy_tokenizer

MODEL, TOKENIZER = toy_model(), toy_tokenizer()
TEXTS = [[5 + (7 * i + n * i * i) % 80 for i in range(48 - 6 * n)] for n in range(3)]
RKV = ("rkv", presets.rkv(16, interval=8))
STREAMING = ("streaming", presets.streaming_llm(16, sinks=2, interval=8))


def run(
    *policies: Any, texts: Any = TEXTS, model: Any = MODEL, prompt: int = 8, **options: Any
) -> Any:
    where = {name: options.pop(name) for name in ("folder", "same_policies") if name in options}
    comparison = Comparison(policies=policies, prompt_tokens=prompt, **options)
    return compare(model, TOKENIZER, texts, comparison, progress=False, **where)


def records(folder: Path) -> list[Record]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [Record(**json.loads(line)) for line in lines]


def seen_by(text: list[int], budget: int, sinks: int, interval: int, prompt: int) -> torch.Tensor:
    """What each position attends to under StreamingLLM, worked out by hand."""
    held: list[int] = []
    mask = torch.zeros(len(text), len(text), dtype=torch.bool)
    for position in range(len(text)):
        held.append(position)
        mask[position, held] = True
        event = position + 1 == prompt or (position >= prompt and position % interval == 0)
        if event and len(held) > budget:
            held = held[:sinks] + held[sinks - budget :]
    return mask


@pytest.mark.parametrize(
    ("prompt", "first"),
    [(8, 17), (21, 21)],  # the second one exceeds the budget: an event at its end, then after 25
)
def test_the_numbers_are_those_of_a_masked_model_in_float64(
    prompt: int, first: int, tmp_path: Path
) -> None:
    run(STREAMING, folder=tmp_path, prompt=prompt)
    exact = toy_model().double()
    for record in records(tmp_path):
        text = TEXTS[record.text]
        mask = seen_by(text, budget=16, sinks=2, interval=8, prompt=prompt)
        bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        ids = torch.tensor([text])
        with torch.no_grad():
            p = exact(input_ids=ids).logits[0].log_softmax(dim=-1)
            q = exact(input_ids=ids, attention_mask=bias[None, None]).logits[0]
        q = q.log_softmax(dim=-1)
        assert record.first == first
        assert len(record.kl) == len(text) - 1 - first
        for i, kl in enumerate(record.kl):
            at = first + i
            pairs = zip(p[at].tolist(), q[at].tolist(), strict=True)
            expected = sum(math.exp(a) * (a - b) for a, b in pairs)
            assert kl == pytest.approx(expected, abs=2e-6, rel=1e-3)
            assert record.nll[i] == pytest.approx(-float(q[at, text[at + 1]]), rel=1e-4)
            assert record.full_nll[i] == pytest.approx(-float(p[at, text[at + 1]]), rel=1e-4)
            top = p[at].topk(2).values
            if top[0] - top[1] > 1e-5:
                assert record.same[i] == int(p[at].argmax() == q[at].argmax())
            before = max(e for e in (first, 17, 25, 33, 41) if first <= e <= at)  # the last event
            assert record.distances[i] == at - before + 1


def test_the_full_cache_is_itself() -> None:
    [row] = run(("full", presets.full())).rows
    assert row.kl.value == pytest.approx(0, abs=1e-6)
    assert row.kl95.value == pytest.approx(0, abs=1e-6)
    assert row.same.value == 1
    assert row.rise.value == pytest.approx(0, abs=1e-6)


def test_batches_change_nothing(tmp_path: Path) -> None:
    for size in (1, 2, 3):
        run(RKV, folder=tmp_path / str(size), batch_size=size)
    found = [sorted(records(tmp_path / str(s)), key=lambda r: r.text) for s in (1, 2, 3)]
    for alone, *batched in zip(*found, strict=True):
        for other in batched:
            assert other.first == alone.first
            assert other.kl == pytest.approx(alone.kl, abs=1e-5, rel=1e-3)
            assert other.nll == pytest.approx(alone.nll, rel=1e-4)


def test_a_comparison_goes_on_and_further_policies_join_it(tmp_path: Path) -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    whole = run(RKV, STREAMING)
    run(RKV, folder=tmp_path)
    held = (tmp_path / "records.jsonl").read_text()
    (tmp_path / "records.jsonl").write_text(held[: len(held) * 2 // 3])  # as if it was killed
    handle = MODEL.register_forward_hook(count)
    try:
        found = run(RKV, STREAMING, folder=tmp_path)
        assert passes > 0
        passes = 0
        again = run(RKV, STREAMING, folder=tmp_path)
        assert passes == 0
    finally:
        handle.remove()
    assert again == found
    for row, expected in zip(found.rows, whole.rows, strict=True):
        assert (row.policy, row.positions) == (expected.policy, expected.positions)
        assert row.kl.value == pytest.approx(expected.kl.value, rel=1e-3)
    assert (tmp_path / "summary.md").read_text() == found.markdown() + "\n"
    assert len(json.loads((tmp_path / "summary.json").read_text())["rows"]) == 2


def test_a_folder_of_another_comparison_is_refused(tmp_path: Path) -> None:
    run(RKV, folder=tmp_path)
    with pytest.raises(InputError, match="texts was"):
        run(RKV, folder=tmp_path, texts=[TEXTS[0][::-1]])
    with pytest.raises(InputError, match="the weights differ"):
        run(RKV, folder=tmp_path, model=toy_model(seed=1))
    with pytest.raises(InputError, match="rkv @ 16"):
        run(("rkv", presets.rkv(16, interval=8, importance=0.2)), folder=tmp_path)


def test_a_policy_of_another_description_goes_on_where_the_user_vouches_for_it(
    tmp_path: Path,
) -> None:
    whole = run(RKV, folder=tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace(", pool=7", ""))
    gained = r"rkv @ 16 measured with another policy: WindowAttention has gained pool=7\."
    with pytest.raises(InputError, match=f"{gained} Where both do the same, --same-policies"):
        run(RKV, folder=tmp_path)
    for again in ({"same_policies": True}, {}):  # once said it is known
        found = run(RKV, folder=tmp_path, **again)
        assert found.rows == whole.rows
        [note] = found.vouched
        assert note.startswith("Vouched for: rkv @ 16 was also measured when")
        assert note in (tmp_path / "summary.md").read_text()
        assert note in json.loads((tmp_path / "summary.json").read_text())["vouched"]


def test_a_policy_that_was_not_measured_yet_may_change(tmp_path: Path) -> None:
    """A run that was stopped before its first record refused the policy mended since."""

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = MODEL.register_forward_pre_hook(stops)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(("rkv", presets.rkv(16, interval=8, importance=0.2)), folder=tmp_path)
    finally:
        handle.remove()
    assert run(RKV, folder=tmp_path).vouched == ()
    with pytest.raises(InputError, match="with another policy"):
        run(("rkv", presets.rkv(16, interval=8, importance=0.2)), folder=tmp_path)


def full_of_prompt() -> tuple[str, Policy]:
    return "full", presets.rkv(16, interval=8, prompt=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: run(RKV, texts=[TEXTS[0][:9]]), "Text 0 has 9 tokens, and at least 10"),
        (lambda: run(RKV, texts=[]), "no text"),
        (lambda: run(("rkv", presets.rkv(100))), "No text exceeds the budget of rkv @ 100"),
        (lambda: run(RKV, RKV), "rkv @ 16 twice"),
        (
            lambda: run(RKV, full_of_prompt()),
            "full @ 16: the prompt of a text has 8 tokens.*no room",
        ),
        (lambda: run(), "at least one policy"),
        (lambda: run(RKV, batch_size=0), r"batch_size=0\) must be at least 1"),
        (lambda: run(RKV, max_tokens=9), r"max_tokens=9\) must exceed the prompt's 8"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Any, message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        make()


@pytest.mark.parametrize(
    ("tokens", "prompt", "expected"),
    [(16, 8, 17), (16, 16, 17), (17, 16, 25), (16, 17, 17), (16, 30, 30), (60, 8, 65), (65, 8, 69)],
)
def test_positions_count_from_the_first_loss(tokens: int, prompt: int, expected: int) -> None:
    policy = presets.streaming_llm(tokens, interval=8)
    assert first_changed(policy.budget, prompt, 69) == expected


def test_positions_count_from_the_first_loss_of_any_layer(tmp_path: Path) -> None:
    budget = attrs.evolve(presets.rkv(24, interval=8).budget, layers=(9.0, 1.0))
    assert budget.least(2).tokens == 12
    run(("rkv", presets.rkv(24).with_(budget=budget)), folder=tmp_path)
    assert {r.first for r in records(tmp_path)} == {17}  # of 24 entries in all layers it is 25


def record(text: int, kl: list[float], **changes: Any) -> Record:
    plain = {
        "text": text,
        "policy": "a",
        "budget": 16,
        "first": 9,
        "interval": 4,
        "kl": kl,
        "same": [1, 0] * (len(kl) // 2),
        "nll": [2.0] * len(kl),
        "full_nll": [1.5] * len(kl),
    }
    return Record(**plain | changes)


def test_texts_count_alike_and_policies_are_paired_text_by_text() -> None:
    own = [record(0, [0.1] * 4), record(1, [0.3] * 8)]
    other = [attrs.evolve(r, policy="b", kl=[k + 0.1 for k in r.kl]) for r in own]
    first, second = report([*other, *own]).rows
    assert (first.policy, first.texts, first.positions) == ("a", 2, 12)
    assert first.kl.value == pytest.approx(0.2)
    assert (first.kl.low, first.kl.high) == pytest.approx((0.1, 0.3))
    assert first.excess is None
    assert first.same.value == 0.5
    assert first.rise.value == 0.5
    assert second.excess is not None
    assert paired([*own, *other], "b", "a", budget=16) == second.excess
    with pytest.raises(InputError, match="no text in common at a budget of 8"):
        paired(own, "a", "b", budget=8)
    assert (second.excess.low, second.excess.high) == pytest.approx((0.1, 0.1))


def test_divergence_is_told_by_the_distance_from_the_event() -> None:
    # positions 9 to 12 have the distances 1 to 4 of an interval of 4
    [row] = report([record(0, [0.1, 0.2, 0.3, 0.4])]).rows
    assert row.by_distance == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert row.kl95.value == pytest.approx(0.385)


def test_a_plot_is_written(tmp_path: Path) -> None:
    plot(report([record(0, [0.1] * 4), record(0, [0.1] * 4, budget=8)]), tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000
