r"""p(z): what latents are before any image was seen.

The standard normal, and the VampPrior (Tomczak and Welling, 2018, "VAE with a VampPrior"): a mixture of the posteriors
of K images that nobody took, the pseudo-inputs :math:`u_k`, which are learned as weights are.

.. math:: p(z) = \frac1K \sum_{k=1}^K q(z|u_k)

For the ELBO averaged over data the best prior is the aggregate posterior, the same mixture over all N training images.
This is what can be afforded of it, and K much smaller than N keeps it from learning these by heart.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from model.posteriors import DiagonalGaussian, Posterior, standard_normal_log_density

# Pixels that are black or white start this far from it. The slope of the sigmoid is the distance, about, and zero at
# the ends themselves.
_INSIDE = 0.01
# Of a fresh pseudo-input, before the sigmoid: those that start at one image have to become different.
_SPREAD = 0.1
# How many densities of components are held at a time: 8 MB in float64.
_AT_A_TIME = 1 << 20


class StandardNormalSettings(BaseModel):
    """N(0, I)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["standard-normal"] = "standard-normal"


class VampSettings(BaseModel):
    """The mixture of the posteriors of pseudo-inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["vamp"]
    components: int = Field(500, gt=0, le=10_000, description="K, the pseudo-inputs")
    start: Literal["mean", "images"] = Field(
        "mean", description="of the pseudo-inputs: near the mean of the training images, or at so many of them"
    )


PriorSettings = StandardNormalSettings | VampSettings


class Prior(Protocol):
    """p(z) over D dimensions."""

    def log_density(self, latent: Tensor) -> Tensor:
        """log p(z) ``(...)`` in nats at latents ``(..., D)``, differentiable in them."""
        ...

    def sample(self, count: int, generator: Generator) -> Tensor:
        """Latents ``(count, D)``, without gradient, on the generator's device."""
        ...

    def rate(self, posterior: Posterior) -> Tensor | None:
        """KL(q(z|x) || p(z)) ``(N,)`` in nats, where it has a closed form."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I)."""

    dimension: int

    def log_density(self, latent: Tensor) -> Tensor:
        """As `Prior.log_density`."""
        return standard_normal_log_density(latent)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """As `Prior.sample`."""
        return torch.randn(count, self.dimension, generator=generator, device=generator.device)

    def rate(self, posterior: Posterior) -> Tensor | None:
        """As `Prior.rate`."""
        return posterior.rate()


class Mixture(NamedTuple):
    """K diagonal Gaussians of the same weight; mean and log_variance ``(K, D)``, log_variance is log sigma^2."""

    mean: Tensor
    log_variance: Tensor

    def log_density(self, latent: Tensor) -> Tensor:
        r"""As `Prior.log_density`, differentiable in the components too.

        .. math:: \log p(z) = \log \sum_k \exp\Big(c_k + \sum_d \tfrac{\mu_{kd}}{\sigma_{kd}^2} z_d
                  - \tfrac12 \sum_d \tfrac{1}{\sigma_{kd}^2} z_d^2\Big), \qquad
                  c_k = -\log K - \tfrac12 \sum_d \Big(\tfrac{\mu_{kd}^2}{\sigma_{kd}^2} + \log 2 \pi \sigma_{kd}^2\Big)

        With the square written out, both sums are products of matrices: differences of all latents to all means would
        be D times the memory. What cancels between the terms cancels in float64.
        """
        count, dimension = self.mean.shape
        mean, log_variance = self.mean.double(), self.log_variance.double()
        precision = (-log_variance).exp()
        constant = (mean.square() * precision + log_variance).sum(-1) + dimension * math.log(2 * math.pi)
        constant = -0.5 * constant - math.log(count)
        pieces = [
            (constant + piece @ (mean * precision).T - 0.5 * piece.square() @ precision.T).logsumexp(-1)
            for piece in torch.split(latent.double().reshape(-1, dimension), max(1, _AT_A_TIME // count))
        ]
        density: Tensor = torch.cat(pieces).reshape(latent.shape[:-1])
        return density.to(latent.dtype)

    @torch.no_grad()
    def sample(self, count: int, generator: Generator) -> Tensor:
        """As `Prior.sample`."""
        shape = count, self.mean.shape[1]
        which = torch.randint(len(self.mean), (count,), generator=generator, device=generator.device)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=self.mean.dtype)
        return self.mean[which] + (0.5 * self.log_variance[which]).exp() * noise

    def rate(self, posterior: Posterior) -> None:
        """As `Prior.rate`: there is no closed form."""
        return


class PseudoInputs(nn.Module):
    """K images ``(K, C, H, W)`` in (0, 1), which are learned.

    Their pixels are ``sigmoid(raw)``. The authors' hardtanh has no gradient where a pixel has left [0, 1], and such a
    pixel never comes back; the sigmoid's is small near the ends and zero nowhere, and Adam, which divides a parameter's
    step by the size of its gradients, makes up for small ones.
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.raw = nn.Parameter(_SPREAD * torch.randn(count, *shape))

    @torch.no_grad()
    def start_at(self, images: Tensor) -> None:
        """Let them begin at images ``(K, C, H, W)`` in [0, 1], or all near one ``(1, C, H, W)``.

        Raises:
            ValueError: neither as many as there are, nor one.
        """
        if images.shape[0] not in (1, len(self.raw)):
            raise ValueError(f"{len(self.raw)} pseudo-inputs cannot start at {len(images)} images")
        self.raw.add_(images.to(self.raw).clamp(_INSIDE, 1 - _INSIDE).logit())

    def forward(self) -> Tensor:
        """The images ``(K, C, H, W)``."""
        return torch.sigmoid(self.raw)


def check_posterior(prior: PriorSettings, posterior: str) -> None:
    """Raises ValueError for a prior that goes not with this kind of posterior.

    A mixture of posteriors needs the density of each at latents that others drew. Flows know that of their own draws
    only, and K full covariances would be K triangles to solve for every latent: what is here is the paper's case.
    """
    if isinstance(prior, VampSettings) and posterior != "diagonal":
        raise ValueError(
            "model.prior.kind = 'vamp' mixes posteriors whose density is known at any latent, which are the diagonal "
            f"Gaussians: model.posterior.kind is '{posterior}'"
        )


def mixture(posterior: Posterior) -> Mixture:
    """The posteriors of N images as components of the same weight.

    Raises:
        TypeError: they are no diagonal Gaussians.
    """
    if not isinstance(posterior, DiagonalGaussian):
        raise TypeError("a mixture of posteriors is defined for diagonal Gaussians only")
    return Mixture(posterior.mean, posterior.log_variance)
