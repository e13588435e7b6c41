"""A model that follows a script: its text, attention and hidden states are given."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from skipkv.errors import ConfigError
from skipkv.testing.fakes import VOCABULARY, toy_model, toy_tokenizer

# The logarithm of zero attention: its exponential is 0 in float32.
_NEVER = -1e4


def scripted_model(
    script: str,
    *,
    attention: Float[Tensor, "T T"] | Float[Tensor, "H T T"] | None = None,
    hidden: Float[Tensor, "T E"] | None = None,
    layers: int = 1,
    heads: int = 1,
    groups: int = 1,
) -> PreTrainedModel:
    """A model that produces the text `script`, with the attention and hidden states given.

    It is a stock Llama over the toy tokenizer's vocabulary. Hooks replace the output of its
    projections with the script's, by position. Everything else is real: caches, masks,
    `generate()`, and the softmax over the entries that a policy has kept. Prompted with the
    beginning of the script it decodes the rest, then "<eos>".

    Args:
        script: the whole text, prompt included: `T` tokens of the toy tokenizer.
        attention: attention of the token at each position to the tokens up to it, for all KV heads
            together or for each. Rows need not sum to 1: the entries left after eviction are
            rescaled. By default every token attends to all tokens up to it equally.
        hidden: hidden states after the final norm, from which sentence embeddings come.
        layers: decoder layers, all of them equal.
        heads: KV heads.
        groups: query heads per KV head.

    Raises:
        ConfigError: a shape does not fit the script.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_tokenizer
        >>> model = scripted_model("one plus one is two.\\n\\n")
        >>> engine = Engine(model, toy_tokenizer(), presets.full())
        >>> [completion] = engine.generate(["one plus "], max_new_tokens=20)
        >>> completion.text
        'one is two.\\n\\n'
    """
    ids = torch.tensor(toy_tokenizer()(script)["input_ids"])
    count = len(ids)
    if count < 2:
        raise ConfigError(f"scripted_model(script={script!r}) must hold two tokens or more.")
    weights = torch.ones(count, count) if attention is None else attention
    if weights.dim() == 2:
        weights = weights.expand(heads, -1, -1)
    if weights.shape != (heads, count, count):
        raise ConfigError(
            f"scripted_model(attention={list(weights.shape)}) must be [T, T] or [H, T, T] for "
            f"{count} tokens and {heads} KV heads."
        )
    if hidden is not None and (hidden.dim() != 2 or hidden.shape[0] != count):
        raise ConfigError(
            f"scripted_model(hidden={list(hidden.shape)}) must be [T, E] for {count} tokens."
        )
    dim = count + count % 2  # RoPE turns pairs
    model = toy_model(
        layers=layers,
        heads=heads,
        groups=groups,
        dim=dim,
        hidden_size=None if hidden is None else hidden.shape[1],
        eos=True,
    )
    _Script(ids, weights, hidden, groups, dim).direct(model)
    return model


class _Script:
    """Hooks that read the positions of a pass and put in the script's values for them."""

    def __init__(
        self, ids: Tensor, weights: Tensor, hidden: Tensor | None, groups: int, dim: int
    ) -> None:
        heads, count, _ = weights.shape
        # key j is the j-th unit vector, so that a query's j-th number is its logit there
        self.keys = torch.eye(count, dim).repeat(1, heads)  # [T, H D]
        logits = weights.clamp_min(0).log().clamp_min(_NEVER) * dim**0.5
        queries = torch.nn.functional.pad(logits, (0, dim - count))  # [H T D]
        self.queries = queries.repeat_interleave(groups, dim=0).transpose(0, 1).flatten(1)
        self.hidden = hidden
        following = torch.cat([ids[1:], torch.tensor([VOCABULARY.index("<eos>")])])
        self.says = torch.nn.functional.one_hot(following, len(VOCABULARY)).float()
        self.positions = torch.zeros(1, 0, dtype=torch.long)

    def direct(self, model: Any) -> None:
        """Register the hooks; they run before all others."""
        base = model.base_model
        base.rotary_emb.register_forward_hook(self._no_rotation, with_kwargs=True)
        for layer in base.layers:
            layer.self_attn.q_proj.register_forward_hook(self._following("queries"))
            layer.self_attn.k_proj.register_forward_hook(self._following("keys"))
        if self.hidden is not None:
            base.norm.register_forward_hook(self._following("hidden"))
        model.lm_head.register_forward_hook(self._following("says"))

    def _no_rotation(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """Record the positions, and switch the rotation off."""
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        self.positions = positions.clamp(0, len(self.says) - 1)  # beyond the script, its last line
        cosine, sine = output
        return torch.ones_like(cosine), torch.zeros_like(sine)

    def _following(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            # the head may see the last columns only
            here = self.positions[:, -output.shape[1] :]
            lines: Tensor = getattr(self, name)[here]
            return lines.to(output).expand(output.shape)

        return hook
