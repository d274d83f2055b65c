r"""Normalizing flows: a Gaussian's draws, turned by maps that are invertible and whose volume change is known.

.. math:: z_0 \sim \mathcal N(\mu(x), \operatorname{diag}\sigma^2(x)), \quad z_t = f_t(z_{t-1}; x), \quad
          \log q(z_T|x) = \log q_0(z_0|x) - \sum_t \log\left|\det \frac{\partial f_t}{\partial z_{t-1}}\right|

Rezende and Mohamed (2015), equation 7. The maps are amortized: the encoder gives their parameters for each image. A map
here is a function of latents ``(..., N, D)`` and parameters ``(N, ...)``; it gives latents and log |det| ``(..., N)``.
Every constraint that makes one invertible is built into its parameters, so that no step of training can leave it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.posteriors.gaussian import DiagonalGaussian, Draw

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Latents ``(..., N, D)`` -> latents ``(..., N, D)``, log |det| ``(..., N)``."""


class Flow(NamedTuple):
    """A diagonal Gaussian followed by maps, in their order."""

    base: DiagonalGaussian
    maps: Sequence[Map]

    @property
    def mean(self) -> Tensor:
        """Of the base, ``(N, D)``."""
        return self.base.mean

    @property
    def log_variance(self) -> Tensor:
        """Of the base, ``(N, D)``."""
        return self.base.log_variance

    def draw(self, noise: Tensor) -> Draw:
        """As `Posterior.draw`."""
        latent, log_density = self.base.draw(noise)
        for turn in self.maps:
            latent, log_determinant = turn(latent)
            log_density = log_density - log_determinant
        return Draw(latent, log_density)

    def center(self) -> Tensor:
        """The image of the base's mean under the flow, ``(N, D)``; neither mean nor mode of what is drawn."""
        latent = self.base.mean
        for turn in self.maps:
            latent, _ = turn(latent)
        return latent

    def rate(self) -> None:
        """There is no closed form: log q - log p over draws estimates it."""


