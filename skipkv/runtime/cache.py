"""The slot store in the shape transformers expects of a cache."""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from skipkv.errors import UnsupportedModelError
from skipkv.runtime.forward import Forward


class SlotLayer(CacheLayerMixin):
    """One layer of a `SlotCache`: hands keys and values to the forward pass now under way."""

    is_sliding = False

    def __init__(self, cache: "SlotCache", layer: int) -> None:
        super().__init__()
        self._cache = cache
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the store is allocated whole, before the first pass."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new entries and return those the pass may attend to."""
        return self._cache.forward.write(self._layer, key_states, value_states)

    def get_seq_length(self) -> int:
        """Columns fed so far, evicted or not: what positions go on from."""
        return self._cache.columns

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Only the stock mask functions ask; ours answers None before sizes matter."""
        return self._cache.columns, 0

    def get_max_length(self) -> int:
        """No limit: positions go on for ever, entries do not."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.14

    def reset(self) -> None:
        """Refused: sequences are forgotten one by one, by the session that owns the store."""
        raise UnsupportedModelError("A skipkv cache cannot be reset; start a new generation.")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refused: beam search copies whole histories, which differ per row once evicted."""
        raise UnsupportedModelError(
            "Beam search is not supported under a skipkv policy. Use greedy decoding or sampling "
            "(num_beams=1)."
        )

    def crop(self, *args: Any) -> None:
        """Refused: evicted entries cannot come back, so no step can be undone."""
        raise UnsupportedModelError(
            "Assisted decoding takes steps back, which an evicting cache cannot. Generate without "
            "an assistant model."
        )


class SlotCache(Cache):
    """A transformers cache whose full-attention layers live in a `SlotStore`.

    Args:
        config: the model's; says which layers there are.
        layers: model layer -> layer of the store. All others keep the cache transformers gives them.
    """

    def __init__(self, config: PretrainedConfig, layers: dict[int, int]) -> None:
        own = DynamicCache(config=config).layers
        super().__init__(
            layers=[
                SlotLayer(self, layers[i]) if i in layers else own[i]
                for i in range(config.num_hidden_layers)
            ]
        )
        self.columns = 0
        self._forward: Forward | None = None

    @property
    def forward(self) -> Forward:
        """The forward pass under way."""
        if self._forward is None:
            raise UnsupportedModelError(
                "A skipkv cache was used outside the generation it was made for. Call "
                "model.generate() without past_key_values inside skipkv.attach()."
            )
        return self._forward

    def begin(self, forward: Forward) -> None:
        """Store what follows where `forward` says."""
        self._forward = forward

    def end(self, columns: int) -> None:
        """The pass is over; `columns` have been fed."""
        self._forward = None
        self.columns += columns
