"""Model classes that skipkv does not know: one follows transformers' conventions, others do not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from skipkv.testing.fakes import VOCABULARY


class HouseConfig(LlamaConfig):
    """A config of a type that skipkv does not know."""

    model_type = "house_style"


def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention with all that the module adds to it."""
    groups = query.shape[1] // key.shape[1]
    logits = query @ key.repeat_interleave(groups, 1).mT * scaling + module.added(key)
    logits = logits if attention_mask is None else logits + attention_mask
    output = logits.softmax(-1) @ value.repeat_interleave(groups, 1)
    return output.transpose(1, 2).contiguous(), None


class HouseAttention(LlamaAttention):
    """Follows the conventions: a cache, transformers' attention functions, `layer_idx`."""

    def added(self, key: Tensor) -> Tensor | float:
        """What attention adds to logits."""
        return 0.0

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        caches = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        for cache in caches:
            if cache is not None:
                key, value = cache.update(key, value, self.layer_idx)
        name = self.config._attn_implementation
        attend: Callable[..., Any] = (
            eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        )
        output, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(output.flatten(2)), None


class FavouringAttention(HouseAttention):
    """Favours some entries, of which it tells no attention function but its own."""

    def added(self, key: Tensor) -> Tensor | float:
        return key.square().sum(-1).repeat_interleave(2, 1)[:, :, None]


class UnseenAttention(HouseAttention):
    """Always computes attention itself."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        name, self.config._attn_implementation = self.config._attn_implementation, "eager"
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.config._attn_implementation = name


class HouseForCausalLM(LlamaForCausalLM):
    """Llama, but for its attention."""

    config_class = HouseConfig


def house_model(attention: type[HouseAttention]) -> HouseForCausalLM:
    """A small random model with this attention, in evaluation mode."""
    config = HouseConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HouseForCausalLM(config)
        for layer in model.model.layers:
            state = layer.self_attn.state_dict()
            layer.self_attn = attention(config, layer.self_attn.layer_idx)
            layer.self_attn.load_state_dict(state)
    model.lm_head.weight.data[1] = 0
    model.train(False)
    return model
