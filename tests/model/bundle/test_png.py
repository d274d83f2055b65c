"""Pictures in PNG files are those that were written, whoever reads them."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from model.bundle.png import png_file


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        assert picture.mode in ("L", "RGB")
        assert not picture.info
        return np.asarray(picture)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))),
)
def test_what_is_written_is_read(image: np.ndarray) -> None:
    np.testing.assert_array_equal(read(png_file(image)).reshape(image.shape), image)


STEPS = np.random.default_rng(0).integers(1, 255, (16, 16, 1), np.uint8)


@pytest.mark.parametrize(
    ("filter_type", "image"),
    [
        (0, np.eye(16, dtype=np.uint8)[..., None] * 255),
        (1, STEPS[:, :1].repeat(16, axis=1)),  # each row one level
        (2, STEPS[:1].repeat(16, axis=0)),  # each column one level
    ],
)
def test_the_filter_suits_the_picture(filter_type: int, image: np.ndarray) -> None:
    data = png_file(image)
    start = data.index(b"IDAT") + 4
    lines = zlib.decompress(data[start : data.index(b"IEND") - 8])
    assert set(lines[:: image.shape[1] * image.shape[2] + 1]) == {filter_type}
    np.testing.assert_array_equal(read(data).reshape(image.shape), image)


def test_a_view_is_written_as_it_looks() -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 8, 6), np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(read(png_file(image)), image)
