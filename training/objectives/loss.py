"""What every objective is, and what it tells of a batch."""

from typing import NamedTuple, Protocol

from torch import Tensor

from model.vae import VAE
from training.noise import Source


class Loss(NamedTuple):
    """Means over the images of a batch, scalars, in nats per image."""

    objective: Tensor
    """What is minimized, with its gradient."""
    parts: dict[str, Tensor]
    """What is reported beside it, by name and without gradient; the same names for every batch of a run."""


class Objective(Protocol):
    """Something to minimize. Sums over pixels and latent dimensions, averaged over images only."""

    @property
    def name(self) -> str:
        """As it stands before a number."""
        ...

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        """Of images ``(B, C, H, W)`` in [0, 1], with noise from the generator; with ``autocast`` the networks run in
        bfloat16."""
        ...


def elbo_parts(distortion: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """The ELBO at beta = 1, whatever is minimized: ``negative_elbo = distortion + rate``, scalars in nats."""
    distortion, rate = distortion.detach(), rate.detach()
    return {"negative_elbo": distortion + rate, "distortion": distortion, "rate": rate}
