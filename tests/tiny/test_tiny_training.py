"""The recipe: the same weights from the same seed, also after a kill; the loss falls."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skipkv.errors import InputError
from skipkv.tiny import training
from skipkv.tiny.dropout import NEVER
from skipkv.tiny.training import Recipe, batch, drill, train

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch without Muon")

BRIEF = Recipe(steps=6, traces=2, checkpoint=2, warm_up=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, recipe=BRIEF, processes=1)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(a, weights(other)[name]) for name, a in weights(one).items())


def test_a_killed_run_goes_on_to_the_very_weights_of_an_undisturbed_one(
    trained, tmp_path, monkeypatch
):
    written = training.write_checkpoint

    def killed(*args):
        written(*args)
        if args[4] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe=BRIEF, processes=1)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr(training, "write_checkpoint", written)
    train(tmp_path, recipe=BRIEF, processes=1)
    assert same(tmp_path, trained)


@pytest.mark.slow
def test_another_seed_gives_other_weights(trained, tmp_path):
    train(tmp_path, recipe=Recipe(steps=6, traces=2, checkpoint=2, warm_up=2, seed=1), processes=1)
    assert not same(tmp_path, trained)


def test_another_recipe_in_the_same_folder_is_refused(trained):
    with pytest.raises(InputError, match="made with another recipe"):
        train(trained, recipe=Recipe(steps=7), processes=1)


def test_processes_that_do_not_divide_the_shards_are_refused(tmp_path):
    with pytest.raises(InputError, match="must divide the 2 shards"):
        train(tmp_path, recipe=BRIEF, processes=3)


def test_the_log_has_the_last_step_once(trained):
    lines = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6]


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    recipe = Recipe(steps=50, traces=2, warm_up=5, drills=0.5, growing=1.0, checkpoint=1000)
    train(tmp_path, recipe=recipe, processes=1)
    [line] = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert line["loss"] < 3 < 4.4  # a fair guess among the words costs 4.4


@pytest.mark.slow
def test_two_processes_learn_what_one_does(trained, tmp_path):
    train(tmp_path, recipe=BRIEF, processes=2)
    for name, one in weights(trained).items():
        torch.testing.assert_close(weights(tmp_path)[name], one, rtol=1e-3, atol=1e-4)


def test_a_step_draws_the_same_traces_every_time_and_every_shard_others():
    assert torch.equal(batch(BRIEF, 3, 0).ids, batch(BRIEF, 3, 0).ids)
    first, second = batch(BRIEF, 3, 0).ids, batch(BRIEF, 3, 1).ids
    assert first.shape != second.shape or not torch.equal(first, second)


def test_masks_are_causal_and_hide_what_has_vanished():
    part = batch(BRIEF, BRIEF.steps - 1, 1)
    assert (part.expiry != NEVER).any()
    mask = part.mask()
    for row, store, key in [(0, 0, 5), (1, 7, 100), (1, 3, 200)]:
        for query in range(0, part.ids.shape[1], 7):
            seen = key <= query < int(part.expiry[row, store, key])
            assert bool(mask[row, store, query, key]) is seen


def test_a_drill_asks_for_facts_it_told():
    trace = drill(random.Random(0))
    told = "".join(trace.tokens[1 : trace.prompt])
    asked = "".join(trace.tokens[trace.prompt :])
    assert {part.strip() for part in asked.replace(";", ",").split(",")} <= {
        part.strip() for part in told.replace(";", ",").split(",")
    }


@pytest.mark.parametrize(("total", "mean"), [([0.6, 0.8], [0.3, 0.4]), ([6.0, 8.0], [0.6, 0.8])])
def test_the_gradient_is_the_mean_of_the_shards_and_at_most_one_long(total, mean):
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor(total)  # of two shards, added up
    training._average([parameter], torch.zeros(4), processes=1, shards=2)
    torch.testing.assert_close(parameter.grad, torch.tensor(mean), rtol=1e-4, atol=1e-4)
