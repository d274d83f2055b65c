r"""A variational autoencoder (Kingma and Welling, 2014): encoder, posterior, decoder, likelihood.

::

    image x (N, C, H, W)                                             noise e (N, D) ~ N(0, I)
        │ encoder                                                        │
        ▼                                                                ▼
    raw (N, P) ── posterior family ──────────► q(z|x) ── draw ──► latent z (N, D), log q(z|x) (N,)
                                                    │                            │ decoder
                                                    │ closed form, or log q - log p
                                                    │                            ▼
                                                    │                     parameters (N, C', H, W)
                                                    │                            │ likelihood.log_prob(., x)
                                                    ▼                            ▼
                                             rate (N,) nats  +  distortion (N,) nats  =  -ELBO (N,)

The prior p(z) is N(0, I), or a mixture of the posteriors of learned images that the same encoder gives. Noise is an
argument: the caller owns the seed.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from model.likelihoods import LikelihoodSettings, build_likelihood
from model.networks.build import NetworkSettings, build_networks
from model.networks.mlp import MLPSettings, start_at
from model.posteriors import Posterior
from model.posteriors.families import DiagonalSettings, PosteriorSettings, build_family, check_dimension
from model.priors import (
    Mixture,
    Prior,
    PriorSettings,
    PseudoInputs,
    StandardNormal,
    StandardNormalSettings,
    VampSettings,
    check_posterior,
    mixture,
)


class Architecture(BaseModel):
    """Everything about a VAE but the shape of its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    latent_dim: int = Field(gt=0, le=4096)
    network: Annotated[NetworkSettings, Field(discriminator="kind")]
    prior: Annotated[PriorSettings, Field(discriminator="kind")] = StandardNormalSettings()
    posterior: Annotated[PosteriorSettings, Field(discriminator="kind")] = DiagonalSettings()
    likelihood: Annotated[LikelihoodSettings, Field(discriminator="family")]

    @model_validator(mode="after")
    def _posterior_fits_the_latent(self) -> "Architecture":
        check_dimension(self.posterior, self.latent_dim)
        return self

    @model_validator(mode="after")
    def _prior_fits_the_posterior(self) -> "Architecture":
        check_posterior(self.prior, self.posterior.kind)
        return self


class ELBO(NamedTuple):
    """The two halves of the evidence lower bound, per image, in nats: ``-ELBO = distortion + rate``."""

    distortion: Tensor
    rate: Tensor

    @property
    def negative(self) -> Tensor:
        """-ELBO ``(N,)``: in expectation over the noise, an upper bound on -log p(x)."""
        return self.distortion + self.rate


class VAE(nn.Module):
    """The model; ``shape`` is (channels, height, width) of its images."""

    def __init__(self, architecture: Architecture, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.architecture = architecture
        self.shape = shape
        dimension = architecture.latent_dim
        self.family = build_family(architecture.posterior, dimension)
        parameters = (architecture.likelihood.channels(shape[0]), *shape[1:])
        self.encoder, self.decoder = build_networks(
            architecture.network, shape, self.family.outputs, dimension, parameters
        )
        self.likelihood = build_likelihood(architecture.likelihood, shape[0])
        self.pseudo_inputs: PseudoInputs | None = None
        match architecture.prior:
            case VampSettings(components=components):
                self.pseudo_inputs = PseudoInputs(components, shape)

    def start_at(self, mean_image: Tensor) -> None:
        """Let a fresh decoder begin at the mean of the training images, ``(C, H, W)`` in [0, 1].

        Fully connected decoders have a bias for every pixel, and do; convolutions share theirs among all pixels, and
        stay as they are.
        """
        match self.architecture.network, self.decoder:
            case MLPSettings(), nn.Sequential() as decoder:
                start_at(decoder, self.likelihood.parameters_for(mean_image))

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.architecture.latent_dim

    def posterior(self, images: Tensor, *, autocast: bool = False) -> Posterior:
        """q(z|x) of images ``(N, C, H, W)`` in [0, 1].

        With ``autocast`` the encoder runs in bfloat16; what is made of its output is float32, since exp() follows.
        """
        with self._autocast(images, enabled=autocast):
            raw: Tensor = self.encoder(images)
        posterior: Posterior = self.family(raw.float())
        return posterior

    def prior(self, *, autocast: bool = False, at_a_time: int | None = None) -> Prior:
        """p(z). That of pseudo-inputs changes with every weight of the encoder: who needs it twice keeps it.

        Args:
            autocast: as of `posterior`.
            at_a_time: how many pseudo-inputs are encoded at a time; absent: all.
        """
        if self.pseudo_inputs is None:
            return StandardNormal(self.latent_dim)
        images = self.pseudo_inputs()
        pieces = torch.split(images, at_a_time or len(images))
        parts = [mixture(self.posterior(piece, autocast=autocast)) for piece in pieces]
        return Mixture(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def decode(self, latents: Tensor) -> Tensor:
        """The likelihood's parameters ``(N, C', H, W)``, float32, for latents ``(N, D)``."""
        parameters: Tensor = self.decoder(latents)
        return parameters.float()

    def mean_image(self, latents: Tensor) -> Tensor:
        """E[x|z], ``(N, C, H, W)`` in [0, 1]: what decoder.onnx computes."""
        return self.likelihood.mean(self.decode(latents))

    def elbo(self, images: Tensor, noise: Tensor, *, autocast: bool = False) -> ELBO:
        """One-sample estimate of both halves for images ``(N, C, H, W)`` and noise ``(N, D)``. The rate is in closed
        form where there is one, else log q(z|x) - log p(z) of the same sample.

        With ``autocast`` the networks run in bfloat16; posteriors, densities and divergences are float32 in any case.
        """
        posterior, prior = self.posterior(images, autocast=autocast), self.prior(autocast=autocast)
        latent, log_density = posterior.draw(noise)
        with self._autocast(images, enabled=autocast):
            parameters = self.decode(latent)
        rate = prior.rate(posterior)
        if rate is None:
            rate = log_density - prior.log_density(latent)
        return ELBO(distortion=-self.likelihood.log_prob(parameters, images), rate=rate)

    @staticmethod
    def _autocast(images: Tensor, *, enabled: bool) -> torch.autocast:
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled)
