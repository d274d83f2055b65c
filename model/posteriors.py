"""q(z|x): what the encoder says of the latent that made an image."""

import math
from typing import NamedTuple

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


class DiagonalGaussian(NamedTuple):
    """N(mean, diag exp(log_variance)); both ``(N, D)``, log_variance is log sigma^2."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> "DiagonalGaussian":
        """Split an encoder's output ``(N, 2 D)`` into the mean and the softly bounded log_variance."""
        mean, raw_log_variance = raw.chunk(2, dim=-1)
        return cls(mean, soft_bound(raw_log_variance))

    def reparameterize(self, noise: Tensor) -> Tensor:
        """Latents ``mean + sigma * noise`` for standard normal noise ``(..., N, D)`` (Kingma and Welling, 2014, section
        2.4)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def log_density(self, latent: Tensor) -> Tensor:
        """log q(z|x) ``(..., N)`` in nats at latents ``(..., N, D)``."""
        squared = (latent - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (squared + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) of each dimension, ``(N, D)`` nats, in closed form."""
        return kl_to_standard_normal(self.mean, self.log_variance)


def standard_normal_log_density(latent: Tensor) -> Tensor:
    """log N(z; 0, I) ``(...)`` in nats at latents ``(..., D)``: the prior."""
    return -0.5 * (latent.square() + math.log(2 * math.pi)).sum(-1)
