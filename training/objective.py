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
from training.distributed import ALONE, World
from training.noise import Shared
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
    rows: slice | None = None,
) -> Loss:
    """The objective of a batch ``(B, C, H, W)`` in [0, 1]; binarization and noise are drawn from the generator.

    Args:
        rows: those of these images only, to which the same is drawn as in the whole batch; absent: of all.
    """
    images = binarize(images, binarization, generator)
    if rows is None:
        return objective.loss(model, images, generator, autocast=autocast)
    return objective.loss(model, images[rows], Shared(generator, rows, len(images)), autocast=autocast)


@torch.no_grad()
def validation_loss(
    model: VAE,
    batches: Iterable[Tensor],
    binarization: Binarization,
    generator: Generator,
    *,
    autocast: bool,
    objective: Objective = UNWEIGHTED,
    world: World = ALONE,
) -> dict[str, float]:
    """The same over all batches, each image weighing the same: the parts, and the objective as "criterion".

    Each process of ``world`` has its rows of each batch.
    """
    totals: dict[str, Tensor] = {}
    count = 0
    for images in batches:
        rows, weight = world.rows(len(images)), len(images)
        if rows is not None:
            weight = rows.stop - rows.start
            # A process that has none takes one for nothing, since what is drawn for a batch has to be drawn by all.
            rows = rows if weight else slice(0, 1)
        loss = training_loss(model, images, binarization, generator, autocast=autocast, objective=objective, rows=rows)
        for name, value in {"criterion": loss.objective, **loss.parts}.items():
            totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.double().cpu() * weight
        count += weight
    *sums, images_in_all = world.total(torch.stack([*totals.values(), torch.tensor(count, dtype=torch.float64)]))
    return {name: (total / images_in_all).item() for name, total in zip(totals, sums, strict=True)}
