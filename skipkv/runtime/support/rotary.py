"""What a model of transformers does to keys by position, as a `Rotation` for the parts of a policy.

A seam: names are those of transformers' modules, and what is found is compared with what the
model's own functions compute.
"""

import sys
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skipkv._types import Rotation
from skipkv.errors import UnsupportedModelError
from skipkv.policy import Policy
from skipkv.runtime.support.checks import cache_shape

# Kinds of RoPE whose frequencies depend on the longest sequence of a pass.
_CHANGING = ("dynamic", "longrope")
_PROBED = (0, 1, 2, 1000)  # positions


def check_rotary(policy: Policy, model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` if a policy needs a rotation that the model does not have."""
    if policy.needs.rotary:
        rotation_of(model)


def rotation_of(model: PreTrainedModel) -> Rotation:
    """The rotation of a model's keys.

    Args:
        model: a causal language model of a supported family.

    Raises:
        UnsupportedModelError: its positions do not turn keys by constant frequencies.
    """
    base = model.base_model
    module: Any = getattr(base, "rotary_emb", None)
    frequencies = getattr(module, "inv_freq", None)
    apply = getattr(sys.modules[type(base).__module__], "apply_rotary_pos_emb", None)
    if not isinstance(frequencies, Tensor) or not callable(apply):
        _refuse(model, "has no rotary position embedding that skipkv knows")
    if _has_unturned_layers(model):
        _refuse(model, "has layers that do not turn keys")
    kind = getattr(module, "rope_type", "default")
    if kind in _CHANGING:
        _refuse(model, f"changes its frequencies with the length of a text (RoPE of type {kind})")
    rotation = Rotation(
        # a copy: a part that edits it must not edit the model
        frequencies=frequencies.detach().to(model.device, torch.float32, copy=True),
        scaling=float(getattr(module, "attention_scaling", 1.0)),
    )
    if not _agrees(rotation, module, apply, cache_shape(model.config).dim):
        _refuse(model, "turns keys in another way than pairs of dimensions i and F + i")
    return rotation


def _has_unturned_layers(model: PreTrainedModel) -> bool:
    """Whether some layers of a model with RoPE do without it, as SmolLM3's and EXAONE 4's do."""
    text: Any = model.config.get_text_config(decoder=True)
    some = 0 in (getattr(text, "no_rope_layers", None) or ())
    # EXAONE turns the keys of sliding layers only, where it has any
    windows = getattr(text, "sliding_window", None) is not None
    return some or (text.model_type.startswith("exaone") and windows)


def _agrees(rotation: Rotation, module: Any, apply: Any, dim: int) -> bool:
    """Whether the model turns a unit vector of each dimension as the rotation does."""
    device = rotation.frequencies.device
    positions = torch.tensor(_PROBED, device=device).expand(dim, -1)  # [D P]
    vectors = torch.eye(dim, device=device)[:, None].expand(-1, len(_PROBED), -1)  # [D P D]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        turned = apply(vectors[:, None], vectors[:, None], *module(vectors, positions))[1][:, 0]
    return torch.allclose(rotation.rotated(vectors, positions), turned, atol=1e-5)


def _refuse(model: PreTrainedModel, reason: str) -> NoReturn:
    raise UnsupportedModelError(
        f"This policy reads keys from before the rotation of positions (Needs(rotary=True)), and "
        f"{type(model).__name__} {reason}. Take a policy without that need."
    )
