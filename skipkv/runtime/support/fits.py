"""Whether the parts of a policy were made for the model that decodes."""

import warnings

from transformers import PreTrainedModel

from skipkv._types import ModelShape
from skipkv.errors import ConfigError, SkipKVWarning
from skipkv.models.architecture import Architecture
from skipkv.models.imprint import imprint_of
from skipkv.policy import Policy
from skipkv.runtime.support.rotary import rotation_of


def check_fits(policy: Policy, model: PreTrainedModel) -> None:
    """Raise `ConfigError` if a part of the policy was made for a model of another shape.

    A part that was made for a model of this shape with other weights is warned of.

    Args:
        policy: any policy.
        model: the model that decodes.
    """
    wanted = policy.needs.model
    if wanted is None:
        return
    found = Architecture.of(model.config)
    rotation = None if wanted.frequencies is None else rotation_of(model)
    there = ModelShape(
        layers=found.layers,
        heads=found.heads,
        groups=found.groups,
        dim=found.dim,
        width=found.hidden_size,
        frequencies=None if rotation is None else tuple(rotation.frequencies.tolist()),
        imprint=None if wanted.imprint is None else imprint_of(model),
    )
    check_made_for(policy, there)
    if not wanted.has_weights_of(there):
        warnings.warn(
            f"A part of the policy was made for {wanted.name or 'another model'}, which has the "
            "same shape as this model and other weights in its last norm. On another model its "
            "numbers may mean nothing. Take a file that was made with this model; if this one is "
            "its fine-tuned copy, measure what the policy is worth here.",
            SkipKVWarning,
            stacklevel=3,
        )


def check_made_for(policy: Policy, there: ModelShape) -> None:
    """Raise `ConfigError` if a part of the policy was made for a model of another shape.

    Args:
        policy: any policy.
        there: what is known of the model that decodes.
    """
    wanted = policy.needs.model
    if wanted is not None and (differences := wanted.differences(there)):
        raise ConfigError(
            f"A part of the policy was made for {wanted.name or 'another model'}: "
            f"{', '.join(differences)}. Take a file that was made with this model."
        )
