r"""The VAE that can be solved: a linear decoder, a Gaussian likelihood of one scale.

.. math:: z \sim \mathcal N(0, I), \quad x|z \sim \mathcal N(Wz + b, s^2 I) \qquad\Rightarrow\qquad
          x \sim \mathcal N(b, W W^\top + s^2 I)

This is probabilistic principal component analysis (Tipping and Bishop, 1999, "Probabilistic principal component
analysis"). Evidence, posterior, every ELBO and the best parameters are known in closed form, so it is what estimates of
the same quantities are held against. All inverses are of D x D matrices.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.posteriors import DiagonalGaussian

_LOG_TWO_PI = math.log(2 * math.pi)


class LinearGaussian(NamedTuple):
    """p(z) p(x|z) for images of P pixels, flat, and D latent dimensions."""

    loadings: Tensor
    """W, ``(P, D)``."""
    offset: Tensor
    """b, ``(P,)``."""
    log_variance: Tensor
    """log s^2, a scalar."""

    def log_likelihood(self, images: Tensor, latents: Tensor) -> Tensor:
        """log p(x|z) of images ``(N, P)`` at latents ``(..., N, D)``: ``(..., N)`` nats."""
        residual = images - self.offset - latents @ self.loadings.T
        pixels = self.loadings.shape[0]
        return -0.5 * (residual.square().sum(-1) / self.log_variance.exp() + pixels * (self.log_variance + _LOG_TWO_PI))

    def log_evidence(self, images: Tensor) -> Tensor:
        r"""log p(x) of images ``(N, P)``: ``(N,)`` nats.

        With :math:`M = W^\top W + s^2 I`, the covariance has the determinant :math:`s^{2(P - D)} \det M` and the
        inverse :math:`(I - W M^{-1} W^\top) / s^2`.
        """
        pixels, dimensions = self.loadings.shape
        factor = self._factor()
        centered = images - self.offset
        explained = torch.linalg.solve_triangular(factor, (centered @ self.loadings).T, upper=False)
        squared = (centered.square().sum(-1) - explained.square().sum(0)) / self.log_variance.exp()
        log_determinant = (pixels - dimensions) * self.log_variance + 2 * factor.diagonal().log().sum()
        evidence: Tensor = -0.5 * (squared + log_determinant + pixels * _LOG_TWO_PI)
        return evidence

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        r"""p(z|x) of images ``(N, P)``: the means ``(N, D)`` :math:`M^{-1} W^\top (x - b)`, and the covariance
        ``(D, D)`` :math:`s^2 M^{-1}`, which is that of every image."""
        inverse = torch.cholesky_inverse(self._factor())
        return (images - self.offset) @ self.loadings @ inverse, self.log_variance.exp() * inverse

    def elbo(self, images: Tensor, q: DiagonalGaussian) -> Tensor:
        r"""ELBO of images ``(N, P)`` under q, mean and log_variance ``(N, D)``: ``(N,)`` nats, without sampling.

        .. math:: \mathbb E_q |x - b - Wz|^2 = |x - b - W\mu|^2 + \sum_d \sigma_d^2 |W_d|^2
        """
        spread = (q.log_variance.exp() * self.loadings.square().sum(0)).sum(-1)
        return self.log_likelihood(images, q.mean) - 0.5 * spread / self.log_variance.exp() - q.kl().sum(-1)

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images ``(count, P)`` and the latents ``(count, D)`` that made them."""
        pixels, dimensions = self.loadings.shape
        device, dtype = self.loadings.device, self.loadings.dtype
        latents = torch.randn(count, dimensions, generator=generator, device=device, dtype=dtype)
        noise = torch.randn(count, pixels, generator=generator, device=device, dtype=dtype)
        return self.offset + latents @ self.loadings.T + (0.5 * self.log_variance).exp() * noise, latents

    def _factor(self) -> Tensor:
        """The Cholesky factor of M, ``(D, D)``."""
        dimensions = self.loadings.shape[1]
        identity = torch.eye(dimensions, dtype=self.loadings.dtype, device=self.loadings.device)
        factor: Tensor = torch.linalg.cholesky(self.loadings.T @ self.loadings + self.log_variance.exp() * identity)
        return factor


def probabilistic_pca(images: Tensor, latent_dim: int) -> LinearGaussian:
    r"""The maximum-likelihood model of images ``(N, P)``.

    .. math:: b = \bar x, \qquad s^2 = \frac1{P - D} \sum_{j > D} \lambda_j, \qquad W = U_D (\Lambda_D - s^2 I)^{1/2}

    with the eigenvalues :math:`\lambda_1 \ge \lambda_2 \ge \dots` and eigenvectors U of the covariance of the images
    (Tipping and Bishop, 1999, equations 7 and 8). W is unique up to a rotation of the latents; this one makes the
    posterior's covariance diagonal. Combinations of other eigenvectors are saddle points (their appendix A).

    Raises:
        ValueError: not ``0 < latent_dim < P``, or nothing is left over for the noise: the density has no maximum.
    """
    pixels = images.shape[1]
    if not 0 < latent_dim < pixels:
        raise ValueError(f"of {pixels} pixels there are 1 to {pixels - 1} latent dimensions, not {latent_dim}")
    eigenvalues, vectors = _spectrum(images)
    variance = eigenvalues[latent_dim:].mean()
    if variance <= eigenvalues[0] * torch.finfo(images.dtype).eps * pixels:
        raise ValueError(f"{latent_dim} dimensions explain these images wholly: there is no noise, and no maximum")
    scales = (eigenvalues[:latent_dim] - variance).clamp(min=0).sqrt()
    return LinearGaussian(vectors[:, :latent_dim] * scales, images.mean(0), variance.log())


def maximum_log_likelihood(images: Tensor, latent_dim: int) -> Tensor:
    r"""What :func:`probabilistic_pca` reaches, by eigenvalues: a scalar, nats per image, mean over images ``(N, P)``.

    .. math:: -\tfrac12 \Big( \sum_{j \le D} \log \lambda_j + (P - D) \log s^2 + P + P \log 2\pi \Big)

    (Tipping and Bishop, 1999, equation 4 at the maximum, as in their appendix A.)
    """
    pixels = images.shape[1]
    eigenvalues, _ = _spectrum(images)
    noise = (pixels - latent_dim) * eigenvalues[latent_dim:].mean().log()
    return -0.5 * (eigenvalues[:latent_dim].log().sum() + noise + pixels * (1 + _LOG_TWO_PI))


def _spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(P,)``, largest first, and eigenvectors ``(P, P)`` as columns, of the maximum-likelihood covariance
    (divided by N)."""
    centered = images - images.mean(0)
    eigenvalues, vectors = torch.linalg.eigh(centered.T @ centered / len(images))
    return eigenvalues.flip(0), vectors.flip(1)
