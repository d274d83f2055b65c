"""What runs of the same images measure, beside each other: on validation images, since comparing is a way to choose."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field
from rich.table import Table
from torch import Generator, Tensor

from model.bundle.files import write_text_atomically
from model.bundle.frozen import Count, Frozen
from model.bundle.measurements import Estimate, Protocol
from model.vae import VAE
from training.config import RunConfig
from training.data.dataset import Dataset
from training.errors import ConfigError, DataError, NonFiniteMetric
from training.estimators import encode, estimate_images, mean_over_images
from training.feed import Feed
from training.measure import active_units
from training.memory import images_at_a_time
from training.objective import binarize
from training.objectives.one_latent import distortion
from training.objectives.words import name_of
from training.provenance import git_commit, library_versions
from training.reconstruction import squared_errors
from training.run import RunFolder

LATENTS_PER_IMAGE = 10
"""Drawn from q(z|x), for the distortion, and for the rate where it has no closed form."""

DASH = "–"
_CPU = torch.device("cpu")
_BATCH = 100


class RunNumbers(Frozen):
    """Of one run; nats per image, summed over pixels and latent dimensions.

    A plain autoencoder draws nothing: its distortion is that of the one latent it gives, and it has no rate and no
    ELBO. Nor has it active units: what a variance of 0.01 is depends on the unit of the latents, which its decoder can
    undo, and no prior and no noise gives them one.
    """

    run: str
    objective: str = Field(description="what was minimized")
    latent_dim: int
    step: Count = Field(description="training step of the weights")
    distortion: Estimate = Field(description="-E_q[log p(x|z)]; of a plain autoencoder -log p(x|z) at its z")
    rate: Estimate | None
    negative_elbo: Estimate | None = Field(description="distortion + rate, whatever beta was trained with")
    reconstruction_error: Estimate = Field(description="mean squared error per pixel of decode(mean)")
    active_units: Count | None = Field(description="latent dimensions whose mean varies by more than 0.01")


class Comparison(Frozen):
    """comparison.json."""

    protocol: Protocol
    latents_per_image: int
    runs: tuple[RunNumbers, ...]


def check_comparable(runs: Sequence[RunFolder]) -> None:
    """Refuse runs whose numbers are not of the same pixels.

    Raises:
        ConfigError: there are fewer than two, or one is named twice; there is no such run; or images, binarization, or
            what their likelihoods are densities of, differ.
    """
    if len(runs) < 2:
        raise ConfigError("name two runs or more to compare")
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(f"{run.folder}: named twice")
    first, *others = runs
    for run in others:
        difference = _difference(first, run)
        if difference is not None:
            raise ConfigError(f"{first.folder} and {run.folder} cannot be compared: {difference}")


def _difference(one: RunFolder, other: RunFolder) -> str | None:
    """Why the numbers of two runs would not be of the same pixels."""
    a, b = one.config(), other.config()
    splits = ("training", "validation")
    before, after = one.provenance().data, other.provenance().data
    if a.image.shape == b.image.shape and any(before.get(split) != after.get(split) for split in splits):
        seeds = "" if a.seed == b.seed else f" (their seeds, which divide the images, are {a.seed} and {b.seed})"
        return f"they were not trained and validated on the same images{seeds}"
    return other_pixels(a, b)


def other_pixels(a: RunConfig, b: RunConfig) -> str | None:
    """Why nats per image of two runs would be of different pixels, were the images of the same files; None where they
    are not."""
    if a.image.shape != b.image.shape:
        return f"their images are {_size(a)} and {_size(b)}"
    if a.data.binarization != b.data.binarization:
        return f"their binarizations are {a.data.binarization} and {b.data.binarization}"
    if a.model.likelihood.support != b.model.likelihood.support:
        return (
            f"a pixel is one of {a.model.likelihood.support} under {a.model.likelihood.family} and of "
            f"{b.model.likelihood.support} under {b.model.likelihood.family}: nats of the two have different units"
        )
    return None


def _size(config: RunConfig) -> str:
    channels, height, width = config.image.shape
    return f"{height}x{width} with {channels} {'channel' if channels == 1 else 'channels'}"


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """What to call runs: their folders' names, or the whole paths where two have the same name."""
    names = [run.folder.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def numbers_of(
    name: str,
    config: RunConfig,
    model: VAE,
    step: int,
    images: Dataset,
    *,
    seed: int,
    advance: Callable[[int], object],
) -> RunNumbers:
    """Measure a run on two images or more; ``advance`` hears of every batch that is done.

    Pixels are binarized by the seed, and latents drawn by it: the same for runs with as many latent dimensions.

    Raises:
        NonFiniteMetric: the model gives NaN or infinity.
    """
    plain = config.objective.kind == "autoencoder"
    at_a_time = images_at_a_time(model, _CPU, workers=1)
    pixels, noise = Generator().manual_seed(seed), Generator().manual_seed(seed + 1)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in Feed(images, _CPU).in_order(_BATCH):
        observed = binarize(batch, config.data.binarization, pixels)
        measure = _without_noise if plain else _with_noise
        halves = measure(model, observed, noise, at_a_time)
        with torch.inference_mode():
            means = encode(model, observed, at_a_time).center()
            parts.append((*halves, means, squared_errors(model, batch, at_a_time)))
        advance(len(batch))
    distortions, rates, means, errors = (torch.cat(part) for part in zip(*parts, strict=True))
    if not all(part.isfinite().all() for part in (distortions, rates, means, errors)):
        raise NonFiniteMetric(f"{name}: its distortions, rates, means or reconstructions are not all finite")
    return RunNumbers(
        run=name,
        objective=name_of(config.objective),
        latent_dim=config.model.latent_dim,
        step=step,
        distortion=mean_over_images(distortions),
        rate=None if plain else mean_over_images(rates),
        negative_elbo=None if plain else mean_over_images(distortions + rates),
        reconstruction_error=mean_over_images(errors),
        active_units=None if plain else active_units(means),
    )


def _with_noise(model: VAE, images: Tensor, generator: Generator, at_a_time: int) -> tuple[Tensor, Tensor]:
    """Distortions and rates ``(B,)`` of images ``(B, C, H, W)``."""
    estimates = estimate_images(
        model, images, LATENTS_PER_IMAGE, generator, chunk=LATENTS_PER_IMAGE, at_a_time=at_a_time
    )
    return estimates.distortion, estimates.rate


@torch.inference_mode()
def _without_noise(model: VAE, images: Tensor, _: Generator, at_a_time: int) -> tuple[Tensor, Tensor]:
    """Distortions ``(B,)`` at the mean, and zeros in the place of rates."""
    pieces = [
        distortion(model, piece, encode(model, piece, at_a_time).mean, autocast=False)
        for piece in torch.split(images, at_a_time)
    ]
    found = torch.cat(pieces).double()
    return found, torch.zeros_like(found)


def compared(images: Dataset, config: RunConfig, numbers: Sequence[RunNumbers]) -> Comparison:
    """With the protocol of measurements on these images."""
    protocol = Protocol(
        dataset=images.name,
        split=images.split,
        images=len(images),
        binarization=config.data.binarization,
        seed=config.seed,
        git_commit=git_commit(),
        libraries=library_versions(),
    )
    return Comparison(protocol=protocol, latents_per_image=LATENTS_PER_IMAGE, runs=tuple(numbers))


def rows_of(numbers: RunNumbers) -> dict[str, str]:
    """Each number in words, by its name; a dash where there is none."""
    return {
        "distortion": _nats(numbers.distortion),
        "rate": _nats(numbers.rate),
        "−ELBO": _nats(numbers.negative_elbo),
        "squared error": f"{numbers.reconstruction_error.value:.4f}",
        "active units": DASH if numbers.active_units is None else f"{numbers.active_units} of {numbers.latent_dim}",
    }


def comparison_table(comparison: Comparison) -> Table:
    """For a terminal, a run a row."""
    protocol = comparison.protocol
    result = Table(
        title=f"{protocol.dataset}, {protocol.split} split, {protocol.images:,} images, "
        f"binarization {protocol.binarization}",
        caption="nats per image; squared error per pixel",
    )
    result.add_column("run, and what it minimizes", overflow="fold")
    for name in rows_of(comparison.runs[0]):
        result.add_column(name, justify="right")
    for numbers in comparison.runs:
        result.add_row(f"{numbers.run}\n  {numbers.objective}", *rows_of(numbers).values())
    return result


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """As comparison.json in a folder that exists.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / "comparison.json"
    try:
        write_text_atomically(path, comparison.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _nats(estimate: Estimate | None) -> str:
    return DASH if estimate is None else f"{estimate.value:.2f}"
