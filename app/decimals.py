"""The JSON of pixels, each with eight decimals, many times faster than orjson writes float32; and read as fast.

orjson looks for the shortest decimal of each number. Where all numbers are as long as each other, so are all lists of
a level: the text of a batch is that of one empty item over and over, and the numbers lie in it at strides, as they do
in the array. NumPy can then write all of them at once, four digits at a time out of a table.

Numbers that are read may differ in length, as long as each is a digit, a point, and digits. Between which bytes each of
them lies is told by the commas. The first bytes of all are copied side by side, and added up four at a time.
"""

import math
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLANK = b"0.00000000"
_TOGETHER = 16_384  # so many numbers at a time: what is made of them on the way stays in the cache of the core

Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Places = NDArray[np.int64]


def _digit_masks(words: int) -> NDArray[np.void]:
    """By how many decimals a number has: which bits of its first ``4 * words`` bytes make up the digits from the second
    byte on. The second, where the point was, has the first digit.
    """
    masks = np.zeros((4 * words - 1, 4 * words), np.uint8)
    for decimals, mask in enumerate(masks):
        mask[1 : 2 + decimals] = 0x0F
    return masks.view(f"V{4 * words}")[:, 0]


_MOST_WORDS = 5  # "0." and 18 decimals: of most numbers, float64 has no more
_MASKS = [_digit_masks(words) for words in range(1, _MOST_WORDS + 1)]


