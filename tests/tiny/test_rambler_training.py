"""The recipe of the rambling reasoner: the same weights from the same seed, also after a stop."""

import json
import random
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file

from skipkv.errors import InputError
from skipkv.tiny.rambler.phrases import IDS
from skipkv.tiny.rambler.traces import GIVEN, LOOKUP, NEVER
from skipkv.tiny.rambler.training import Recipe, batch, drill, mask, train
from skipkv.tiny.vocabulary import PAD

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch without Muon")

# rates do not fall before the last step, so that a run can stop early and go on
BRIEF = Recipe(
    steps=4, rows=4, length=448, names=(3, 3), drills=1, growing=1, whole=0, warm_up=1, decay=1,
    checkpoint=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, recipe=BRIEF, workers=0, device="cpu")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_the_very_weights_of_an_undisturbed_one(trained, tmp_path):
    train(tmp_path, recipe=attrs.evolve(BRIEF, steps=2), workers=0, device="cpu")
    halfway = weights(tmp_path)
    train(tmp_path, recipe=BRIEF, workers=0, device="cpu")
    assert all(torch.equal(a, weights(trained)[name]) for name, a in weights(tmp_path).items())
    assert any(not torch.equal(a, halfway[name]) for name, a in weights(tmp_path).items())


@pytest.mark.slow
def test_workers_do_not_change_the_batches(trained, tmp_path):
    train(tmp_path, recipe=BRIEF, workers=2, device="cpu")
    assert all(torch.equal(a, weights(trained)[name]) for name, a in weights(tmp_path).items())


@pytest.mark.slow
def test_another_recipe_in_the_same_folder_is_refused(trained):
    with pytest.raises(InputError, match="another recipe"):
        train(trained, recipe=attrs.evolve(BRIEF, seed=1), workers=0, device="cpu")


@pytest.mark.slow
def test_the_log_has_a_line_for_the_last_step(trained):
    lines = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == BRIEF.steps
    assert set(lines[-1]) == {"step", "seconds", "loss", "words_right", "lookups_right"}


def test_rows_are_full_of_traces_one_after_the_other():
    made = batch(attrs.evolve(BRIEF, rows=8, length=640, names=(3, 4)), 100)
    assert (made.ids == IDS[PAD]).float().mean() < 0.1
    for row in range(8):
        starts = made.start[row].unique().tolist()
        assert starts[0] == 0
        for begin in starts:
            inside = made.start[row] == begin
            first = int(inside.nonzero()[0])
            assert first == begin
            assert made.kinds[row, first] == GIVEN
            lost = made.expiry[row][inside & (made.expiry[row] != NEVER)]
            assert (lost > begin).all()


def test_recall_drills_ask_for_what_was_told_last():
    trace = drill(random.Random(0))
    told: dict[int, int] = {}
    asked = 0
    for place, kind in enumerate(trace.kinds):
        token, name = trace.tokens[place], trace.tokens[place - 1]
        if IDS["=0"] <= token <= IDS["=9"]:
            if kind == LOOKUP:
                assert told[name] == token
                asked += 1
            told[name] = token
    assert asked > 10


def test_the_rates_rise_stay_and_fall():
    recipe = Recipe(steps=100, warm_up=10, decay=50)
    assert recipe.rate(0) == 0.1
    assert recipe.rate(30) == 1.0
    assert recipe.rate(75) == 0.5
    assert recipe.rate(99) == pytest.approx(0.02)


def test_a_query_sees_its_own_trace_up_to_itself_but_what_was_lost():
    made = batch(attrs.evolve(BRIEF, rows=3, length=200, names=(2, 3)), 100)
    length = made.ids.shape[1]
    for spared in (0.0, 1.0):
        added = mask(made.start, made.expiry, torch.full((3, length), spared), torch.float32)
        stores = added.shape[1]
        for row in range(3):
            start, expiry = made.start[row].tolist(), made.expiry[row].tolist()
            seen = [
                [start[q] <= k <= q and (spared == 1 or q < expiry[k]) for k in range(length)]
                for q in range(length)
            ]
            expected = torch.tensor(seen).expand(stores, -1, -1)
            assert torch.equal(added[row] == 0, expected)
            assert (added[row][~expected] == -torch.inf).all()
