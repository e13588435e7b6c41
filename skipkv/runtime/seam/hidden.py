"""The hidden states that enter a model's layers at given positions of a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from skipkv.models.architecture import decoder_layers
from skipkv.runtime.seam.lending import no_gradient


def layer_inputs(
    model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int], layers: Sequence[int]
) -> Float[Tensor, "N layers E"]:
    """The hidden states that enter layers at positions of a text, from one pass without a cache.

    Steering adds its vector to the same states. Hooks copy them during the pass, so that memory
    holds a state per requested position, not per token.

    Args:
        model: a model in evaluation mode.
        ids: the tokens of the whole text, with the prompt.
        positions: positions in the text.
        layers: numbers of layers, from 0.

    Returns:
        The states, on the CPU, in the model's dtype.

    Example:
        >>> from skipkv.testing import toy_model
        >>> list(layer_inputs(toy_model(), [5, 6, 7], [0, 2], layers=[1]).shape)
        [2, 1, 64]
    """
    taken: dict[int, Tensor] = {}
    places = torch.tensor(list(positions), dtype=torch.long, device=model.device)

    def take(layer: int) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            taken[layer] = hidden[0, places]

        return hook

    modules = decoder_layers(model)
    handles = [
        modules[layer].register_forward_pre_hook(take(layer), with_kwargs=True)
        for layer in set(layers)
    ]
    try:
        with no_gradient(model):
            model.base_model(
                input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False
            )
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([taken[layer] for layer in layers], dim=1).cpu()
