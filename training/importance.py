r"""What the K importance weights of an image say of log p(x).

Log weights are ``(K, N)``: K draws of each of N images, in nats; what is made of them is float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def bound_grid(k: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, ... up to k, and k.

    >>> bound_grid(100), bound_grid(7)
    ((1, 2, 5, 10, 20, 50, 100), (1, 2, 5, 7))
    """
    steps = (factor * 10**power for power in range(len(str(k))) for factor in (1, 2, 5))
    return (*(step for step in steps if step < k), k)


def importance_weighted_bounds(log_weights: Tensor, grid: Sequence[int]) -> Tensor:
    r"""L_k of each image at each k of a grid, ``(N, len(grid))`` nats, from the same K weights.

    .. math:: \hat L_k = \frac1G \sum_{g=1}^G \log \frac1k \sum_{i = (g-1) k + 1}^{g k} w_i, \qquad
              G = \lfloor K / k \rfloor

    The weights are divided into groups of k. Each group has an L_k of its own with the right expectation, and so has
    their mean, whose variance is that of the first k weights' L_k divided by G. At k = 1 it is the ELBO of all draws.

    Args:
        log_weights: ``(K, N)``.
        grid: numbers from 1 to K.
    """
    columns = []
    for k in grid:
        groups = len(log_weights) // k
        grouped = torch.unflatten(log_weights[: groups * k].double(), 0, (groups, k))
        columns.append((grouped.logsumexp(1) - math.log(k)).mean(0))
    return torch.stack(columns, 1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2``, ``(N,)``, from 1 to K (Kong, 1992); NaN without a positive, finite weight."""
    log_weights = log_weights.double()
    size = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    return size.clamp(1, len(log_weights))  # rounding leaves it a little
