r"""One Gaussian in place of a distribution that is none, by either direction of the divergence.

Forward, :math:`\mathrm{KL}(p \,\|\, q)`: q may not be zero where p is not, so it covers all of p (zero-avoiding,
mass-covering). Reverse, :math:`\mathrm{KL}(q \,\|\, p)`: q must be zero where p is, so it sits in one place of p and is
too narrow (zero-forcing, mode-seeking). Variational inference minimizes the second: an encoder's posteriors are too
narrow, and one of several modes is chosen. Bishop (2006), "Pattern Recognition and Machine Learning", section 10.1.2,
figures 10.2 and 10.3.

Some texts swap the words forward and reverse; the order of p and q never lies.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.divergences import LogDensity

Family = Literal["isotropic", "diagonal", "full"]

_LOG_TWO_PI = math.log(2 * math.pi)
_ITERATIONS = 500


class GaussianFit(NamedTuple):
    """N(mean, covariance)."""

    mean: Tensor
    """``(D,)``."""
    covariance: Tensor
    """``(D, D)``; a multiple of the identity, diagonal, or neither, as the family demands."""

    def log_density(self, points: Tensor) -> Tensor:
        """``(...)`` nats at points ``(..., D)``."""
        return _log_normal(points, self.mean, self.covariance)


class GaussianMixture(NamedTuple):
    """A target with K modes, if they are far enough apart."""

    weights: Tensor
    """``(K,)``, positive, of sum one."""
    means: Tensor
    """``(K, D)``."""
    covariances: Tensor
    """``(K, D, D)``."""

    def log_density(self, points: Tensor) -> Tensor:
        """``(...)`` nats at points ``(..., D)``."""
        of_components = _log_normal(points.unsqueeze(-2), self.means, self.covariances)
        return torch.logsumexp(self.weights.log() + of_components, -1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)``: the components' own, and that of their means."""
        mean = self.weights @ self.means
        apart = self.means - mean
        covariance = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return mean, covariance + torch.einsum("k,ki,kj->ij", self.weights, apart, apart)


def forward_fit(mean: Tensor, covariance: Tensor, family: Family) -> GaussianFit:
    r"""The minimum of KL(p || q) over a family, for any p with this mean ``(D,)`` and covariance ``(D, D)``.

    Moments are matched: the mean, and of the covariance :math:`\Sigma` as much as the family can hold,
    :math:`\Sigma`, :math:`\operatorname{diag} \Sigma`, or :math:`\operatorname{tr}(\Sigma) / D` (Bishop, 2006,
    equations 10.17 and 10.187).

    >>> forward_fit(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 4.0]]), "isotropic").covariance.tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    return GaussianFit(mean, _restricted(covariance, family))


def reverse_fit_to_gaussian(mean: Tensor, covariance: Tensor, family: Family) -> GaussianFit:
    r"""The minimum of KL(q || p) over a family, for p = N(mean ``(D,)``, covariance ``(D, D)``).

    It is the precision :math:`\Lambda = \Sigma^{-1}` of which the family holds what it can: the variances are
    :math:`1 / \Lambda_{dd}`, or :math:`D / \operatorname{tr} \Lambda` (Bishop, 2006, equations 10.12 to 10.15). They
    are never larger than those of p, and smaller wherever it is correlated.

    Raises:
        torch.linalg.LinAlgError: the covariance is not positive definite.

    >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    >>> reverse_fit_to_gaussian(torch.zeros(2), covariance, "diagonal").covariance.diag()
    tensor([0.3600, 0.3600])
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    if family == "full":
        return GaussianFit(mean, covariance)
    return GaussianFit(mean, _restricted(precision, family).diagonal().reciprocal().diag())


