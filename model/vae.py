r"""A variational autoencoder (Kingma and Welling, 2014): encoder, posterior, decoder, likelihood.

::

    image x (N, C, H, W)                                             noise e (N, D) ~ N(0, I)
        │ encoder                                                        │
        ▼                                                                ▼
    raw (N, 2 D) ── DiagonalGaussian.from_raw ──► q(z|x) ── reparameterize ──► latent z (N, D)
                                                    │                            │ decoder
                                                    │ kl                         ▼
                                                    │                     parameters (N, C, H, W)
                                                    │                            │ likelihood.log_prob(., x)
                                                    ▼                            ▼
                                             rate (N,) nats  +  distortion (N,) nats  =  -ELBO (N,)

The prior is N(0, I). Noise is an argument: the caller owns the seed.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from model.likelihoods import LikelihoodSettings, build_likelihood
from model.networks.conv import ConvSettings, conv_decoder, conv_encoder
from model.networks.mlp import MLPSettings, mlp_decoder, mlp_encoder, start_at_mean_image
from model.posteriors import DiagonalGaussian


class Architecture(BaseModel):
    """Everything about a VAE but the shape of its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    latent_dim: int = Field(gt=0, le=4096)
    network: Annotated[MLPSettings | ConvSettings, Field(discriminator="kind")]
    likelihood: Annotated[LikelihoodSettings, Field(discriminator="family")]


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
        self.encoder: nn.Module
        self.decoder: nn.Module
        dimension = architecture.latent_dim
        match architecture.network:
            case MLPSettings() as settings:
                self.encoder, self.decoder = (
                    mlp_encoder(settings, shape, 2 * dimension),
                    mlp_decoder(settings, shape, dimension),
                )
            case ConvSettings() as settings:
                self.encoder, self.decoder = (
                    conv_encoder(settings, shape, 2 * dimension),
                    conv_decoder(settings, shape, dimension),
                )
        self.likelihood = build_likelihood(architecture.likelihood)

    def start_at(self, mean_image: Tensor) -> None:
        """Let a fresh decoder begin at the mean of the training images, ``(C, H, W)`` in [0, 1].

        Fully connected decoders have a bias for every pixel, and do; convolutions share theirs among all pixels, and
        stay as they are.
        """
        match self.architecture.network, self.decoder:
            case MLPSettings(), nn.Sequential() as decoder:
                start_at_mean_image(decoder, mean_image)

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.architecture.latent_dim

    def posterior(self, images: Tensor) -> DiagonalGaussian:
        """q(z|x) of images ``(N, C, H, W)`` in [0, 1]; float32 even under autocast, since exp() follows."""
        raw: Tensor = self.encoder(images)
        return DiagonalGaussian.from_raw(raw.float())

    def decode(self, latents: Tensor) -> Tensor:
        """The likelihood's parameters ``(N, C, H, W)``, float32, for latents ``(N, D)``."""
        parameters: Tensor = self.decoder(latents)
        return parameters.float()

    def mean_image(self, latents: Tensor) -> Tensor:
        """E[x|z], ``(N, C, H, W)`` in [0, 1]: what decoder.onnx computes."""
        return self.likelihood.mean(self.decode(latents))

    def elbo(self, images: Tensor, noise: Tensor, *, autocast: bool = False) -> ELBO:
        """One-sample estimate of both halves for images ``(N, C, H, W)`` and noise ``(N, D)``; the rate is in closed
        form.

        With ``autocast`` the networks run in bfloat16; densities and divergences are float32 in any case.
        """
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
            posterior = self.posterior(images)
            parameters = self.decode(posterior.reparameterize(noise))
        return ELBO(distortion=-self.likelihood.log_prob(parameters, images), rate=posterior.kl().sum(-1))
