"""TriAttention against its formula in float64, and files of query statistics."""

import cmath
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import skipkv
from skipkv import CacheView, Engine, presets
from skipkv.errors import ConfigError, InputError, PartError
from skipkv.scorers import QueryStatistics, TriAttention
from skipkv.testing import cache_views, toy_model, toy_tokenizer, views_for

modest = settings(max_examples=25, deadline=None)


def made(*, layers: int = 2, dim: int = 5, frequencies: Any = (1.0, 0.1)) -> QueryStatistics:
    random = torch.Generator().manual_seed(1)
    pairs = len(frequencies)
    return QueryStatistics(
        mean=torch.randn(layers, 2, 2, dim, generator=random),
        length=1 + torch.rand(layers, 2, 2, pairs, generator=random),
        frequencies=torch.tensor(frequencies),
        tokens=77,
        model="toy",
    )


def worth(statistics: QueryStatistics, view: CacheView, r: int, h: int, g: int, j: int) -> float:
    """Both terms of one entry for one query head, with the key turned back and every offset."""
    layer, place = int(view.layers[r]), int(view.positions[r, h, j])
    centre, length = statistics.mean[layer, h, g], statistics.length[layer, h, g]
    key, distance = view.keys[r, h, j].double(), int(view.seen[r]) - 1 - place
    offsets = [1, 2, 4, 8]
    total = float(key[4]) * float(centre[4])  # not turned
    for f, w in enumerate(view.rotation.frequencies.tolist()):
        before = complex(key[f], key[2 + f]) * cmath.exp(-1j * w * place)
        mean = complex(centre[f], centre[2 + f])
        total += sum(
            (mean * before.conjugate() * cmath.exp(1j * w * (distance + t))).real for t in offsets
        ) / len(offsets)
        total += (float(length[f]) - abs(mean)) * abs(before)
    return total


@modest
@given(view=views_for(TriAttention(queries=made(), horizon=15)))
def test_the_score_is_that_of_the_formula(view: CacheView) -> None:
    statistics = made()
    found = TriAttention(queries=statistics, horizon=15).score(view)
    rows, heads, _ = view.positions.shape
    for r, h in itertools.product(range(rows), range(heads)):
        slots = view.occupied[r, h].nonzero()[:, 0].tolist()
        best = dict.fromkeys(slots, -math.inf)
        for g in range(2):
            raw = {j: worth(statistics, view, r, h, g, j) for j in slots}
            mean = sum(raw.values()) / max(1, len(raw))
            spread = math.sqrt(sum((x - mean) ** 2 for x in raw.values()) / max(1, len(raw)))
            alike = spread <= 1e-5 * max(map(abs, raw.values()), default=0.0)
            for j, x in raw.items():
                best[j] = max(best[j], 0.0 if alike else (x - mean) / spread)
        for j in slots:
            assert float(found[r, h, j]) == pytest.approx(best[j], abs=2e-3)


@pytest.mark.parametrize("heads", [1, 3])
def test_statistics_of_other_heads_are_not_spread_over_the_views(heads: int) -> None:
    known = made()
    keys = torch.ones(1, heads, 9, 5)
    rotation = skipkv.Rotation(frequencies=known.frequencies)
    policy = presets.triattention(6, queries=known, window=1, prompt=False)
    with pytest.raises(PartError, match=f"statistics of 2 KV heads of 5 numbers.*{heads} of 5"):
        skipkv.select(keys, keys, policy=policy, rotation=rotation)


def test_select_refuses_statistics_of_another_rotation() -> None:
    keys = torch.ones(1, 2, 9, 5)
    policy = presets.triattention(6, queries=made(), window=1, prompt=False)
    for frequencies, other in (((1.0, 0.2), keys), ((1.0, 0.1), torch.ones(1, 2, 9, 7))):
        rotation = skipkv.Rotation(frequencies=torch.tensor(frequencies))
        with pytest.raises(
            ConfigError, match=r"was made for toy: (another rotation|dim 5 and not 7)"
        ):
            skipkv.select(other, other, policy=policy, rotation=rotation)


