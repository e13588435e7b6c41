"""pass@k: the chance that one of k samples of a problem is right."""

import math


def pass_at(right: int, samples: int, k: int) -> float:
    """The unbiased estimate from `samples` samples, of which `right` are right.

    The share of all choices of k samples that hold a right one.

    Args:
        right: right samples of a problem.
        samples: all samples of it.
        k: how many are looked at, at most all.

    Source: Chen et al. (arXiv 2107.03374), equation 1.

    Example:
        >>> pass_at(right=1, samples=4, k=1), pass_at(right=1, samples=4, k=2)
        (0.25, 0.5)
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def ks(samples: int) -> list[int]:
    """The k for which a table shows pass@k: powers of two beyond 1, and all samples.

    Args:
        samples: of each problem.

    Example:
        >>> ks(1), ks(6)
        ([], [2, 4, 6])
    """
    powers = [2**n for n in range(1, samples.bit_length()) if 2**n <= samples]
    return sorted({*powers, samples} - {1})
