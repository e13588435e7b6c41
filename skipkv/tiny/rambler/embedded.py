"""Loading the weights that come with the package."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import models


def load(
    *, dtype: str | torch.dtype = torch.float32, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""The rambling reasoner, ready to decode, and its tokenizer.

    Args:
        dtype: dtype of the weights; they are stored as bfloat16, in which a CPU decodes slowly.
        device: device of the model; by default a GPU if there is one.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.tiny import rambler
        >>> engine = Engine(*rambler.load(), presets.full())
        >>> [problem] = rambler.problems(1)
        >>> chat = [{"role": "user", "content": problem.question}]
        >>> sampling = {"temperature": 0.6, "seed": 0}
        >>> [completion] = engine.generate([chat], max_new_tokens=1408, sampling=sampling)
        >>> completion.text.splitlines()[-1] == rf"The code is \boxed{{{problem.answer}}}."
        True
    """
    return models.load("rambler", dtype=dtype, device=device)
