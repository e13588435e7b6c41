"""The imprint of a model: a few of its weights, by which models of one shape are told apart."""

from transformers import PreTrainedModel

from skipkv.models.architecture import decoder_layers, text_config


def imprint_of(model: PreTrainedModel) -> tuple[float, ...] | None:
    """The weights of the norm after the last layer, [E]. None if they cannot be read.

    Fine-tuning changes them. Quantizing leaves them alone, and so do adapters. In another dtype
    they differ by rounding, which `ModelShape.has_weights_of` allows for.

    Args:
        model: a causal language model of transformers.

    Example:
        >>> from skipkv import tiny
        >>> len(imprint_of(tiny.load(device="cpu")[0]))
        128
    """
    inside = {id(weight) for layer in decoder_layers(model) for weight in layer.parameters()}
    width = text_config(model).hidden_size
    norms = [
        weight
        for name, weight in model.base_model.named_parameters()
        if id(weight) not in inside and tuple(weight.shape) == (width,) and name.endswith("weight")
    ]
    if not norms or norms[-1].is_meta or hasattr(norms[-1], "to_local"):
        return None  # offloaded, or divided among processes
    return tuple(norms[-1].detach().float().tolist())
