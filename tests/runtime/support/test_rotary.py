"""Keys as they were before the rotation are the model's own, and other rotations are refused."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import skipkv
from skipkv import Budget, CacheView, Engine, Needs, Policy, tiny
from skipkv.errors import UnsupportedModelError
from skipkv.runtime.support.rotary import rotation_of
from skipkv.testing import toy_model, toy_tokenizer

BUDGET = Budget(tokens=24, interval=8, window=4)
SCALINGS = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


@attrs.frozen(kw_only=True)
class Watching:
    """Keeps some old entries and some new ones, and shows each view to `see`."""

    see: Callable[[CacheView], None] = attrs.field(repr=False)
    needs: Needs = attrs.field(factory=lambda: Needs(rotary=True))

    def score(self, view: CacheView) -> Tensor:
        self.see(view)
        return torch.sin(view.positions * 1.7)


def scaled(kind: str) -> PreTrainedModel:
    """A toy whose rotation is scaled; its weights are those of the plain one."""
    model = toy_model("llama")
    config = model.config
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, **SCALINGS[kind]}
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    return other


MODELS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    **{
        family: lambda family=family: (toy_model(family, layers=3), toy_tokenizer())
        for family in ("llama", "qwen2", "qwen3")
    },
    **{kind: lambda kind=kind: (scaled(kind), toy_tokenizer()) for kind in SCALINGS},
    "tiny": lambda: tiny.load(device="cpu"),
}


@pytest.mark.parametrize("name", MODELS)
def test_keys_before_the_rotation_are_what_the_model_projected(name: str) -> None:
    model, tokenizer = MODELS[name]()
    projected: dict[int, list[Tensor]] = {}
    compared = 0

    def see(view: CacheView) -> None:
        nonlocal compared
        keys = view.unrotated_keys
        assert view.depth == len(projected)
        for row, layer in enumerate(view.layers.tolist()):
            made = torch.cat(projected[layer])  # [T H D]
            for head in range(keys.shape[1]):
                held = view.positions[row, head][view.occupied[row, head]]
                torch.testing.assert_close(
                    keys[row, head, : len(held)], made[held, head], atol=2e-5, rtol=1e-4
                )
                compared += len(held)

    policy = Policy(budget=BUDGET, scorer=Watching(see=see))
    engine = Engine(model, tokenizer, policy, eos_token_ids=[])  # looks at keys of its own first
    handles = [
        # Qwen3 normalises keys between their projection and the rotation
        getattr(layer.self_attn, "k_norm", layer.self_attn.k_proj).register_forward_hook(
            lambda module, inputs, keys, number=number: projected.setdefault(number, []).append(
                keys.reshape(-1, model.config.num_key_value_heads, module_dim(model))
            )
        )
        for number, layer in enumerate(model.base_model.layers)
    ]
    [completion] = engine.generate([list(range(5, 15))], max_new_tokens=80)
    for handle in handles:
        handle.remove()
    assert completion.stats.events == 8
    assert compared > 8 * 24


def module_dim(model: PreTrainedModel) -> int:
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def test_nothing_is_shown_unless_asked_for() -> None:
    def see(view: CacheView) -> None:
        assert view.rotation is None

    policy = Policy(budget=BUDGET, scorer=Watching(see=see, needs=Needs()))
    engine = Engine(toy_model(), toy_tokenizer(), policy, eos_token_ids=[])
    assert next(iter(engine.generate([[5, 6]], max_new_tokens=40))).stats.events


def test_a_part_that_edits_the_rotation_edits_no_model() -> None:
    model = toy_model()
    before = rotation_of(model)
    rotation_of(model).frequencies.zero_()
    assert torch.equal(rotation_of(model).frequencies, before.frequencies)
    assert before.scaling == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_other_rotation(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rotation_of(toy_model("qwen3").to(dtype))


def test_a_damaged_model_is_not_taken_for_one_with_another_rotation() -> None:
    model = toy_model()
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0] = torch.nan
    rotation_of(model)


def dynamic(model: PreTrainedModel) -> None:
    model.base_model.rotary_emb.rope_type = "dynamic"


def missing(model: PreTrainedModel) -> None:
    model.base_model.rotary_emb = torch.nn.Identity()


def another(model: PreTrainedModel) -> None:
    """Interleaved pairs, say: the model's own function gives other keys than ours."""
    model.base_model.rotary_emb.forward = lambda x, positions: tuple(
        torch.stack([half, half], dim=-1).flatten(-2)
        for half in (torch.rand(*positions.shape, x.shape[-1] // 2) for _ in range(2))
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dynamic, "changes its frequencies with the length of a text .*dynamic"),
        (missing, "has no rotary position embedding"),
        (another, "turns keys in another way"),
    ],
)
def test_other_rotations_are_refused_before_any_decoding(
    change: Callable[[PreTrainedModel], None], reason: str
) -> None:
    model = toy_model()
    change(model)
    policy = Policy(budget=BUDGET, scorer=Watching(see=lambda view: None))
    with pytest.raises(UnsupportedModelError, match=reason):
        Engine(model, toy_tokenizer(), policy)
    with (
        pytest.raises(UnsupportedModelError, match=reason),
        skipkv.attach(model, policy),
    ):
        pass
    Engine(model, toy_tokenizer(), policy.with_(scorer=skipkv.scorers.Recency()))
