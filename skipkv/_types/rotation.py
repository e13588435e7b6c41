"""How positions turn keys: rotary position embeddings, and keys as they were before them."""

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor


@attrs.frozen(kw_only=True, eq=False)
class Rotation:
    """The rotary position embedding (RoPE) of a model.

    Dimensions `i` and `F + i` of a key are a pair. At position `p` the pair is turned by the angle
    `p * frequencies[i]` and multiplied by `scaling`. Dimensions from `2 * F` on are not turned.

    Args:
        frequencies: angle per position of each pair, in radians.
        scaling: factor of turned dimensions; not 1 under some ways to lengthen the context.

    Source: RoFormer (arXiv 2104.09864), with the pairs of GPT-NeoX; YaRN (arXiv 2309.00071) for the
    factor.

    Example:
        >>> rotation = Rotation(frequencies=torch.tensor([torch.pi / 2]))
        >>> turned = rotation.rotated(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> turned.round(decimals=4) + 0  # by a quarter of a turn
        tensor([[0., 1.]])
        >>> rotation.unrotated(turned, torch.tensor([1])).round(decimals=4) + 0
        tensor([[1., 0.]])
    """

    frequencies: Float[Tensor, "F"]
    scaling: float = 1.0

    def rotated(
        self, vectors: Float[Tensor, "*axes D"], positions: Int[Tensor, "*axes"]
    ) -> Float[Tensor, "*axes D"]:
        """Vectors as they are at these positions, in float32.

        Args:
            vectors: keys or queries before the rotation.
            positions: the position of each.
        """
        return self._turned(vectors, positions.float(), self.scaling)

    def unrotated(
        self, vectors: Float[Tensor, "*axes D"], positions: Int[Tensor, "*axes"]
    ) -> Float[Tensor, "*axes D"]:
        """Vectors as they were before the rotation, in float32.

        Args:
            vectors: keys or queries after the rotation.
            positions: the position of each.
        """
        return self._turned(vectors, -positions.float(), 1 / self.scaling)

    def _turned(
        self, vectors: Float[Tensor, "*axes D"], turns: Float[Tensor, "*axes"], factor: float
    ) -> Float[Tensor, "*axes D"]:
        pairs = self.frequencies.shape[0]
        angles = turns[..., None] * self.frequencies  # [*axes F]
        cos, sin = angles.cos().mul_(factor), angles.sin_().mul_(factor)
        result = vectors.to(torch.float32, copy=True)
        first, second = vectors[..., :pairs].float(), vectors[..., pairs : 2 * pairs].float()
        torch.mul(first, cos, out=result[..., :pairs]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=result[..., pairs : 2 * pairs]).addcmul_(first, sin)
        return result
