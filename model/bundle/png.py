"""Writing PNG files (W3C, Portable Network Graphics, third edition), for answers of a few thousand pixels.

Pillow writes the same pictures, and takes several times as long: it sets up an encoder, and tries five filters on each
row. Here a picture has one filter, that which leaves the smallest differences, and zlib does the rest. Reading is left
to Pillow, which has met hostile files.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR = {1: 0, 3: 2}  # channels -> color type: grey, RGB (section 11.2.1)
_NONE, _SUB, _UP = 0, 1, 2  # filter types (section 9.2)


def png_file(image: Bytes) -> bytes:
    """uint8 (H, W, C), C = 1 or 3, as a file.

    >>> png_file(np.zeros((2, 3, 1), np.uint8))[1:4]
    b'PNG'
    """
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR[channels], 0, 0, 0)
    data = _compressed(_filtered(image.reshape(height, width * channels), channels).tobytes())
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _filtered(rows: Bytes, channels: int) -> Bytes:
    """Each row with its filter's type in front. All have the same."""
    choices = {_NONE: rows}
    if 2 * np.count_nonzero(rows) > rows.size:  # else it is mostly background, as digits are, and has nothing to gain
        choices |= {_SUB: rows.copy(), _UP: rows.copy()}
        choices[_SUB][:, channels:] -= rows[:, :-channels]
        choices[_UP][1:] -= rows[:-1]
    # Differences are modulo 256: 255 is -1. The smaller they are, the better they compress (section 12.7).
    kind = min(choices, key=lambda kind: _weight(choices[kind])) if len(choices) > 1 else _NONE
    lines = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    lines[:, 0], lines[:, 1:] = kind, choices[kind]
    return lines


def _compressed(data: bytes) -> bytes:
    # zlib's strategy for PNG: it looks for runs only. What a decoder draws is too noisy for longer matches; to look for
    # them takes two to four times as long, for files that are smaller by a twentieth (a quarter where much is blank).
    stream = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return stream.compress(data) + stream.flush()


def _weight(values: Bytes) -> int:
    return int(np.abs(values.view(np.int8).astype(np.int16)).sum())


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data and checksum (section 5.3)."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))
