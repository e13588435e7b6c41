"""Whether a model with states reads several tokens at once after others.

Some of transformers' models (Jamba, Bamba) take up their states for single tokens only: fed several
tokens after others, they begin anew, without an error. Prompts that are read in pieces would then
be forgotten in part. Whether a model does so is tried.
"""

import copy
import warnings
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from skipkv.errors import SkipKVWarning
from skipkv.models.architecture import Architecture
from skipkv.runtime.seam.lending import evaluating, no_gradient
from skipkv.runtime.seam.names import cache_name

_BEFORE, _AFTER = 12, 3  # tokens of the trial
# What rounding explains: a share of the logits, or a share of what the states change in them.
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-9}
_HALF_ROUNDING, _SHARE = 0.01, 0.5

_tried: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()
_said: "WeakSet[torch.nn.Module]" = WeakSet()


def continues(model: PreTrainedModel) -> bool:
    """Whether a model goes on from its states when it is fed several tokens after others.

    A model without states does. Others are tried once per model object, with transformers' own
    cache.

    Args:
        model: the model; another thread must not be using it.
    """
    if not Architecture.of(model.config).states:
        return True
    if model not in _tried:
        _tried[model] = _tries(model)
    return _tried[model]


def warn_of_single_tokens(model: PreTrainedModel) -> None:
    """Say, once per model object, that a part of a prompt is fed token by token."""
    if model in _said:
        return
    _said.add(model)
    warnings.warn(
        f"{type(model).__name__} begins anew when it is fed several tokens after others: "
        "transformers drops the states of its layers. So a prompt is fed whole, and what does not "
        "fit in budget + interval, or follows a prefix, is fed token by token, which is slow. A "
        "budget longer than the prompts avoids that.",
        SkipKVWarning,
        stacklevel=3,
    )


def _tries(model: PreTrainedModel) -> bool:
    """Feed some tokens after others: at once, one by one, and at once with states of zero.

    At once must be as one by one, up to rounding. The fault looked for is that it is as with
    states of zero, of one kind or the other; a small part of what these change is rounding.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, _BEFORE + _AFTER), generator=random).to(model.device)
    with no_gradient(model), evaluating(model):
        before = DynamicCache(config=model.config)
        _fed(model, ids, 0, _BEFORE, before)
        at_once = _fed(model, ids, _BEFORE, _AFTER, copy.deepcopy(before))
        others = []
        for kind in ("conv_states", "recurrent_states"):
            anew = copy.deepcopy(before)
            layers: list[Any] = [anew.layers[i] for i in Architecture.of(model.config).states]
            held = [s for layer in layers for s in getattr(layer, kind).values() if s is not None]
            for state in held:
                state.zero_()
            if held:
                others.append(_fed(model, ids, _BEFORE, _AFTER, anew))
        singly = torch.cat([_fed(model, ids, _BEFORE + n, 1, before) for n in range(_AFTER)])
    apart = (at_once - singly).norm()
    if apart <= _ROUNDING.get(model.dtype, _HALF_ROUNDING) * singly.norm():
        return True
    return all(bool(apart <= _SHARE * (at_once - other).norm()) for other in others)


def _fed(
    model: PreTrainedModel, ids: Int[Tensor, "1 T"], start: int, count: int, cache: DynamicCache
) -> Float[Tensor, "count V"]:
    """The logits of some tokens, fed after those that the cache has."""
    positions = torch.arange(start, start + count, device=ids.device)[None]
    tokens = ids[:, start : start + count]
    named: dict[str, Any] = {cache_name(model): cache}
    output = model(input_ids=tokens, position_ids=positions, use_cache=True, **named)
    logits: Tensor = output.logits[0].float()
    return logits
