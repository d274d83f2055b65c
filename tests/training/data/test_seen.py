"""Images are found again among others, to the last pixel."""

import numpy as np

from training.data.dataset import Dataset
from training.data.seen import SeenImages


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def dataset(images: np.ndarray) -> Dataset:
    return Dataset.of(images, name="noise", split="validation")


def test_images_that_were_added_are_counted() -> None:
    seen = SeenImages()
    seen.add(noise(5, 0))
    seen.add(noise(5, 1))
    mixed = np.concatenate([noise(5, 1)[:3], noise(4, 2), noise(5, 0)[:1]])
    assert seen.shared(dataset(mixed)) == 4
    assert seen.shared(dataset(mixed[3:7])) == 0


def test_one_pixel_makes_another_image() -> None:
    seen, images = SeenImages(), noise(5, 0)
    seen.add(images)
    changed = images.copy()
    changed[2, 3, 4, 0] ^= 1
    assert seen.shared(dataset(changed)) == 4


def test_where_nothing_was_seen_nothing_is_shared() -> None:
    assert SeenImages().shared(dataset(noise(3, 0))) == 0
