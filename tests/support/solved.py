"""A VAE around a linear Gaussian model: its evidence and its true posteriors, which have correlations, are known."""

import math

import torch
from torch import Generator, Tensor, nn

from model.likelihoods import Gaussian
from model.linear_gaussian import LinearGaussian
from model.posteriors import LOG_VARIANCE_LIMIT
from model.vae import VAE, Architecture

SHAPE, LATENTS, SCALE = (1, 2, 3), 3, 0.5
PIXELS = math.prod(SHAPE)


class Unsquashed(Gaussian):
    """A Gaussian likelihood whose mean is the decoder's output itself, so that the whole model is Gaussian."""

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters


class LinearDecoder(nn.Module):
    """offset + loadings z, as images; remembers the largest batch of latents that it saw."""

    def __init__(self, loadings: Tensor, offset: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.loadings, self.offset, self.shape = nn.Parameter(loadings), nn.Parameter(offset), shape
        self.largest_batch = 0

    def forward(self, latents: Tensor) -> Tensor:
        self.largest_batch = max(self.largest_batch, len(latents))
        return torch.unflatten(self.offset + latents @ self.loadings.T, 1, self.shape)


class NearPosterior(nn.Module):
    """The true posterior but for a shift, and for its correlations; further parameters of a family are 0."""

    def __init__(self, solved: LinearGaussian, shift: float, extra: int = 0) -> None:
        super().__init__()
        self.solved, self.shift, self.extra = solved, shift, extra

    def forward(self, images: Tensor) -> Tensor:
        mean, covariance = self.solved.posterior(images.flatten(1))
        bounded = covariance.diagonal().log() / LOG_VARIANCE_LIMIT
        raw_log_variance = LOG_VARIANCE_LIMIT * torch.atanh(bounded).expand_as(mean)
        return torch.cat([mean + self.shift, raw_log_variance, mean.new_zeros(len(mean), self.extra)], 1)


def build(likelihood: str = "gaussian", posterior: str = "diagonal") -> VAE:
    """A small VAE as it comes, with networks."""
    settings = {
        "latent_dim": LATENTS,
        "network": {"kind": "mlp", "hidden": [8]},
        "posterior": {"kind": posterior},
        "likelihood": {"family": likelihood} | ({"scale": SCALE} if likelihood == "gaussian" else {}),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(Architecture.model_validate(settings), SHAPE)


class LinearVAE:
    """A VAE around a linear Gaussian model, and the model itself."""

    def __init__(self, shift: float = 0.2, posterior: str = "diagonal") -> None:
        random = Generator().manual_seed(5)
        loadings = torch.randn(PIXELS, LATENTS, generator=random)
        self.solved = LinearGaussian(loadings, torch.randn(PIXELS, generator=random), torch.tensor(2 * math.log(SCALE)))
        self.decoder = LinearDecoder(loadings, self.solved.offset, SHAPE)
        self.vae = build(posterior=posterior)
        self.vae.encoder = NearPosterior(self.solved, shift, self.vae.family.extra)
        self.vae.decoder = self.decoder
        self.vae.likelihood = Unsquashed(SCALE)

    @property
    def exact(self) -> LinearGaussian:
        """The model in float64."""
        return LinearGaussian(*(part.double() for part in self.solved))

    def evidence(self, images: Tensor) -> Tensor:
        """log p(x), ``(N,)`` nats, in closed form."""
        return self.exact.log_evidence(images.flatten(1).double())
