"""What is checked of every family, and the table of docs/models.md that says so.

`make family-tables` runs all checks and writes the tables of the page.
"""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from adapted_list import CASES
from family_list import NEW, PROMPTS, REFUSED, SETTINGS, TOKENIZER, config_of, generated, model_of
from replayed_steps import Recorder
from transformers import PretrainedConfig, PreTrainedModel

import skipkv
from skipkv import Engine, Policy, presets
from skipkv.errors import SkipKVWarning
from skipkv.models.architecture import Architecture
from skipkv.steerers import AdditiveSteerer, SteeringVector

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def decodes_under_the_engine(model: PreTrainedModel) -> None:
    """Prompts of different length, pieces of prompts and a prefix give the tokens of generate()."""
    own = _own(model)
    assert _decoded(model, presets.full(), prefill_chunk=4) == own
    engine = Engine(model, TOKENIZER, presets.full())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*begins anew.*", SkipKVWarning)
        after = engine.generate([PROMPTS[0][4:]], prefix=PROMPTS[0][:4], max_new_tokens=NEW)
        assert [c.tokens for c in after] == own[:1]


def decodes_under_attach(model: PreTrainedModel) -> None:
    """A left-padded batch gives the tokens of generate(); under a budget it holds that much."""
    own = generated(model, PROMPTS)
    if not Architecture.of(model.config).states:  # padding changes states, but not ours
        assert [*map(tuple, own.tolist())] == _own(model)
    with skipkv.attach(model, presets.full()):
        assert (generated(model, PROMPTS) == own).all()
    with skipkv.attach(model, presets.snapkv(12, interval=6)) as attached:
        generated(model, PROMPTS)
    assert max(attached.peak_entries) == attached.peak_entries[2] == 12 + 6


def is_steered(model: PreTrainedModel) -> None:
    """A steerer changes what follows the prompt that opens a thought, and no more."""
    width = Architecture.of(model.config).hidden_size
    vector = SteeringVector(
        vector=9 * torch.tensor([1.0, -1.0]).repeat(width // 2), layer=1, model="a test"
    )
    policy = presets.skipkv(64, interval=6, steering=AdditiveSteerer(vector))
    same = [a == b for a, b in zip(_decoded(model, policy), _own(model), strict=True)]
    assert same == [True, True, False]


def is_recorded(model: PreTrainedModel) -> None:
    """Decode steps that are recorded and replayed give the tokens of steps one by one."""
    policy = presets.snapkv(16, interval=4)
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*begins anew.*", SkipKVWarning)
        plain = _decoded(model, policy)
        assert _decoded(model, policy, graphs=recorder) == plain
    assert recorder.replays


@cache
def _own(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """What `generate()` decodes of each prompt alone."""
    return [tuple(generated(model, [prompt])[0].tolist()) for prompt in PROMPTS]


def _decoded(model: PreTrainedModel, policy: Policy, **how: Any) -> list[tuple[int, ...]]:
    engine = Engine(model, TOKENIZER, policy, **how)
    return [c.tokens for c in engine.generate(PROMPTS, max_new_tokens=NEW)]


CHECKS: dict[str, Callable[[PreTrainedModel], None]] = {
    "Engine": decodes_under_the_engine,
    "attach": decodes_under_attach,
    "steering": is_steered,
    "graph": is_recorded,
}
"""Columns of the table -> the check that proves them."""


def traits(config: PretrainedConfig, model: PreTrainedModel) -> str:
    """What distinguishes a family, as the model that is checked has it."""
    found = Architecture.of(config)
    states, full = {*found.states}, {*found.full}
    kinds = getattr(config, "layer_types", None) or ()
    said = {
        "layers with a window": bool(found.windowed),
        "layers with a convolution": "conv" in kinds,
        "layers with linear attention or a state space": bool(states - full)
        and "conv" not in kinds,
        "attention and states in one layer": bool(states & full),
        "capped logits": getattr(config, "attn_logit_softcapping", None) is not None,
        "attention sinks": any(n.endswith("sinks") for n, _ in model.named_parameters()),
        "a scale of attention of its own": hasattr(config, "attention_multiplier"),
        "layers without RoPE": 0 in (getattr(config, "no_rope_layers", None) or ()),
        "a mixture of experts": any("expert" in name for name, _ in model.named_parameters()),
        "a KV head per query head": found.groups == 1,
    }
    return ", ".join(trait for trait, holds in said.items() if holds)


def family_table() -> str:
    """The families that are checked, and what each check proves."""
    head = f"| `model_type` | {' | '.join(CHECKS)} | has |"
    lines = [head, "|---" * (len(CHECKS) + 2) + "|"]
    for family in SETTINGS:
        config = config_of(family)
        marks = " | ".join("yes" for _ in CHECKS)
        lines.append(f"| `{family}` | {marks} | {traits(config, model_of(config))} |")
    return "\n".join(lines)


def refusal_table() -> str:
    """The families that are refused by their configs."""
    lines = ["| `model_type` | why |", "|---|---|"]
    lines += [f"| `{family}` | {refusal.shown} |" for family, refusal in REFUSED.items()]
    return "\n".join(lines)


def adapted_table() -> str:
    """The ways to change a model that are checked."""
    lines = ["| model | package | Engine, attach, steering | notes |", "|---|---|---|---|"]
    for name, case in CASES.items():
        answer = "no" if case.refused else "yes"
        lines.append(f"| {name} | `{case.package}` | {answer} | {case.shown} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "families": family_table,
    "refused": refusal_table,
    "adapted": adapted_table,
}
"""Marks on the page -> the table that stands between them."""


def with_tables(page: str) -> str:
    """The page with its tables as the lists give them."""
    for name, table in TABLES.items():
        before, rest = page.split(f"<!-- {name} -->\n", 1)
        after = rest.split(f"<!-- /{name} -->", 1)[1]
        page = f"{before}<!-- {name} -->\n\n{table()}\n\n<!-- /{name} -->{after}"
    return page


def main() -> None:
    """Run all checks, and write the tables if none fails."""
    torch.set_num_threads(1)
    for family in SETTINGS:
        for name, check in CHECKS.items():
            print(family, name, flush=True)
            check(model_of(config_of(family)))
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
