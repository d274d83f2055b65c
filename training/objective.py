"""What is minimized, and what validation reports: the same function.

Sums over pixels and latent dimensions, averaged over images only. Averaging the reconstruction over pixels and summing
the KL, as is often seen, would be a hidden beta of C*H*W.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from model.vae import VAE

Binarization = Literal["dynamic", "static", "none"]


class Loss(NamedTuple):
    """Means over images, scalars, in nats per image: ``negative_elbo = distortion + rate``."""

    negative_elbo: Tensor
    distortion: Tensor
    rate: Tensor


def binarize(images: Tensor, binarization: Binarization, generator: Generator) -> Tensor:
    """Dynamic binarization: each pixel is drawn anew from Bernoulli(its grey value in [0, 1]) (Salakhutdinov and
    Murray, 2008).

    Static binarization happened before the data came here, and "none" leaves grey values alone: both return the images
    as they are.
    """
    return torch.bernoulli(images, generator=generator) if binarization == "dynamic" else images


def training_loss(
    model: VAE, images: Tensor, binarization: Binarization, generator: Generator, *, autocast: bool
) -> Loss:
    """-ELBO of a batch ``(B, C, H, W)`` in [0, 1], one latent an image; binarization and noise are drawn from the
    generator."""
    images = binarize(images, binarization, generator)
    noise = torch.randn(images.shape[0], model.latent_dim, generator=generator, device=images.device)
    distortion, rate = (half.mean() for half in model.elbo(images, noise, autocast=autocast))
    return Loss(distortion + rate, distortion, rate)


@torch.no_grad()
def validation_loss(
    model: VAE, batches: Iterable[Tensor], binarization: Binarization, generator: Generator, *, autocast: bool
) -> Loss:
    """The training loss over all batches, each image weighing the same."""
    totals = torch.zeros(3, dtype=torch.float64)
    count = 0
    for images in batches:
        loss = training_loss(model, images, binarization, generator, autocast=autocast)
        totals += torch.stack(loss).double().cpu() * images.shape[0]
        count += images.shape[0]
    return Loss(*(totals / count))
