"""Rows for graphs with several inputs: side by side, and put together for those rows alone whose turn has come."""

import numpy as np
import pytest

from app.graphs import Packed
from model.bundle.pixels import to_network
from tests.app.client import grey


def test_packed_rows_are_the_inputs_side_by_side() -> None:
    few, many = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(12, dtype=np.float32).reshape(12, 1)
    packed = Packed(few, many)
    whole = np.concatenate([np.repeat(few, 4, axis=0), many], axis=1)
    assert len(packed) == 12
    for rows in (slice(None), slice(0, 5), slice(5, 12), slice(11, 40)):
        np.testing.assert_array_equal(packed[rows], whole[rows])


@pytest.mark.parametrize("images", [grey(3)[..., None], (grey(3) / 255).astype(np.float32)[..., None]])
def test_packed_images_are_turned_when_their_turn_has_come(images: np.ndarray) -> None:
    latents = np.random.default_rng(0).random((12, 2), np.float32)
    packed = Packed(latents, images)
    whole = np.concatenate([latents, np.repeat(to_network(images).reshape(3, -1), 4, axis=0)], axis=1)
    for rows in (slice(None), slice(2, 7), slice(3, 4), slice(8, 12)):
        np.testing.assert_array_equal(packed[rows], whole[rows])
