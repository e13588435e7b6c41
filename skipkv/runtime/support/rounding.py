"""Do two results of a model differ by more than rounding explains?"""

import torch
from jaxtyping import Float
from torch import Tensor

# The largest ||ours - theirs|| / ||theirs|| of logits that rounding explains.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_ROUNDING = 0.05


def agree(
    found: Float[Tensor, "*tokens N"], expected: Float[Tensor, "*tokens N"], dtype: torch.dtype
) -> str | None:
    """How two results of a model differ by more than rounding explains; None if they do not.

    Args:
        found: a vector per token.
        expected: the same, computed in another way.
        dtype: of the model.
    """
    apart = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    # The median: rounding may send single tokens of a mixture of experts to other experts. But
    # every row must agree.
    typical = float(apart.median(dim=-1).values.max())
    if typical <= _ROUNDING.get(dtype, _HALF_ROUNDING):  # not so if it is NaN
        return None
    return f"by {typical:.2g} of their norm, in the median of {apart.shape[-1]} tokens"
