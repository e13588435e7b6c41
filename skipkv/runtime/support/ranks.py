"""Models on more than one device: tensor parallelism, and what is refused."""

from transformers import PreTrainedModel

from skipkv._calls import saying
from skipkv.errors import ConfigError, UnsupportedModelError
from skipkv.models.architecture import Architecture, decoder_layers
from skipkv.policy import Policy


def ranks_of(model: PreTrainedModel) -> int:
    """The processes among which the heads of a model are divided; 1 without tensor parallelism."""
    return getattr(model, "tp_size", None) or 1


def check_devices(model: PreTrainedModel, policy: Policy) -> None:
    """Check that a policy can decode with a model, wherever its parts lie.

    Args:
        model: the model.
        policy: what is kept.

    Raises:
        UnsupportedModelError: its layers lie on several devices, or its KV heads cannot be divided
            among the ranks.
        ConfigError: a part joins the KV heads of a layer, of which each rank has only some.
    """
    devices = {
        str(weight.device)
        for layer in decoder_layers(model)
        for weight in layer.parameters()
        if weight.device.type != "meta"  # offloaded: it comes where it is needed
    }
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"The model's layers lie on {', '.join(sorted(devices))}. skipkv's cache lies on one "
            'device. Load the model on one, or divide its heads: tp_plan="auto" under torchrun.'
        )
    ranks = ranks_of(model)
    if ranks == 1:
        return
    heads = Architecture.of(model.config).heads
    if heads % ranks:
        raise UnsupportedModelError(
            f"The model has {heads} KV heads, which cannot be divided among {ranks} ranks. Start "
            "as many processes as divide them."
        )
    made_for = policy.needs.model
    if (made_for is not None and made_for.heads is not None) or policy.needs.written:
        raise ConfigError(
            f"The policy has numbers for every KV head of a model, and each of {ranks} ranks has "
            "only some of the heads. Take another policy, or one process."
        )
    for part in (policy.scorer, policy.evictor):
        if (mixing := saying(part, "mixes_heads")) is not None:
            raise ConfigError(
                f"{mixing!r} joins the KV heads of a layer, and each of {ranks} ranks has only "
                "some of them. Take a policy whose heads choose for themselves, or one process."
            )
