"""What a model of transformers does to keys by position, as a `Rotation` for the parts of a policy.

A seam: names are those of transformers' modules. What is found is compared with what the model's
own functions compute, and with the keys that the model itself writes.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from skipkv._calls import is_out_of_memory
from skipkv._types import Rotation
from skipkv.errors import UnsupportedModelError
from skipkv.models.architecture import FULL, Architecture, text_config
from skipkv.policy import Policy
from skipkv.runtime.seam.lending import evaluating, no_gradient
from skipkv.runtime.seam.names import cache_name
from skipkv.runtime.support.rounding import agree

# Kinds of RoPE whose frequencies depend on the longest sequence of a pass.
_CHANGING = ("dynamic", "longrope")
_PROBED = (0, 3, 50, 1000)  # positions
_TOKENS = 8  # that the model is shown at these positions

_Confirmed = tuple[Rotation, set[int]]
"""A rotation, and the layers whose keys have been found to be turned by it."""
_confirmed: "WeakKeyDictionary[torch.nn.Module, _Confirmed]" = WeakKeyDictionary()


def check_rotary(policy: Policy, model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` if a policy needs a rotation that the model does not have."""
    if policy.needs.rotary:
        rotation_of(model)


def rotation_of(model: PreTrainedModel, *, windows: bool = False) -> Rotation:
    """The rotation of a model's keys, in all layers that attend to the whole past.

    The first call for a model feeds it single tokens, to compare the keys that it writes.

    Args:
        model: a causal language model of a supported family.
        windows: whether it must be that of the layers with a sliding window too.

    Raises:
        UnsupportedModelError: its positions do not turn keys by constant frequencies.
    """
    base = model.base_model
    module: Any = getattr(base, "rotary_emb", None)
    apply = getattr(sys.modules[type(base).__module__], "apply_rotary_pos_emb", None)
    # Some models have a rotation for each kind of layers. Policies see layers with full attention.
    own = f"{FULL}_" if hasattr(module, f"{FULL}_inv_freq") else ""
    frequencies = getattr(module, f"{own}inv_freq", None)
    if not isinstance(frequencies, Tensor) or not callable(apply):
        _refuse(model, "has no rotary position embedding that skipkv knows")
    kind = getattr(module, "rope_type", "default")
    kind = kind.get(FULL) if isinstance(kind, dict) else kind
    if kind in _CHANGING:
        _refuse(model, f"changes its frequencies with the length of a text (RoPE of type {kind})")
    rotation = Rotation(
        # a copy: a part that edits it must not edit the model
        frequencies=frequencies.detach().to(model.device, torch.float32, copy=True),
        scaling=float(getattr(module, f"{own}attention_scaling", 1.0)),
    )
    found = Architecture.of(model.config)
    layers = {*found.full, *(found.windowed if windows else ())}
    known, seen = _confirmed.get(model, (None, set()))
    if known is not None and _same(known, rotation) and layers <= seen:
        return rotation
    _check_function(model, rotation, module, apply, *([FULL] if own else []))
    _check_keys(model, rotation, sorted(layers))
    mine = Rotation(frequencies=rotation.frequencies.clone(), scaling=rotation.scaling)
    _confirmed[model] = mine, layers
    return rotation


def _same(one: Rotation, other: Rotation) -> bool:
    return one.scaling == other.scaling and torch.equal(one.frequencies, other.frequencies)


def _check_function(
    model: PreTrainedModel, rotation: Rotation, module: Any, apply: Callable[..., Any], *kind: str
) -> None:
    """Compare how the model's own function turns a unit vector of each turned dimension."""
    device, dim = rotation.frequencies.device, 2 * len(rotation.frequencies)
    positions = torch.tensor(_PROBED, device=device).expand(dim, -1)  # [2F P]
    vectors = torch.eye(dim, device=device)[:, None].expand(-1, len(_PROBED), -1)  # [2F P 2F]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        cos_and_sin = module(vectors, positions, *kind)
        turned = apply(vectors[:, None], vectors[:, None], *cos_and_sin)[1][:, 0]
    if not torch.allclose(rotation.rotated(vectors, positions), turned, atol=1e-5):
        _refuse(model, "turns keys in another way than pairs of dimensions i and F + i")


def _check_keys(model: PreTrainedModel, rotation: Rotation, layers: Sequence[int]) -> None:
    """Compare the keys of one token at several positions, in each of these layers.

    A token without a past attends to itself alone. So its hidden states are the same at every
    position, and its keys differ by the rotation only.
    """
    device = model.device
    number = min(_TOKENS, text_config(model).vocab_size)
    ids = torch.linspace(0, text_config(model).vocab_size - 1, number, device=device).long()
    positions = torch.tensor(_PROBED, device=device).repeat_interleave(number)[:, None]  # [P*n 1]
    cache: Any = DynamicCache(config=model.config)
    given: Any = {cache_name(model.base_model): cache, "use_cache": True}
    plain = torch.autocast(device.type, enabled=False)  # the model's own dtype says what rounds
    with no_gradient(model), evaluating(model), plain:
        try:
            model.base_model(
                input_ids=ids.repeat(len(_PROBED))[:, None], position_ids=positions, **given
            )
        except Exception as cause:  # a model's own code raises errors of every type
            if is_out_of_memory(cause):
                raise
            said = " ".join(str(cause).split())[:300]
            _refuse(model, f"raised {type(cause).__name__} when fed single tokens: {said}")
        for layer in layers:
            keys = cache.layers[layer].keys.float()  # [P*n H 1 D]
            before = rotation.unrotated(keys, positions[:, None].expand(keys.shape[:3]))
            if apart := _by_position(before, model.dtype):
                _refuse(
                    model,
                    f"has layers that do not turn keys, such as layer {layer}"
                    if _by_position(keys, model.dtype) is None
                    else f"turns the keys of layer {layer} in another way, or changes them after "
                    f"the turn: without it those of one token differ, {apart}",
                )


def _by_position(keys: Float[Tensor, "N H 1 D"], dtype: torch.dtype) -> str | None:
    """How keys of the same tokens differ at different positions; None if they do not."""
    if not keys.isfinite().all():  # a damaged model: its logits will say so
        return None
    first, *others = keys[:, :, 0].chunk(len(_PROBED))  # [n H D] each
    found = torch.cat(others).transpose(0, 1)  # [H P*n D]
    return agree(found, first.repeat(len(others), 1, 1).transpose(0, 1), dtype)


def _refuse(model: PreTrainedModel, reason: str) -> NoReturn:
    raise UnsupportedModelError(
        f"This policy reads keys from before the rotation of positions (Needs(rotary=True)), and "
        f"{type(model).__name__} {reason.rstrip('.')}. Take a policy without that need."
    )
