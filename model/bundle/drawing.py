"""uint8 arrays -> picture files, grids and animations."""

import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.bundle.png import png_file

Bytes = NDArray[np.uint8]
StillFormat = Literal["png", "jpeg", "webp"]
MovingFormat = Literal["gif", "webp"]


def encode_picture(image: Bytes, format: StillFormat = "png") -> bytes:
    """One image (H, W, C) with C = 1 or 3 as a file. PNG and WebP are lossless."""
    if format == "png":
        _check(image)
        return png_file(image)
    buffer = io.BytesIO()
    picture = _picture(image)
    if format == "webp":
        picture.save(buffer, "WEBP", lossless=True)
    elif format == "jpeg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        raise ValueError("format must be png, jpeg or webp")
    return buffer.getvalue()


def tile(images: Bytes, columns: int | None = None, *, padding: int = 2, fill: int = 255) -> Bytes:
    """(N, H, W, C) -> one image (H', W', C): row by row, `padding` pixels of level `fill` between neighbors.

    Without `columns` the grid is as square as it can be; `columns=len(images)` is a strip; what the last row lacks
    is filled too.

    >>> tile(np.zeros((5, 8, 8, 1), np.uint8)).shape
    (18, 28, 1)
    """
    count, height, width, channels = images.shape
    if count < 1:
        raise ValueError("there must be at least one image")
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or padding < 0:
        raise ValueError("columns must be at least 1 and padding at least 0")
    columns = min(columns, count)
    rows = -(-count // columns)
    down, across = height + padding, width + padding
    grid = np.full((rows * down - padding, columns * across - padding, channels), fill, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * down, (i % columns) * across
        grid[top : top + height, left : left + width] = image
    return grid


def animate(images: Bytes | Sequence[Bytes], format: MovingFormat = "gif", *, milliseconds: int = 100) -> bytes:
    """Frames (N, H, W, C) as an endless animation. GIF counts in hundredths of a second and holds 256 colors a frame.

    The encoders join equal neighbors into one longer frame: the time is kept, the number of frames may not be.
    """
    if len(images) < 1:
        raise ValueError("there must be at least one image")
    if milliseconds < 10:
        raise ValueError("milliseconds must be at least 10")
    first, *rest = (_picture(image) for image in images)
    buffer = io.BytesIO()
    if format == "gif":
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    elif format == "webp":
        first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, lossless=True)
    else:
        raise ValueError("format must be gif or webp")
    return buffer.getvalue()


def _check(image: Bytes) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError("an image must be uint8 (H, W, C) with 1 or 3 channels")


def _picture(image: Bytes) -> Image.Image:
    _check(image)
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
