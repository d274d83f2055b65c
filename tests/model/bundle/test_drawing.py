"""Picture files, grids and animations."""

import io
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from PIL import Image

from model.bundle.drawing import MovingFormat, StillFormat, animate, encode_picture, tile
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_picture, read_picture

laws = settings(deadline=None, max_examples=40)
channels = st.sampled_from([1, 3])
lossless: st.SearchStrategy[StillFormat] = st.sampled_from(["png", "webp"])


@laws
@given(channels.flatmap(lambda c: arrays(np.uint8, (9, 8, c))), lossless)
def test_png_and_webp_lose_nothing(image: np.ndarray, format: StillFormat) -> None:
    spec = ImageSpec(height=9, width=8, channels=image.shape[2])
    assert_array_equal(fit_picture(read_picture(encode_picture(image, format)), spec, refuse=format == "png"), image)


def test_jpeg_is_close() -> None:
    image = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (16, 16, 3))
    read = read_picture(encode_picture(np.ascontiguousarray(image), "jpeg"))
    assert read.format == "JPEG"
    assert np.abs(np.asarray(read).astype(int) - image).max() <= 4


def untile(grid: np.ndarray, shape: tuple[int, ...], columns: int, padding: int) -> np.ndarray:
    count, height, width, _ = shape
    tiles = [
        grid[top : top + height, left : left + width]
        for top in range(0, grid.shape[0], height + padding)
        for left in range(0, columns * (width + padding), width + padding)
    ]
    return np.stack(tiles[:count])


@laws
@given(
    st.tuples(st.integers(1, 10), st.integers(1, 4), st.integers(1, 4), channels).flatmap(
        lambda shape: arrays(np.uint8, shape)
    ),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_tiles_can_be_cut_out_again(images: np.ndarray, columns: int, padding: int) -> None:
    grid = tile(images, columns, padding=padding)
    used = min(columns, len(images))
    rows = -(-len(images) // used)
    assert grid.shape == (
        rows * (images.shape[1] + padding) - padding,
        used * (images.shape[2] + padding) - padding,
        images.shape[3],
    )
    assert_array_equal(untile(grid, images.shape, used, padding), images)


@laws
@given(st.integers(1, 300))
def test_grids_are_as_square_as_they_can_be(count: int) -> None:
    height, width, _ = tile(np.zeros((count, 1, 1, 1), np.uint8), padding=0).shape
    assert 0 <= width - height <= 1 or count <= 2
    assert (height - 1) * width < count <= height * width


def test_what_lies_between_tiles_has_the_fill() -> None:
    grid = tile(np.zeros((3, 2, 2, 1), np.uint8), 2, padding=1, fill=9)[..., 0]
    assert_array_equal(grid[2], 9)
    assert_array_equal(grid[:, 2], 9)
    assert_array_equal(grid[3:, 3:], 9)


@pytest.mark.parametrize("format", ["gif", "webp"])
@pytest.mark.parametrize("channel_count", [1, 3])
def test_animations_have_every_frame_and_repeat(format: MovingFormat, channel_count: int) -> None:
    levels = np.array([0, 80, 160, 240], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (4, 8, 8, channel_count))
    with Image.open(io.BytesIO(animate(frames, format, milliseconds=120))) as moving:
        assert moving.format == format.upper()
        assert getattr(moving, "n_frames", 1) == 4
        assert moving.info["loop"] == 0
        for i, level in enumerate(levels):
            moving.seek(i)
            moving.load()
            assert moving.info["duration"] == 120
            assert_array_equal(np.asarray(moving.convert("L")), level)


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_one_frame_is_an_animation_too(format: MovingFormat) -> None:
    assert read_picture(animate(np.full((1, 8, 8, 1), 7, np.uint8), format)).size == (8, 8)


def test_what_is_no_image_is_refused() -> None:
    image = np.zeros((8, 8, 1), np.uint8)
    for wrong in (image[..., 0], image.astype(float), np.zeros((8, 8, 2), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            encode_picture(wrong)
    with pytest.raises(ValueError, match="format"):
        encode_picture(image, cast(StillFormat, "tiff"))
    with pytest.raises(ValueError, match="format"):
        animate(image[None], cast(MovingFormat, "mp4"))
    with pytest.raises(ValueError, match="milliseconds"):
        animate(image[None], milliseconds=9)
    for draw in (tile, animate):
        with pytest.raises(ValueError, match="at least one"):
            draw(image[None][:0])
    with pytest.raises(ValueError, match="columns"):
        tile(image[None], 0)
