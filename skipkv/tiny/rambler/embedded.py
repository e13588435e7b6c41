"""Loading the weights that come with the package."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import models


def load(
    *, dtype: str | torch.dtype = "auto", device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""The rambling reasoner, ready to decode, and its tokenizer.

    Args:
        dtype: dtype of the weights; "auto" is float32.
        device: device of the model; by default a GPU if there is one.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.tiny import rambler
        >>> engine = Engine(*rambler.load(), presets.rkv(250, interval=32))
        >>> chats = [[{"role": "user", "content": p.question}] for p in rambler.problems(2)]
        >>> sampling = {"temperature": 0.6, "top_p": 0.95, "seed": 0}
        >>> completions = engine.generate(chats, max_new_tokens=100, sampling=sampling)
        >>> [len(completion.tokens) for completion in completions]
        [100, 100]
    """
    return models.load("rambler", dtype=dtype, device=device)
