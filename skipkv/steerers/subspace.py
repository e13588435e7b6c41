"""The subspace in which the hidden states of questions differ, and its removal from a vector."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_directions(
    means: Float[Tensor, "Q layers E"], directions: int
) -> Float[Tensor, "layers K E"]:
    """The directions along which the questions' mean states vary most, orthonormal per layer.

    Args:
        means: mean state of each question.
        directions: how many; fewer come back if the questions vary in fewer directions.
    """
    centred = (means - means.mean(dim=0)).double().transpose(0, 1)  # [layers Q E]
    _, strengths, basis = torch.linalg.svd(centred, full_matrices=False)
    # directions without variation are arbitrary, so they are dropped
    varying = strengths > strengths[:, :1] * 1e-9
    basis = torch.where(varying[..., None], basis, 0.0)
    return basis[:, :directions]


def without(
    vectors: Float[Tensor, "layers E"], basis: Float[Tensor, "layers K E"]
) -> Float[Tensor, "layers E"]:
    """The vectors without their component in the space of orthonormal directions.

    Example:
        >>> without(torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 0.0]]])).tolist()
        [[0.0, 4.0]]
    """
    along = torch.einsum("le,lke->lk", vectors, basis.to(vectors))
    return vectors - torch.einsum("lk,lke->le", along, basis.to(vectors))
