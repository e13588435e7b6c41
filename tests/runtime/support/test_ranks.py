"""Models on more than one device: heads divided among processes, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import skipkv
from skipkv import Engine, Policy, presets
from skipkv.errors import ConfigError, UnsupportedModelError
from skipkv.evictors import Shared, TopK
from skipkv.scorers import KeyNorm, LastQueryAttention, WindowAttention
from skipkv.steerers import AdditiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPTS = [[5 + i % 60 for i in range(30)], [9] * 7]

# What each of two processes does: the same as this one, with half of the heads.
SCRIPT = """
import json, pathlib, sys, torch, torch.distributed as dist
from transformers import AutoModelForCausalLM
import skipkv
from skipkv import Engine, presets
from skipkv.testing import toy_tokenizer

prompts = json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", dtype=torch.float32)
found = []
for name in ("full", "rkv", "skipkv"):
    policy = presets.get(name)(*(() if name == "full" else (16,)),
                               **({} if name == "full" else {"interval": 8, "window": 4}))
    engine = Engine(model, toy_tokenizer(), policy)
    done = list(engine.generate(prompts, max_new_tokens=20))
    assert engine.model.tp_size == 2
    found.append([(list(one.tokens), one.stats.peak_entries) for one in done])
with skipkv.attach(model, presets.rkv(16, interval=8, window=4)):
    ids = torch.tensor(prompts[:1])
    found.append(model.generate(ids, max_new_tokens=20, do_sample=False)[:, 30:].tolist())
pathlib.Path(sys.argv[1], f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.slow  # two processes load transformers: some 20 seconds
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_heads_divided_among_two_processes_decode_the_same(family: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers divides heads by way of accelerate")
    model = toy_model(family, heads=4)
    model.save_pretrained(tmp_path)
    expected: list[Any] = []
    for policy in (
        presets.full(),
        presets.rkv(16, interval=8, window=4),
        presets.skipkv(16, interval=8, window=4),
    ):
        done = Engine(model, TOKENIZER, policy).generate(PROMPTS, max_new_tokens=20)
        expected.append([[list(one.tokens), one.stats.peak_entries] for one in done])
    expected.append([expected[1][0][0]])
    script = tmp_path / "decode.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--standalone", str(script), str(tmp_path), str(PROMPTS)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected


def as_one_of(ranks: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    model = toy_model(heads=4)
    monkeypatch.setattr(type(model), "tp_size", property(lambda self: ranks))
    return model


class Plain:
    """A user's own scorer around another one."""

    needs = LastQueryAttention().needs

    def __init__(self) -> None:
        self.inner = [LastQueryAttention()]

    def score(self, view: Any) -> Any:
        return self.inner[0].score(view)


@pytest.mark.parametrize(
    "policy",
    [
        presets.tova(16),
        presets.snapkv(16).with_(evictor=Shared(evictor=TopK())),
        presets.snapkv(16).with_(
            scorer=2 * WindowAttention(window=8) + KeyNorm() + LastQueryAttention()
        ),
        presets.snapkv(16).with_(scorer=Plain()),
    ],
    ids=["tova", "an evictor", "a term", "in a plain class"],
)
def test_parts_that_join_heads_are_refused_where_heads_are_divided(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_one_of(2, monkeypatch)
    with pytest.raises(ConfigError, match="joins the KV heads of a layer, and each of 2 ranks"):
        Engine(model, TOKENIZER, policy)
    with (
        pytest.raises(ConfigError, match="joins the KV heads"),
        skipkv.attach(model, policy),
    ):
        pass


def test_a_steering_vector_is_of_no_head_and_is_taken_where_heads_are_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vector = SteeringVector(vector=torch.ones(128), layer=1)
    policy = presets.snapkv(16).with_(steerer=AdditiveSteerer(vector))
    Engine(as_one_of(2, monkeypatch), TOKENIZER, policy)


def test_heads_that_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedModelError, match="4 KV heads, which cannot be divided among 3"):
        Engine(as_one_of(3, monkeypatch), TOKENIZER, presets.rkv(16))


def test_layers_on_several_devices_are_refused() -> None:
    model = toy_model()
    model.model.layers[1].mlp.to("meta")  # offloaded: it comes where it is needed
    Engine(model, TOKENIZER, presets.full())
    if not torch.cuda.is_available():
        pytest.skip("there is one device here")
    model = toy_model()
    model.model.layers[1].to("cuda")
    with pytest.raises(UnsupportedModelError, match="lie on cpu, cuda"):
        Engine(model, TOKENIZER, presets.full())