def reverse_kl(log_density: LogDensity, fit: GaussianFit, *, nodes: int = 20) -> Tensor:
    """KL(q || p), a scalar in nats, of a Gaussian q of few dimensions, by quadrature.

    Args:
        log_density: log p, ``(S, D) -> (S,)``; where it is not normalized, the divergence is off by a constant.
        fit: q.
        nodes: Gauss-Hermite nodes an axis, ``nodes ** D`` in all: no noise, and exact where log p is a polynomial of
            degree below ``2 * nodes``.
    """
    factor = torch.linalg.cholesky(fit.covariance)
    points, weights = _gauss_hermite(fit.mean, nodes)
    return _divergence(log_density, fit.mean, factor, points, weights)


def reverse_fit(log_density: LogDensity, start: GaussianFit, family: Family, *, nodes: int = 20) -> GaussianFit:
    """A local minimum of KL(q || p) over a family, by descent from ``start``.

    There may be several, one for each mode of p; which is found depends on the start.

    Args:
        log_density: log p, ``(S, D) -> (S,)``, differentiable, up to a constant.
        start: mean ``(D,)`` and covariance ``(D, D)``; of the latter the family's part is taken. float64 is advised.
        family: what the covariance may be.
        nodes: as for :func:`reverse_kl`.

    Raises:
        torch.linalg.LinAlgError: the start's covariance is not positive definite.
    """
    points, node_weights = _gauss_hermite(start.mean, nodes)
    factor = torch.linalg.cholesky(_restricted(start.covariance, family))
    mean = start.mean.detach().clone().requires_grad_()
    # The logarithm of the diagonal keeps the factor one of a covariance, wherever descent goes.
    log_scales = factor.diagonal().log()
    log_scales = (log_scales[:1] if family == "isotropic" else log_scales).detach().clone().requires_grad_()
    below = factor.detach().tril(-1).clone().requires_grad_(family == "full")

    def build() -> Tensor:
        scaled: Tensor = below.tril(-1) + log_scales.exp().expand(len(mean)).diag()
        return scaled

    parameters = [mean, log_scales, below] if family == "full" else [mean, log_scales]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_ITERATIONS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = _divergence(log_density, mean, build(), points, node_weights)
        torch.autograd.backward(loss)
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # PyTorch leaves its argument without a type
    found = build().detach()
    return GaussianFit(mean.detach(), found @ found.T)


def _divergence(log_density: LogDensity, mean: Tensor, factor: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """KL(N(mean, factor factor^T) || p): less entropy, less the expected log density."""
    entropy = 0.5 * len(mean) * (1 + _LOG_TWO_PI) + factor.diagonal().log().sum()
    divergence: Tensor = -entropy - (weights * log_density(mean + points @ factor.T)).sum()
    return divergence


def _restricted(matrix: Tensor, family: Family) -> Tensor:
    """What the family holds of a symmetric matrix ``(D, D)``."""
    match family:
        case "full":
            return matrix
        case "diagonal":
            return matrix.diagonal().diag()
        case "isotropic":
            return matrix.diagonal().mean().expand(len(matrix)).diag()


def _gauss_hermite(like: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Points ``(nodes ** D, D)`` and weights ``(nodes ** D,)`` of an expectation under N(0, I), for a mean ``(D,)``."""
    axis, axis_weights = np.polynomial.hermite_e.hermegauss(nodes)
    axis_weights /= axis_weights.sum()
    points = torch.meshgrid([torch.from_numpy(axis)] * len(like), indexing="ij")
    weights = torch.meshgrid([torch.from_numpy(axis_weights)] * len(like), indexing="ij")
    return torch.stack(points, -1).flatten(0, -2).to(like), torch.stack(weights).prod(0).flatten().to(like)


def _log_normal(points: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(points; mean, covariance) for ``(..., D)``, ``(..., D)`` and ``(..., D, D)``."""
    factor = torch.linalg.cholesky(covariance)
    standardized = torch.linalg.solve_triangular(factor, (points - mean).unsqueeze(-1), upper=False).squeeze(-1)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_density: Tensor = -0.5 * (standardized.square().sum(-1) + log_determinant + points.shape[-1] * _LOG_TWO_PI)
    return log_density
