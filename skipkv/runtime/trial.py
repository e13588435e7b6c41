"""A short trial of a model: do passes through skipkv's cache give the model's own logits?

Architectures that the tests do not decode are tried once, before they decode for a user.
"""

import warnings
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from skipkv._calls import is_out_of_memory
from skipkv.errors import SkipKVError, SkipKVWarning, UnsupportedModelError
from skipkv.models.architecture import Architecture
from skipkv.models.families import FAMILIES
from skipkv.policy import Policy
from skipkv.runtime.requests.sequence import Sequence
from skipkv.runtime.seam.lending import borrowed, evaluating, no_gradient
from skipkv.runtime.session import Session
from skipkv.runtime.support.rounding import agree

# Tokens of the trial's prompts, and decode steps after them.
_PROMPTS, _STEPS = (12, 7), 3

# What to do about it.
_OWN = "Decode it with its own generate(), without a policy."

_tried: "WeakKeyDictionary[torch.nn.Module, str | None]" = WeakKeyDictionary()


def check_untested(model: PreTrainedModel, *, by: str) -> None:
    """Try a model of an architecture that the tests do not decode; once per model object.

    Args:
        model: the model that is about to decode.
        by: "Engine" or `ATTACH`, which is about to borrow it.

    Raises:
        UnsupportedModelError: its logits differ from those of the model itself.

    Warns:
        SkipKVWarning: they are the same.
    """
    kind = model.config.get_text_config(decoder=True).model_type
    if kind in FAMILIES or (model in _tried and _tried[model] is None):
        return
    if model not in _tried:
        _tried[model] = difference(model, by=by)
        if _tried[model] is None:
            warnings.warn(
                f"skipkv's tests do not decode models of type {kind!r}. A short trial gave this "
                "model's own logits. `skipkv check` and skipkv.testing.check_model try more.",
                SkipKVWarning,
                stacklevel=4,
            )
    if found := _tried[model]:
        raise UnsupportedModelError(
            f"Models of type {kind!r} are not among those that skipkv's tests decode, and in a "
            f"short trial this one failed: {found} {_OWN if _OWN not in found else ''}".rstrip()
        )


def difference(model: PreTrainedModel, *, by: str) -> str | None:
    """How logits through skipkv's cache differ from the model's own; None where they do not.

    Prompts of different length go in together, where the model's layers allow it, and some tokens
    are fed one by one. The full cache keeps all.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    lengths = _PROMPTS[:1] if Architecture.of(model.config).states else _PROMPTS
    ids = torch.randint(
        vocabulary,
        (len(lengths), max(lengths) + _STEPS),
        generator=torch.Generator().manual_seed(0),
    ).to(model.device)
    with no_gradient(model), evaluating(model):
        expected = _own_logits(model, ids, lengths)
        try:
            with borrowed(model, by=by):
                found = _logits(model, ids, lengths)
        except UnsupportedModelError as error:
            return str(error)
        except SkipKVError:  # the model is in use
            raise
        except Exception as error:  # unknown code raises errors of every type
            if is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:300]
            return f"a pass through skipkv's cache raised {type(error).__name__}: {said}."
    if apart := agree(found, expected, model.dtype):
        if len(lengths) > 1 and agree(found[0], expected[0], model.dtype) is None:
            return (
                "logits of a prompt that is decoded beside a longer one differ from the model's "
                f"own {apart}. The model does not take the positions of each row from "
                "position_ids: it counts the entries of its cache, which eviction changes."
            )
        return (
            f"logits through skipkv's cache differ from the model's own {apart}. The model "
            "computes something that skipkv's attention does not."
        )
    return None


def _own_logits(
    model: PreTrainedModel, ids: Int[Tensor, "B T"], lengths: tuple[int, ...]
) -> Float[Tensor, "B steps V"]:
    """The model's own logits of each prompt's last token and of each step, without a cache."""
    rows = []
    for row, length in zip(ids, lengths, strict=True):
        text = row[len(row) - _STEPS - length :]
        rows.append(model(input_ids=text[None], use_cache=False).logits[0, -1 - _STEPS :])
    return torch.stack(rows).float()


def _logits(
    model: PreTrainedModel, ids: Int[Tensor, "B T"], lengths: tuple[int, ...]
) -> Float[Tensor, "B steps V"]:
    """The same through our cache."""
    session = Session(model, Policy(), sequences=len(lengths), text=None)
    for length in lengths:
        session.join(session.start(Sequence(prompt_tokens=length)))
    passes = [session.logits(session.prompts(0, lengths, ids[:, :-_STEPS]))]
    for step in range(ids.shape[1] - _STEPS, ids.shape[1]):
        passes.append(session.logits(session.step(ids[:, step : step + 1])))
    return torch.stack(passes, dim=1).float()