def unit_json(pixels: Floats) -> bytes:
    """The JSON of an array with values in [0, 1], as nested lists of the same shape, each number with eight decimals.

    ``pixels`` is float32 of any shape with at least one axis, (N, H, W, C) for images, and no axis of it is empty. It
    need not be contiguous. The numbers are rounded to the nearest: from 0.5 on float32 are 6e-8 apart, so that reading
    them as float32 brings back the very same, and below 0.5 they are off by at most 5e-9. Where there are fewer than
    about 250 numbers, orjson is faster.

    Raises ValueError where a value is outside [0, 1] or not a number, and for an array that is empty.

    >>> unit_json(np.array([[0, 0.1], [0.75, 1]], np.float32))
    b'[[0.00000000,0.10000000],[0.75000000,1.00000000]]'
    """
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # both are NaN if one value is
        raise ValueError("pixels must be in [0, 1]")
    four_first, four_last = _digits()
    item, strides = _blank_item(pixels.shape[1:])
    text = np.empty(1 + len(pixels) * len(item), np.uint8)
    first = pixels.ndim  # there are so many brackets before the first number
    blanks = np.ndarray((len(pixels), len(item)), np.uint8, text.data, 1)
    starts = np.ndarray(pixels.shape, np.uint64, text.data, first, strides)
    ends = np.ndarray(pixels.shape, np.uint32, text.data, first + len("0.0000"), strides)
    step = max(1, _TOGETHER * len(pixels) // pixels.size)
    for some in (slice(at, at + step) for at in range(0, len(pixels), step)):
        # 24 bits of float32 times the 19 of 1e8 (without its zeros) are exact in float64, not in float32.
        scaled = np.multiply(pixels[some], 1e8, dtype=np.float64)
        digits = np.rint(scaled, out=scaled).astype(np.int32)
        blanks[some] = np.frombuffer(item, np.uint8)
        high = digits // 10_000
        starts[some] = four_first.take(high)
        ends[some] = four_last.take(digits - high * 10_000)
    text[0], text[-1] = b"[]"  # no comma after the last item
    return text.tobytes()


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The texts of 0 to 9,999 as the first four decimals and as the last four: made when first needed, in 10 ms.

    They are copied as they are, whatever the byte order. The first have "00" behind them, to the eight bytes of a
    uint64: the last are written over these. What is 1 has an entry of its own, at 10,000.
    """
    first = b"".join([b"0.%04d00" % i for i in range(10_000)]) + b"1.000000"
    return np.frombuffer(first, np.uint64), np.frombuffer(b"".join([b"%04d" % i for i in range(10_000)]), np.uint32)


@lru_cache(maxsize=4)  # an item of large images has megabytes, and a server has one shape or two
def _blank_item(shape: tuple[int, ...]) -> tuple[bytes, tuple[int, ...]]:
    """The text of one item of zeros with a comma after it, and how far apart the numbers of a batch are, by axis."""
    text = _BLANK
    strides = [len(text) + 1]
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
        strides.append(len(text) + 1)
    return text + b",", tuple(reversed(strides))


def read_decimals(body: bytes, key: str, shape: tuple[int, ...], *, most: int) -> Floats | None:
    """The numbers of ``{key: [...]}`` as float32 (N, *shape), N from 1 to ``most``, or None.

    Read is what `json.dumps` writes, with spaces or without, if each number has one digit before the point and some
    after it. Anything else is None, be it JSON or not. ``key`` is plain ASCII without digits. Up to 14 decimals are
    read as float64 and rounded once more, as orjson and `struct` do it; with more the last bit may differ.

    >>> read_decimals(b'{"images": [[0.0, 0.5], [1.0, 0.25]]}', "images", (2,), most=4).tolist()
    [[0.0, 0.5], [1.0, 0.25]]
    >>> read_decimals(b'{"images": [[0, 0.5], [1.0, 0.25]]}', "images", (2,), most=4)
    """
    head = b'{"%s":' % key.encode()
    begin = len(head) + (body[len(head) : len(head) + 1] == b" ")
    point = begin + len(shape) + 2
    outside = body.startswith(head) and body.startswith(b"[", begin) and body.endswith(b"]}")
    if not outside or body[point : point + 1] != b"." or sys.byteorder != "little":
        return None  # digits are added up in words that have the first of them lowest
    text = np.frombuffer(body + bytes(4 * _MOST_WORDS + -len(body) % 4), np.uint8)
    flags = text == ord(",")
    commas = _places(flags)
    count, left = divmod(len(commas) + 1, math.prod(shape))
    if left or not 1 <= count <= most or np.count_nonzero(flags) != len(commas):
        return None
    gap = 2 if body[body.find(b",") + 1] == ord(" ") else 1
    if gap == 2 and not (text[1:].take(commas) == ord(" ")).all():
        return None
    starts, ends = np.empty((2, count, *shape), np.int64)
    np.add(commas, gap, out=starts.reshape(-1)[1:])
    starts.reshape(-1)[0] = begin + 1
    ends.reshape(-1)[:-1] = commas
    ends.reshape(-1)[-1] = len(body) - len("]}")
    for axes in range(len(shape), 0, -1):  # the outermost brackets first
        first, last = starts[(..., *[0] * axes)], ends[(..., *[-1] * axes)]
        last -= 1
        if not ((text.take(first) == ord("[")).all() and (text.take(last) == ord("]")).all()):
            return None
        first += 1
    decimals = np.subtract(ends, starts, out=ends).reshape(-1)
    decimals -= len("0.")
    # What is known by now is no digit. If there are as many as there should be, so is all the rest but the points.
    np.less(np.subtract(text, ord("0"), out=flags.view(np.uint8)), 10, out=flags)
    if decimals.min() < 1 or np.count_nonzero(flags[begin:]) != decimals.sum() + decimals.size:
        return None
    read = np.empty(decimals.shape, np.float32)
    for some in (slice(at, at + _TOGETHER) for at in range(0, decimals.size, _TOGETHER)):
        values = _values(text, starts.reshape(-1)[some], decimals[some])
        if values is None:
            return None
        read[some] = values
    return read.reshape(starts.shape)


def _places(flags: NDArray[np.bool_]) -> _Places:
    """Where the True are, if no two of them are in the same four, as commas after "0.0"; else there are fewer places.

    ``flags`` is of a length that four divides. NumPy looks at each in turn: a word of four is looked at as fast as one.
    """
    words = flags.view(np.uint32)
    places = np.flatnonzero(words != 0)
    offsets = words.take(places)
    offsets *= np.uint32(0x00010203)  # which of the four is 1 decides which of these bytes becomes the highest
    offsets >>= np.uint32(24)
    places <<= 2
    places += offsets.astype(np.int64)
    return places


def _values(text: _Bytes, starts: _Places, decimals: _Places) -> NDArray[np.floating[Any]] | None:
    """The numbers (N,) of a digit, a point, and ``decimals`` (N,) digits that begin at ``starts`` (N,).

    None if a point is missing, or if there are digits that would be dropped and yet be told apart.
    """
    longest = int(decimals.max())
    words = min((len("0.") + longest + 3) // 4, _MOST_WORDS)
    size = 4 * words
    numbers = np.ndarray((len(text) - size + 1,), f"V{size}", text.data, 0, 1)[starts]
    characters = numbers.view(np.uint8)
    if not (characters[1::size] == ord(".")).all():
        return None
    characters[1::size] = characters[::size]  # the digit before the point goes next to the others
    digits = numbers.view(np.uint32)
    digits &= _MASKS[words - 1].take(decimals, mode="clip").view(np.uint32)
    digits *= np.uint32(10 << 8 | 1)  # two digits as one number, in the higher of their bytes
    digits >>= np.uint32(8)
    digits &= np.uint32(0x00FF00FF)
    digits *= np.uint32(100 << 16 | 1)
    digits >>= np.uint32(16)
    # Seven digits and the power of ten that divides them are exact in float32, fifteen in float64.
    kind: type[np.floating[Any]] = np.float32 if words < 3 else np.float64
    whole = digits.view(np.int32)  # is made a float many times faster than uint32
    values: NDArray[np.floating[Any]] = whole[::words].astype(kind)
    for word in range(1, words):
        values *= kind(10_000)
        values += whole[word::words].astype(kind)
    values /= kind(10 ** (size - len("0.")))
    if longest > size - len("0.") and values[decimals > size - len("0.")].min() < 1e-8:
        return None
    return values
