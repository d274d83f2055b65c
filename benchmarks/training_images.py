"""The binary images that the contenders of `benchmarks.training` train on: of MNIST, or drawn."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.training_job import SHAPE

HELD_OUT = 100
STATIC_MNIST = Path("mnist-static") / "binarized_mnist.npz"


def write_images(file: Path, count: int, data_dir: Path | None) -> None:
    """The file of a `Job`: the first training images of statically binarized MNIST, or drawn ones."""
    needed = count + 2 * HELD_OUT
    pixels = (read_images(data_dir, needed) if data_dir else drawn_images(needed)) * np.uint8(255)
    valid, test = np.split(pixels[count:], 2)
    np.savez(file, train=pixels[:count], valid=valid, test=test)


def read_images(data_dir: Path, count: int) -> NDArray[np.uint8]:
    """The first training images ``(N, 28, 28)`` of statically binarized MNIST, of 0 and 1.

    Raises:
        SystemExit: ``data_dir`` has no such file, or it has too few images.
    """
    source = data_dir / STATIC_MNIST
    if not source.exists():
        raise SystemExit(f"{source}: not found; without --data-dir, images are drawn")
    with np.load(source, allow_pickle=False) as arrays:
        images: NDArray[np.uint8] = arrays["train"][:count].reshape(-1, *SHAPE[1:]).astype(np.uint8)
    if len(images) < count:
        raise SystemExit(f"{source}: {len(images):,} images, and {count:,} are needed: give fewer --images")
    return images


def drawn_images(count: int) -> NDArray[np.uint8]:
    """Images ``(N, 28, 28)`` of 0 and 1 with something to learn: each is bright where eight waves, mixed anew for it,
    add up to more than a threshold."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : SHAPE[1], 0 : SHAPE[2]] / SHAPE[1]
    direction, phase = random.uniform(-9, 9, (2, 8, 1, 1)), random.uniform(0, 2 * np.pi, (8, 1, 1))
    waves = np.sin(direction[0] * y + direction[1] * x + phase).reshape(8, -1)
    bright = random.normal(size=(count, 8)) @ waves > 1.5
    images: NDArray[np.uint8] = bright.reshape(count, *SHAPE[1:]).astype(np.uint8)
    return images