def planar(latent: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""``z + u' tanh(w^T z + b)`` (Rezende and Mohamed, 2015, equations 10 to 12); u, w ``(N, D)``, b ``(N,)``.

    It is invertible where w^T u' > -1. So u is moved along w until w^T u' = softplus(w^T u) - 1 (their appendix A.1).
    """
    product = (w * u).sum(-1, keepdim=True)
    squared = w.square().sum(-1, keepdim=True)
    u = u + (F.softplus(product) - 1 - product) * w / squared.clamp_min(_tiny(w))
    bent = torch.tanh((latent * w).sum(-1) + b)
    # 1 + w^T u' tanh' with tanh' = 1 - tanh^2, as a sum of what is positive: near the constraint's limit the difference
    # would have no digits left.
    stretch = bent.square() + F.softplus(product).squeeze(-1) * (1 - bent.square())
    log_determinant = torch.where(
        squared.squeeze(-1) > 0, stretch.clamp_min(_tiny(w)).log(), 0.0
    )  # w = 0: z + constant
    return latent + u * bent.unsqueeze(-1), log_determinant


def radial(latent: Tensor, center: Tensor, raw_alpha: Tensor, raw_beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""``z + beta (z - center) / (alpha + r)``, r = |z - center| (Rezende and Mohamed, 2015, equation 14); center
    ``(N, D)``, the others ``(N,)``.

    alpha = softplus(raw) > 0, and beta = softplus(raw) - alpha > -alpha, which makes it invertible (appendix A.2).
    """
    alpha, room = F.softplus(raw_alpha) + _tiny(latent), F.softplus(raw_beta)
    beta = room - alpha
    shift = latent - center
    # The norm has no gradient at 0, where it is not needed either: the smallest number under the root gives it one.
    radius = (shift.square().sum(-1) + _tiny(latent)).sqrt()
    # 1 + beta / (alpha + r) across the radius and 1 + alpha beta / (alpha + r)^2 along it, with what is positive only.
    whole = (alpha + radius).log()
    across = (radius + room).log() - whole
    along = (radius * (radius + 2 * alpha) + alpha * room).log() - 2 * whole
    moved = latent + (beta / (alpha + radius)).unsqueeze(-1) * shift
    return moved, (latent.shape[-1] - 1) * across + along


def sylvester(
    latent: Tensor, rotate: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], raw: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    r"""``z + Q R tanh(S Q^T z + b)`` (van den Berg et al., 2018, equations 9, 10 and 13).

    Q ``(D, M)`` has orthonormal columns, R and S are upper triangular ``(M, M)``. Then
    ``log |det| = sum log(1 + tanh'_m R_mm S_mm)``, and the map is invertible where R_mm S_mm > -1 (theorem 2): both
    diagonals are a little less than 1 times tanh of something.

    Args:
        latent: ``(..., N, D)``.
        rotate: Q^T, ``(..., N, D) -> (..., N, M)``.
        back: Q, ``(..., N, M) -> (..., N, D)``.
        raw: ``(N, M, M + 1)``. Of its first M columns the upper triangle is R, and what is below its diagonal is S,
            transposed; the last column is the diagonal of S. (As in the authors' code.)
        b: ``(N, M)``.
    """
    square, last = raw[..., :-1], raw[..., -1]
    # tanh alone rounds to 1, where the map would fold.
    diagonal_r = _LARGEST * square.diagonal(dim1=-2, dim2=-1).tanh()
    diagonal_s = _LARGEST * last.tanh()
    r = torch.triu(square, 1) + torch.diag_embed(diagonal_r)
    s = torch.triu(square.mT, 1) + torch.diag_embed(diagonal_s)
    bent = torch.tanh(times(s, rotate(latent)) + b)
    moved = back(times(r, bent))
    log_determinant = torch.log1p((1 - bent.square()) * (diagonal_r * diagonal_s)).sum(-1)
    return latent + moved, log_determinant


_LARGEST = 1 - 2**-10


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices ``(N, I, J)`` times vectors ``(..., N, J)``, without a copy of them for each of many draws."""
    product: Tensor = torch.einsum("nij,...nj->...ni", matrix, vector)
    return product


def orthonormal(raw: Tensor, *, iterations: int | None = None) -> Tensor:
    r"""The matrix with orthonormal columns that is nearest to ``raw`` ``(..., D, M)``, M at most D.

    .. math:: Q_{k+1} = Q_k \left(I + \tfrac12 (I - Q_k^\top Q_k)\right)

    Björck and Bowie (1971), as in van den Berg et al. (2018), equation 15. Divided by its Frobenius norm the matrix has
    no singular value above 1, and so it converges: each grows by half of itself until it is near 1, and then its
    distance from 1 is squared in each step. It stops where no entry changes any more, or after ``iterations``, which a
    graph needs to know beforehand; 1.5^40 = 10^7.
    """
    q: Tensor = raw / torch.linalg.matrix_norm(raw).clamp_min(_tiny(raw))[..., None, None]
    identity = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
    for _ in range(_MOST_ITERATIONS if iterations is None else iterations):
        defect = identity - q.mT @ q
        if iterations is None and float(defect.detach().abs().amax()) < 4 * torch.finfo(raw.dtype).eps:
            break
        q = q + 0.5 * (q @ defect)
    return q


_MOST_ITERATIONS = 200


def reflect(vector: Tensor, normals: Tensor) -> Tensor:
    """Householder reflections one after the other: ``v - 2 n (n^T v) / |n|^2``; normals ``(N, H, D)``.

    Backwards, ``normals.flip(-2)``, it undoes itself.
    """
    for index in range(normals.shape[-2]):
        normal = normals[..., index, :]
        squared = normal.square().sum(-1, keepdim=True).clamp_min(_tiny(normal))
        vector = vector - 2 * normal * ((vector * normal).sum(-1, keepdim=True) / squared)
    return vector


def _tiny(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).tiny)
