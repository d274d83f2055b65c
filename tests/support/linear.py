"""A linear Gaussian VAE in float64, each of whose images has a posterior of its own: for laws of gradients.

x ~ N(W z + b, s^2 I) with orthogonal columns of W: the true posterior is a diagonal Gaussian, and the ELBO of any
diagonal Gaussian is known in closed form. The gradient of an image's bound is that of its own parameters alone, so that
the same image many times in a batch gives as many independent draws of one gradient.
"""

import math

import torch
from torch import Generator, Tensor, nn

from model.likelihoods import Gaussian
from model.posteriors import DiagonalGaussian
from model.vae import VAE, Architecture

SHAPE, LATENTS, SCALE = (1, 2, 4), 2, 0.5
PIXELS = math.prod(SHAPE)


class Unsquashed(Gaussian):
    """A Gaussian likelihood whose mean is the decoder's output itself."""

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters


class LinearVAE(VAE):
    """``mean`` and ``log_variance`` ``(N, D)`` are the posteriors of images ``(N, 1, 2, 4)``, whatever these are."""

    def __init__(self) -> None:
        network = {"kind": "mlp", "hidden": [1]}
        likelihood = {"family": "gaussian", "scale": SCALE}
        architecture = {"latent_dim": LATENTS, "network": network, "likelihood": likelihood}
        super().__init__(Architecture.model_validate(architecture), SHAPE)
        basis, _ = torch.linalg.qr(torch.randn(PIXELS, LATENTS, generator=Generator().manual_seed(7)).double())
        linear = nn.Linear(LATENTS, PIXELS).double()
        with torch.no_grad():
            linear.weight.copy_(basis * torch.tensor([1.5, 0.4]))
        self.decoder = linear
        self.likelihood = Unsquashed(SCALE)
        self.likelihood.log_scale = torch.tensor(math.log(SCALE), dtype=torch.float64)
        self.mean, self.log_variance = torch.empty(0), torch.empty(0)

    def posterior(self, images: Tensor, *, autocast: bool = False) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_variance)

    def decode(self, latents: Tensor) -> Tensor:
        means: Tensor = self.decoder(latents)
        return torch.unflatten(means, -1, SHAPE)

    def set_posterior(self, images: Tensor, *, shift: float = 0.0, widening: float = 0.0) -> None:
        """The true posteriors of these images, spoiled as told; leaves that collect gradients."""
        mean, log_variance = self.true_posterior(images)
        self.mean = (mean + shift).requires_grad_()
        self.log_variance = (log_variance + widening).requires_grad_()

    def true_posterior(self, images: Tensor) -> DiagonalGaussian:
        """p(z|x) in closed form."""
        weight, bias = self._linear()
        precision = 1 + weight.square().sum(0) / SCALE**2
        mean = (images.flatten(1) - bias) @ weight / SCALE**2 / precision
        return DiagonalGaussian(mean, (-precision.log()).expand_as(mean).clone())

    def exact_elbo(self, images: Tensor, posterior: DiagonalGaussian) -> Tensor:
        """``(N,)`` nats, without sampling: E|x - b - Wz|^2 = |x - b - W mu|^2 + sum_d sigma_d^2 |W_d|^2."""
        weight, bias = self._linear()
        residual = (images.flatten(1) - bias - posterior.mean @ weight.T).square().sum(1)
        spread = (posterior.log_variance.exp() * weight.square().sum(0)).sum(1)
        likelihood = -0.5 * (residual + spread) / SCALE**2 - PIXELS * (math.log(SCALE) + 0.5 * math.log(2 * math.pi))
        return likelihood - posterior.kl().sum(1)

    def draw_images(self, count: int, seed: int) -> Tensor:
        """Images of the model itself."""
        generator = Generator().manual_seed(seed)
        with torch.no_grad():
            clean = self.decode(torch.randn(count, LATENTS, generator=generator).double())
        return clean + SCALE * torch.randn(clean.shape, generator=generator)

    def _linear(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.decoder, nn.Linear)
        return self.decoder.weight.detach(), self.decoder.bias.detach()
