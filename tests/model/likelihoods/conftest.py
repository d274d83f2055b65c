"""Parameters and images of three channels."""

import pytest
import torch
from torch import Generator, Tensor

SHAPE = (4, 3, 5, 7)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def parameters(generator: Generator) -> Tensor:
    """One number for each of an image."""
    return 3 * torch.randn(SHAPE, generator=generator)


@pytest.fixture
def images(generator: Generator) -> Tensor:
    return torch.rand(SHAPE, generator=generator)
