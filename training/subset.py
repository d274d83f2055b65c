"""Some of the test images, for what is too costly to measure on all: annealing and gaps, of the same pixels."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

from model.vae import VAE
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import ConfigError
from training.estimators import ImageEstimates, estimate_images
from training.feed import Feed
from training.memory import images_at_a_time
from training.objective import binarize
from training.parallel import map_side_by_side
from training.streams import BOUND, PIXELS, generator_of

# So few images that a bar moves, and that all cores have some; times chains, enough for large products.
_PIECE = 10

Result = TypeVar("Result")


class Subset(NamedTuple):
    """Test images drawn by the seed, as a model's likelihood wants them: dynamic pixels are drawn once, for all that is
    measured of them."""

    dataset: Dataset
    pieces: list[Tensor]
    """``(B, C, H, W)`` each, on the device."""
    seed: int
    device: torch.device

    def map(
        self, work: Callable[[Tensor, Generator, int], Result], advance: Callable[[int], object], stream: int
    ) -> Iterator[Result]:
        """``work(images, generator, index)`` of each piece, in order; ``advance`` hears how many images are done.

        Args:
            stream: what the work's noise is of: each kind of work has streams of its own, so that one does not depend
                on whether another was done.
        """

        def one(index: int) -> Result:
            return work(self.pieces[index], generator_of(self.device, self.seed, stream, index), index)

        for images, result in zip(
            self.pieces, map_side_by_side(one, range(len(self.pieces)), self.device), strict=True
        ):
            advance(len(images))
            yield result


def drawn(test: Dataset, count: int, seed: int) -> Dataset:
    """So many of the test images; where these are not all, the name says what they were drawn from."""
    if count >= len(test):
        return test
    chosen = test.subset(choose(len(test), count, seed))
    return replace(chosen, name=f"{test.name} (drawn at random from {len(test):,})")


def draw_subset(test: Dataset, config: RunConfig, device: torch.device, count: int) -> Subset:
    """``count`` of the test images, or all where there are no more."""
    chosen = drawn(test, count, config.seed)
    feed = Feed(chosen, device)
    pieces = [
        binarize(feed.batch(indices), config.data.binarization, generator_of(device, config.seed, PIXELS, index))
        for index, indices in enumerate(torch.split(torch.arange(len(chosen)), _PIECE))
    ]
    return Subset(chosen, pieces, config.seed, device)


def bound_subset(model: VAE, subset: Subset, config: RunConfig, k: int, advance: Callable[[int], object]) -> Tensor:
    """L_k of each image, ``(N,)`` nats, from the encoder's posteriors."""
    at_a_time = latents_at_a_time(model, subset.device, gradients=False)

    def work(images: Tensor, generator: Generator, index: int) -> ImageEstimates:
        return estimate_images(model, images, k, generator, chunk=config.evaluation.sample_chunk, at_a_time=at_a_time)

    return torch.cat([part.log_likelihood.cpu() for part in subset.map(work, advance, BOUND)])


def latents_at_a_time(model: VAE, device: torch.device, *, gradients: bool) -> int:
    """How many latents each of the threads may decode at a time, with the graph that ``gradients`` need or without."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    return images_at_a_time(model, device, workers=workers, gradients=gradients)


def require_likelihood(config: RunConfig, what: str) -> None:
    """Raise ConfigError where nothing that the run's model gives is log p(x), naming ``what`` was to be measured."""
    if config.objective.kind == "autoencoder":
        raise ConfigError(f"{config.name}: a plain autoencoder has no p(x), and no {what}")
    if config.model.likelihood.support == "binary" and config.data.binarization == "none":
        raise ConfigError(
            f"{config.name}: grey or color values under a Bernoulli have no likelihood, and so no {what}: train with "
            "data.binarization = 'dynamic', or another model.likelihood.family"
        )
