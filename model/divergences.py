r"""Kullback-Leibler divergences, in nats: closed forms, and the Monte-Carlo estimate that checks them.

.. math:: \mathrm{KL}(q \,\|\, p) = \mathbb{E}_{q(z)}[\log q(z) - \log p(z)] \ge 0

It is not symmetric, and so not a distance.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) of each dimension; the sum over the last axis is the rate.

    Kingma and Welling (2014), appendix B: ``0.5 * (mean^2 + sigma^2 - 1 - log sigma^2)``.

    Args:
        mean: ``(..., D)``.
        log_variance: ``(..., D)``, log sigma^2.

    Returns:
        ``(..., D)`` nats, not summed, since KL per dimension is a result of its own.

    >>> kl_to_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).sum().item()
    0.0
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def kl_between_gaussians(mean_q: Tensor, covariance_q: Tensor, mean_p: Tensor, covariance_p: Tensor) -> Tensor:
    r"""KL(N(mean_q, covariance_q) || N(mean_p, covariance_p)) for full covariance matrices.

    .. math:: \tfrac12 \left(\operatorname{tr}(\Sigma_p^{-1}\Sigma_q) + (\mu_p-\mu_q)^\top\Sigma_p^{-1}(\mu_p-\mu_q)
              - D + \log\frac{\det\Sigma_p}{\det\Sigma_q}\right)

    Args:
        mean_q, mean_p: ``(..., D)``.
        covariance_q, covariance_p: ``(..., D, D)``, symmetric positive definite.

    Returns:
        ``(...)`` nats.

    Raises:
        torch.linalg.LinAlgError: a covariance is not positive definite.
    """
    factor_q = torch.linalg.cholesky(covariance_q)
    factor_p = torch.linalg.cholesky(covariance_p)
    # With L_p L_p^T = covariance_p, the trace and the quadratic form are squared norms of solved triangles: no inverse.
    whitened_factor = torch.linalg.solve_triangular(factor_p, factor_q, upper=False)
    whitened_shift = torch.linalg.solve_triangular(factor_p, (mean_p - mean_q).unsqueeze(-1), upper=False)
    trace = whitened_factor.square().sum((-2, -1))
    mahalanobis = whitened_shift.square().sum((-2, -1))
    half_log_det_ratio = (_log_diagonal(factor_p) - _log_diagonal(factor_q)).sum(-1)
    divergence: Tensor = 0.5 * (trace + mahalanobis - mean_q.shape[-1]) + half_log_det_ratio
    return divergence


def monte_carlo_kl(samples: Tensor, log_q: LogDensity, log_p: LogDensity) -> tuple[Tensor, Tensor]:
    """Estimate KL(q || p) from samples of q: the mean of ``log q - log p``, with its standard error.

    Args:
        samples: ``(S, ..., D)``, drawn from q along the first axis; S of at least 2.
        log_q, log_p: log densities, ``(S, ..., D) -> (S, ...)``.

    Returns:
        The estimate ``(...)`` and its standard error ``(...)``, in nats. The estimate is unbiased, and may be negative.

    Raises:
        ValueError: fewer than two samples, for which there is no standard error.
    """
    count = samples.shape[0]
    if count < 2:
        raise ValueError(f"a standard error needs 2 samples or more, not {count}")
    log_ratio = log_q(samples) - log_p(samples)
    return log_ratio.mean(0), log_ratio.std(0) / count**0.5


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log()