def test_statistics_are_the_same_after_a_file(tmp_path: Path) -> None:
    statistics, path = made(), tmp_path / "queries.safetensors"
    statistics.save(path)
    again = QueryStatistics.load(path)
    assert again == statistics
    assert again.tokens == 77
    assert repr(again) == f"QueryStatistics.load({str(path)!r})"
    with pytest.raises(InputError, match="holds no write gate of skipkv"):
        skipkv.scorers.WriteGate.load(path)
    parts = {n: getattr(statistics, n) for n in ("mean", "length", "frequencies")}
    save_file(parts, path, metadata={"format": "skipkv query statistics"})
    with pytest.raises(InputError, match=r"queries.safetensors' cannot be used: .*tokens=0\)"):
        QueryStatistics.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": torch.ones(2, 2, 5)}, "takes mean"),
        ({"mean": torch.ones(3, 2, 2, 5)}, "takes mean"),
        ({"frequencies": torch.ones(3)}, "takes mean"),
        ({"mean": torch.ones(2, 2, 2, 3)}, "2 F at most D"),
        ({"length": torch.full((2, 2, 2, 2), torch.inf)}, "length=...* finite"),
        ({"tokens": 0}, r"tokens=0\)"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    known = made()
    parts: dict[str, Any] = {n: getattr(known, n) for n in ("mean", "length", "frequencies")}
    with pytest.raises(ConfigError, match=message):
        QueryStatistics(**{**parts, "tokens": 1, **changes})


@settings(max_examples=1, deadline=None)
@given(view=cache_views(heads=2, groups=2, dim=5, depth=2), horizon=st.just(8))
def test_what_the_scorer_lacks_is_said(view: CacheView, horizon: int) -> None:
    with pytest.raises(InputError, match="TriAttention turns mean queries"):
        TriAttention(queries=made(), horizon=horizon).score(view)
    with pytest.raises(ConfigError, match="must be QueryStatistics, got a str"):
        TriAttention(queries="file")  # type: ignore[arg-type]


def of_toy(**changes: Any) -> QueryStatistics:
    """Statistics that fit the toy model."""
    frequencies = 10000.0 ** (-torch.arange(8) / 8)
    return made(**{"dim": 16, "frequencies": tuple(frequencies.tolist()), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "made for toy: layers 3 and not 2"),
        ({"frequencies": (1.0,) * 8}, "another rotation of positions"),
    ],
)
def test_statistics_of_another_model_are_refused(changes: dict[str, Any], message: str) -> None:
    policy = presets.triattention(64, queries=of_toy(**changes))
    with pytest.raises(ConfigError, match=message):
        Engine(toy_model(), toy_tokenizer(), policy)
    with pytest.raises(ConfigError, match=message), skipkv.attach(toy_model(), policy):
        pass


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_preset_decodes_alike_under_both_frontends(family: Any) -> None:
    model, statistics = toy_model(family), of_toy()
    policy = presets.triattention(16, queries=statistics, window=4, interval=4, prompt=False)
    given = [[5 + 7 * i % 60 for i in range(n)] for n in (19, 9)]
    engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[])
    expected = list(engine.generate(given, max_new_tokens=14, trace=True))
    ids = torch.tensor([[0] * (19 - len(p)) + p for p in given])
    mask = torch.tensor([[0] * (19 - len(p)) + [1] * len(p) for p in given])
    with skipkv.attach(model, policy) as attached:
        output = model.generate(ids, attention_mask=mask, max_new_tokens=14, do_sample=False)
    assert [tuple(row) for row in output[:, 19:].tolist()] == [c.tokens for c in expected]
    assert attached.peak_entries == [20, 20]
    for completion in expected:
        for record in completion.trace or ():
            assert (record.kept >= 0).sum(dim=-1).unique().tolist() == [16]


def test_the_prompt_is_kept_unless_the_caller_says_otherwise() -> None:
    policy = presets.triattention(1024, queries=made())
    assert policy.budget is not None
    assert (policy.budget.prompt, policy.budget.window) == (True, 128)
    small = presets.triattention(100, queries=made(), prompt=False).budget
    assert small is not None
    assert (small.prompt, small.window) == (False, 25)
