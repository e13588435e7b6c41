"""In every family keys are un-rotated to what they were before RoPE, or the rotation is refused."""

from typing import Any

import pytest
import torch
from family_list import SETTINGS, config_of, model_of
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from skipkv.errors import UnsupportedModelError
from skipkv.models.architecture import Architecture
from skipkv.runtime.seam.names import cache_name
from skipkv.runtime.support.rotary import rotation_of

# Families beside those of the tables: with a part of the dimensions turned, and with a norm of keys
# after the turn, whose weights differ from dimension to dimension.
OTHERS: dict[str, dict[str, Any]] = {
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
    "stablelm": {"partial_rotary_factor": 0.5},
    "hunyuan_v1_dense": {},
}
REFUSED = {
    "cohere2": "turns keys in another way",
    "exaone4": "has layers that do not turn keys, such as layer 0",
    "glm4": "turns keys in another way",
    "hunyuan_v1_dense": "changes them after the turn",
    "jamba": "has no rotary position embedding",
    "nemotron_h": "has no rotary position embedding",
    "smollm3": "has layers that do not turn keys, such as layer 1",
}


def model(family: str) -> PreTrainedModel:
    """A small model of a family, whose norms have weights that differ."""
    made = model_of(config_of(family, **OTHERS.get(family, {})))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 1:
                weight += 0.5 * torch.rand(weight.shape, generator=generator)
    return made


def keys_at(model: PreTrainedModel, position: int) -> dict[int, Tensor]:
    """The keys of a token at a position, in the layers that policies see."""
    cache = DynamicCache(config=model.config)
    given: Any = {cache_name(model.base_model): cache, "use_cache": True}
    with torch.inference_mode():
        model.base_model(torch.tensor([[9]]), position_ids=torch.tensor([[position]]), **given)
    return {layer: cache.layers[layer].keys for layer in Architecture.of(model.config).full}


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
def test_layers_with_a_window_may_turn_keys_in_another_way(family: str) -> None:
    made = model(family)
    module: Any = made.base_model.rotary_emb
    if not hasattr(module, "sliding_attention_inv_freq"):
        pytest.skip("this transformers has one rotation for both kinds of layers")
    module.sliding_attention_inv_freq *= 0.5
    rotation_of(made)
    with pytest.raises(UnsupportedModelError, match="turns the keys of layer 1 in another way"):
        rotation_of(made, windows=True)


def unturned(model: PreTrainedModel) -> dict[int, Tensor]:
    """The keys of the same token as they are before any turn."""
    module: Any = model.base_model.rotary_emb
    turn = module.forward

    def still(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        cos, sin = turn(*args, **kwargs)
        return torch.ones_like(cos), torch.zeros_like(sin)

    module.forward = still
    try:
        return keys_at(model, 37)
    finally:
        module.forward = turn


@pytest.mark.parametrize("family", sorted({*SETTINGS, *OTHERS}))
def test_keys_before_the_rotation_are_exact_or_refused(family: str) -> None:
    made = model(family)
    if family in REFUSED:
        with pytest.raises(UnsupportedModelError, match=REFUSED[family]):
            rotation_of(made)
        return
    rotation = rotation_of(made)
    before = unturned(made)
    for layer, keys in keys_at(made, 37).items():
        found = rotation.unrotated(keys, torch.full(keys.shape[:3], 37))
        torch.testing.assert_close(found, before[layer].float(), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(keys.float(), found, atol=1e-2)
