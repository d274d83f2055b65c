"""How near reconstructions are to their images: one of a VAE's metrics, and all that a plain autoencoder has."""

from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor

from model.bundle.frozen import Frozen
from model.bundle.measurements import Estimate, Protocol
from model.vae import VAE
from training.config import RunConfig
from training.data.dataset import Dataset
from training.estimators import mean_over_images
from training.feed import Feed
from training.measured import protocol_of, require_finite
from training.memory import images_at_a_time


class Reconstruction(Frozen):
    """metrics.json of a plain autoencoder. It draws no latents, so it has no rate, and no bound on a likelihood."""

    reconstruction_error: Estimate
    """Mean squared error per pixel of decode(mean), on [0, 1] pixels."""
    protocol: Protocol


def squared_errors(model: VAE, images: Tensor, at_a_time: int) -> Tensor:
    """Squared error per pixel ``(N,)`` of what the decoder makes of the one latent that stands for each image
    ``(N, C, H, W)`` in [0, 1].

    As served: pictures are encoded with their grey values, before any pixel is drawn.
    """
    return torch.cat(
        [
            (model.mean_image(model.posterior(piece).center()) - piece).square().mean((1, 2, 3))
            for piece in torch.split(images, at_a_time)
        ]
    )


def measure_reconstruction(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, step: int, advance: Callable[[int], object]
) -> Reconstruction:
    """The reconstruction error of a plain autoencoder on a test set; ``advance`` as of ``measure``."""
    feed = Feed(test, device)
    at_a_time = images_at_a_time(model, device, workers=1)
    errors: list[Tensor] = []
    with torch.inference_mode():
        for images in feed.in_order(config.evaluation.batch_size):
            errors.append(squared_errors(model, images, at_a_time).cpu())
            advance(len(images))
    found = torch.cat(errors)
    require_finite({"reconstruction_error": found})
    return Reconstruction(
        reconstruction_error=mean_over_images(found), protocol=protocol_of(test, config, step, importance_samples=None)
    )


def pixel(protocol: Protocol) -> str:
    """What an error is measured of: pictures are encoded and compared as they are served, before any pixel is drawn."""
    return "grey pixel" if protocol.binarization == "dynamic" else "pixel"


def reconstruction_table(measured: Reconstruction) -> Table:
    """The one metric as a table for a terminal."""
    protocol, error = measured.protocol, measured.reconstruction_error
    result = Table(title=f"{protocol.dataset}, {protocol.split} split, {protocol.images:,} images")
    for column in ("metric", "value", "95% interval", "unit"):
        result.add_column(column, justify="right" if column in ("value", "95% interval") else "left")
    interval = f"{error.low:.4f} .. {error.high:.4f}"
    result.add_row("reconstruction error", f"{error.value:.4f}", interval, f"squared, per {pixel(protocol)}")
    return result
