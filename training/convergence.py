r"""Whether chains agree with each other, and what their draws are worth.

Chains are ``(M, S, ...)``: M draws of each of S chains, of as many numbers as there are; all is computed in float64,
number by number. Each chain is cut into two halves, so that one which still drifts does not agree with itself.
"""

import torch
from torch import Tensor

# Draws that alternate about their mean tell it better than independent ones do, but an estimate of how much has no end.
_MOST = 3


def split_r_hat(draws: Tensor) -> Tensor:
    r"""By how much the draws of all chains spread wider than those of each, ``(...)``: 1 where chains have mixed.

    .. math:: \hat R = \sqrt{\frac{\frac{n-1}{n} W + \frac1n B}{W}}, \qquad
              B = \frac{n}{m-1} \sum_{j=1}^m (\bar z_j - \bar z)^2, \qquad W = \frac1m \sum_{j=1}^m s_j^2

    over the m = 2 S halves of n draws, with means :math:`\bar z_j` and variances :math:`s_j^2` (Gelman and Rubin, 1992;
    of halves: Gelman et al., 2013, "Bayesian data analysis", section 11.4). Infinite where nothing moved.

    Raises:
        ValueError: less than four draws a chain.
    """
    within, pooled, _ = _variances(_halves(draws))
    return torch.where(within > 0, (pooled / within).sqrt(), torch.inf)


def chain_sample_size(draws: Tensor) -> Tensor:
    r"""How many independent draws would tell the mean as exactly, ``(...)``; at most three times as many as there are.

    .. math:: \frac{m n}{1 + 2 \sum_{t=1}^T \hat\rho_t}, \qquad \hat\rho_t = 1 - \frac{W - \bar c_t}{\widehat{var}^+}

    with the mean autocovariance :math:`\bar c_t` of the halves at lag t; :math:`\widehat{var}^+` is the numerator under
    the root in :func:`split_r_hat`, so that chains which do not agree are worth little, however fast each moves
    (Gelman et al., 2013, section 11.5). The sum ends before the first pair of lags, an even one and the next, whose sum
    is not positive (Geyer, 1992, "Practical Markov chain Monte Carlo").

    Raises:
        ValueError: less than four draws a chain.
    """
    halves = _halves(draws)
    length, count = halves.shape[:2]
    within, pooled, centered = _variances(halves)
    # Padded with as many zeros, so that the circle of the transform does not close.
    spectrum = torch.fft.rfft(centered, 2 * length, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), 2 * length, dim=0)[:length].mean(1) / (length - 1)
    correlation = torch.where(pooled > 0, 1 - (within - covariance) / pooled, 1.0)
    pairs = torch.unflatten(correlation[: length // 2 * 2], 0, (-1, 2)).sum(1)
    kept = (pairs > 0).cumprod(0) * pairs
    return count * length / (2 * kept.sum(0) - 1).clamp(min=1 / _MOST)


def _halves(draws: Tensor) -> Tensor:
    """``(M, S, ...)`` -> ``(M // 2, 2 S, ...)``; an odd draw in the middle is left out."""
    length = len(draws) // 2
    if length < 2:
        raise ValueError(f"of {len(draws)} draws a chain there are no two halves that vary: four or more are needed")
    return torch.cat([draws[:length], draws[-length:]], 1).double()


def _variances(halves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W and var+ ``(...)``, and the halves less their means."""
    length = len(halves)
    means = halves.mean(0, keepdim=True)
    centered = halves - means
    within = centered.square().sum(0).mean(0) / (length - 1)
    between = means[0].var(0)
    return within, (length - 1) / length * within + between, centered
