"""JSON arrays of a known shape, as `{"images": [[[0, 0.5, ...], ...]]}`, read without a look at each number in Python.

The usual body of a client that sends numbers has one key, and one shape that the model takes. It is parsed, and its
rows are packed into float32 by `struct`, which refuses what is no number: that takes half the time of making an array
of nested lists, without the look at what else may be in them. Many plain decimals take NumPy half of that again
(`decimals.read_decimals`). Anything that is not just so is None here, and the way for all bodies (`bodies.read_json`,
`bodies.number_array`) says what is wrong with it, or reads it.
"""

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson

from app.decimals import Floats, read_decimals

_MANY = 5000  # numbers: where there are fewer, orjson is about as fast as NumPy
_LARGE = 4096  # bytes: fewer are counted before NumPy has begun, and never hold so many numbers


def read_rectangle(
    body: bytes, key: str, shape: tuple[int, ...], *, most: int, objects: int | None = None
) -> Floats | None:
    """The numbers of ``{key: [...]}`` as float32 (N, *shape), N from 1 to ``most``, or None.

    Of at most ``objects`` numbers, if that is given, objects are made in Python, which takes longer than what NumPy
    does. ``key`` is plain ASCII without digits, "u" or "f". Brackets and quotes are counted before anything is parsed,
    so that it is no larger than it should be.

    >>> read_rectangle(b'{"latents": [[0, 0.5], [1, 2]]}', "latents", (2,), most=4).tolist()
    [[0.0, 0.5], [1.0, 2.0]]
    >>> read_rectangle(b'{"latents": [[0, true], [1, 2]]}', "latents", (2,), most=4)
    """
    count, left = divmod(_count(body, b"[") - 1, _brackets(shape))
    if left or not 1 <= count <= most:
        return None
    if len(body) >= _LARGE and count * math.prod(shape) >= _MANY and b"-" not in body:
        decimals = read_decimals(body, key, shape, most=most)
        if decimals is not None:
            return decimals
    if objects is not None and count * math.prod(shape) > objects:
        return None
    # struct would take true for 1. A single letter of it is found many times faster than the word.
    if _count(body, b'"') != 2 or b"u" in body or b"f" in body:
        return None
    try:
        rows: list[Any] = [orjson.loads(body)[key]]
        for size in (count, *shape[:-1]):
            if set(map(type, rows)) != {list} or set(map(len, rows)) != {size}:
                return None
            rows = list(chain.from_iterable(rows))
        pack = _packer(shape[-1])
        data = b"".join([pack(*row) for row in rows])
    except (orjson.JSONDecodeError, KeyError, TypeError, struct.error, OverflowError):
        return None
    array = np.frombuffer(data, np.float32).reshape(count, *shape)
    return array if np.isfinite(array).all() else None  # what is too large for float32 has become infinite


def _count(body: bytes, byte: bytes) -> int:
    """As ``body.count(byte)``, which takes ten times as long for a large body."""
    if len(body) < _LARGE:
        return body.count(byte)
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(byte)))


def _brackets(shape: tuple[int, ...]) -> int:
    """How many lists there are in one item."""
    lists, rows = 1, 1
    for size in shape[:-1]:
        rows *= size
        lists += rows
    return lists


@lru_cache(maxsize=64)
def _packer(size: int) -> Callable[..., bytes]:
    return struct.Struct(f"{size}f").pack
