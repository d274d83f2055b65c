"""Gaussian posteriors: diagonal, and with a full covariance; and what every posterior is asked for."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.divergences import kl_to_standard_normal

# log sigma^2 stays inside (-LIMIT, LIMIT): sigma between 0.0009 and 1100. Beyond these no model of images has a use for
# it, and exp() would lose its gradient or overflow.
LOG_VARIANCE_LIMIT = 14.0


def soft_bound(raw: Tensor, limit: float = LOG_VARIANCE_LIMIT) -> Tensor:
    """Squash into (-limit, limit) with ``limit * tanh(raw / limit)``: near the identity around 0.

    A hard clamp has gradient zero outside its range: a value that once left it never comes back. Here the gradient
    shrinks, and is zero only where float32 rounds tanh to 1, at nine times the limit: no network starts there.

    >>> [round(value, 3) for value in soft_bound(torch.tensor([0.0, 1.0, 1e6])).tolist()]
    [0.0, 0.998, 14.0]
    """
    return limit * torch.tanh(raw / limit)


class Draw(NamedTuple):
    """Latents ``(..., N, D)`` with their log density log q(z|x) ``(..., N)`` in nats."""

    latent: Tensor
    log_density: Tensor


class Posterior(Protocol):
    """q(z|x) of N images."""

    @property
    def mean(self) -> Tensor:
        """Of the Gaussian that draws start from, ``(N, D)``."""
        ...

    @property
    def log_variance(self) -> Tensor:
        """log sigma^2 of each of its dimensions, ``(N, D)``."""
        ...

    def draw(self, noise: Tensor) -> Draw:
        """The latents that standard normal noise ``(..., N, D)`` becomes; differentiable in all parameters."""
        ...

    def center(self) -> Tensor:
        """The one latent that stands for each image, ``(N, D)``: what the mean becomes."""
        ...

    def rate(self) -> Tensor | None:
        """KL(q || N(0, I)) ``(N,)`` in nats where it has a closed form."""
        ...


class DiagonalGaussian(NamedTuple):
    """N(mean, diag exp(log_variance)); both ``(N, D)``, log_variance is log sigma^2."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> "DiagonalGaussian":
        """Split an encoder's output ``(N, 2 D)`` into the mean and the softly bounded log_variance."""
        return cls.bounded(*raw.chunk(2, dim=-1))

    @classmethod
    def bounded(cls, mean: Tensor, raw_log_variance: Tensor) -> "DiagonalGaussian":
        """With the log_variance softly bounded; both ``(N, D)``."""
        return cls(mean, soft_bound(raw_log_variance))

    def reparameterize(self, noise: Tensor) -> Tensor:
        """Latents ``mean + sigma * noise`` for standard normal noise ``(..., N, D)`` (Kingma and Welling, 2014, section
        2.4)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def draw(self, noise: Tensor) -> Draw:
        """As `Posterior.draw`."""
        latent = self.reparameterize(noise)
        return Draw(latent, standard_normal_log_density(noise) - 0.5 * self.log_variance.sum(-1))

    def noise(self, latent: Tensor) -> Tensor:
        """The noise ``(..., N, D)`` that becomes these latents: the inverse of `draw`."""
        return (latent - self.mean) * (-0.5 * self.log_variance).exp()

    def center(self) -> Tensor:
        """The mean."""
        return self.mean

    def rate(self) -> Tensor:
        """KL(q || N(0, I)) ``(N,)``: the sum of `kl`."""
        return self.kl().sum(-1)

    def log_density(self, latent: Tensor) -> Tensor:
        """log q(z|x) ``(..., N)`` in nats at latents ``(..., N, D)``."""
        squared = (latent - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (squared + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) of each dimension, ``(N, D)`` nats, in closed form."""
        return kl_to_standard_normal(self.mean, self.log_variance)


class FullGaussian(NamedTuple):
    """N(mean, L L^T), the factor L ``(N, D, D)`` lower triangular with a positive diagonal; mean ``(N, D)``."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, base: DiagonalGaussian, below: Tensor) -> "FullGaussian":
        """The diagonal of L is sigma of the base; what is below of it comes row by row, ``(N, D (D - 1) / 2)``."""
        diagonal = torch.diag_embed((0.5 * base.log_variance).exp())
        return cls(base.mean, diagonal + strictly_lower(below, base.mean.shape[-1]))

    @property
    def log_variance(self) -> Tensor:
        """log of the diagonal of L L^T, ``(N, D)``: of each latent dimension by itself."""
        return self.factor.square().sum(-1).log()

    def draw(self, noise: Tensor) -> Draw:
        """``mean + L noise``, as `Posterior.draw`."""
        latent = self.mean + torch.einsum("nij,...nj->...ni", self.factor, noise)
        return Draw(latent, standard_normal_log_density(noise) - self._log_determinant())

    def noise(self, latent: Tensor) -> Tensor:
        """The noise ``(..., N, D)`` that becomes these latents: the inverse of `draw`."""
        shift = (latent - self.mean).unsqueeze(-1)
        noise: Tensor = torch.linalg.solve_triangular(self.factor, shift, upper=False).squeeze(-1)
        return noise

    def center(self) -> Tensor:
        """The mean."""
        return self.mean

    def rate(self) -> Tensor:
        """KL(q || N(0, I)) ``(N,)``: `model.divergences.kl_between_gaussians`, simplified."""
        squares = self.mean.square().sum(-1) + self.factor.square().sum((-2, -1))
        return 0.5 * (squares - self.mean.shape[-1]) - self._log_determinant()

    def log_density(self, latent: Tensor) -> Tensor:
        """log q(z|x) ``(..., N)`` in nats at latents ``(..., N, D)``."""
        return standard_normal_log_density(self.noise(latent)) - self._log_determinant()

    def _log_determinant(self) -> Tensor:
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def strictly_lower(entries: Tensor, size: int) -> Tensor:
    """A matrix ``(..., size, size)`` with these ``(..., size (size - 1) / 2)`` below its diagonal, row by row, else 0.

    >>> strictly_lower(torch.tensor([1.0, 2.0, 3.0]), 3).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 3.0, 0.0]]
    """
    # A look-up in the entries and one more, which is 0: a graph of it has no scattered writes.
    rows, columns = torch.tril_indices(size, size, -1, device=entries.device)
    where = torch.full((size, size), entries.shape[-1], device=entries.device)
    where[rows, columns] = torch.arange(entries.shape[-1], device=entries.device)
    padded = torch.cat([entries, entries.new_zeros(*entries.shape[:-1], 1)], -1)
    matrix: Tensor = padded[..., where.flatten()].reshape(*entries.shape[:-1], size, size)
    return matrix


def standard_normal_log_density(latent: Tensor) -> Tensor:
    """log N(z; 0, I) ``(...)`` in nats at latents ``(..., D)``: the prior."""
    return -0.5 * (latent.square() + math.log(2 * math.pi)).sum(-1)
