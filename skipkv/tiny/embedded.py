"""Loading the weights that come with the package."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import models


def load(
    *, dtype: str | torch.dtype = "auto", device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""The embedded model, ready to decode, and its tokenizer; `load("tiny")` of the runtime.

    Args:
        dtype: dtype of the weights; "auto" is float32.
        device: device of the model; by default a GPU if there is one.

    Example:
        >>> from skipkv import Engine, presets, tiny
        >>> engine = Engine(*tiny.load(), presets.full())
        >>> [problem] = tiny.problems(1)
        >>> chat = [{"role": "user", "content": problem.question}]
        >>> [completion] = engine.generate([chat], max_new_tokens=640)
        >>> completion.text.splitlines()[-1] == rf"The code is \boxed{{{problem.answer}}}."
        True
    """
    return models.load("tiny", dtype=dtype, device=device)
