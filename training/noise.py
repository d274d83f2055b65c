"""Noise for the images at hand, which may be a process's share of a batch: an image gets the same, whichever process
has it."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Shared:
    """A generator that each of several processes has, in the same state, to draw for ``whole`` images of which it has
    the ``rows``.

    What is drawn for the others is dropped. It costs less than anything else that is done with an image, and a batch
    takes the same from the generator whatever share of it is at hand.
    """

    generator: Generator
    rows: slice
    whole: int


Source = Generator | Shared
"""Where noise comes from: a generator for all images of a batch, or one that is shared."""


def standard_normal(shape: tuple[int, ...], source: Source, device: torch.device) -> Tensor:
    """Standard normal noise ``(..., N, D)`` for the N images at hand."""
    match source:
        case Generator():
            return torch.randn(shape, generator=source, device=device)
        case Shared(generator, rows, whole):
            *before, _, dimension = shape
            drawn = torch.randn((*before, whole, dimension), generator=generator, device=device)
            return drawn[..., rows, :]


def uniform(shape: tuple[int, ...], source: Source, device: torch.device) -> Tensor:
    """Noise ``(..., N)`` uniform on [0, 1) for the N images at hand."""
    match source:
        case Generator():
            return torch.rand(shape, generator=source, device=device)
        case Shared(generator, rows, whole):
            return torch.rand((*shape[:-1], whole), generator=generator, device=device)[..., rows]
