"""What is minimized, and what validation reports: both are :class:`Loss` of an objective, over a batch or over many.

Sums over pixels and latent dimensions, averaged over images only. Averaging the reconstruction over pixels and summing
the KL, as is often seen, would be a hidden beta of C*H*W. The objectives are in ``training.objectives``; whichever is
minimized, distortion, rate and the ELBO at beta = 1 are reported.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Generator, Tensor

from model.vae import VAE
from training.objectives.elbo import UNWEIGHTED
from training.objectives.loss import Loss, Objective

Binarization = Literal["dynamic", "static", "none"]


def binarize(images: Tensor, binarization: Binarization, generator: Generator) -> Tensor:
    """Dynamic binarization: each pixel is drawn anew from Bernoulli(its grey value in [0, 1]) (Salakhutdinov and
    Murray, 2008).

    Static binarization happened before the data came here, and "none" leaves grey values alone: both return the images
    as they are.
    """
    return torch.bernoulli(images, generator=generator) if binarization == "dynamic" else images


def training_loss(
    model: VAE,
    images: Tensor,
    binarization: Binarization,
    generator: Generator,
    *,
    autocast: bool,
    objective: Objective = UNWEIGHTED,
) -> Loss:
    """The objective of a batch ``(B, C, H, W)`` in [0, 1]; binarization and noise are drawn from the generator."""
    return objective.loss(model, binarize(images, binarization, generator), generator, autocast=autocast)


@torch.no_grad()
def validation_loss(
    model: VAE,
    batches: Iterable[Tensor],
    binarization: Binarization,
    generator: Generator,
    *,
    autocast: bool,
    objective: Objective = UNWEIGHTED,
) -> dict[str, float]:
    """The same over all batches, each image weighing the same: the parts, and the objective as "criterion"."""
    totals: dict[str, Tensor] = {}
    count = 0
    for images in batches:
        loss = training_loss(model, images, binarization, generator, autocast=autocast, objective=objective)
        for name, value in {"criterion": loss.objective, **loss.parts}.items():
            totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.double().cpu() * len(images)
        count += len(images)
    return {name: (total / count).item() for name, total in totals.items()}
