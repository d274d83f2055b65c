"""Which of the media types that a route can answer with does the client want? (RFC 9110, section 12.5.1)"""

import re
from functools import lru_cache

from app.errors import NotAcceptable

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
WEBP = "image/webp"
JPEG = "image/jpeg"
GIF = "image/gif"
BMP = "image/bmp"
ZIP = "application/zip"
MULTIPART = "multipart/form-data"

FORMATS = {"json": JSON, "npy": NPY, "png": PNG, "webp": WEBP, "jpeg": JPEG, "gif": GIF, "zip": ZIP}
"""The short names of ``?format=``, for people in a browser."""

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE = re.compile(rf"({_NAME})/({_NAME})$")
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$")
_LONGEST = 1024  # characters of an Accept that are remembered
_RANGES = 64  # of an Accept that are looked at


def choose(accept: str | None, offered: tuple[str, ...], requested: str | None = None) -> str:
    """The best of ``offered`` (most preferred first). ``requested`` is the ``?format=`` name, which overrides.

    The most specific range that matches a type gives its quality; q=0 excludes; equal qualities go to the type
    that is offered first. Ranges that are not well-formed are passed over. Raises NotAcceptable.

    >>> choose("image/*;q=0.5, application/x-npy", (PNG, JSON, NPY))
    'application/x-npy'
    >>> choose("image/*, image/png;q=0", (PNG, WEBP))
    'image/webp'
    >>> choose(None, (PNG, JSON))
    'image/png'
    """
    if requested is not None:
        chosen = FORMATS[requested] if FORMATS[requested] in offered else None
    else:
        known = accept or ""
        chosen = (_best if len(known) <= _LONGEST else _best.__wrapped__)(known, offered)
    if chosen is None:
        raise NotAcceptable(f"This route answers with {', '.join(offered)}.")
    return chosen


@lru_cache(maxsize=512)
def _best(accept: str, offered: tuple[str, ...]) -> str | None:
    if not accept.strip():
        return offered[0]
    ranges = _parse(accept)
    qualities = [_quality(kind, ranges) for kind in offered]
    best = max(qualities)
    return offered[qualities.index(best)] if best > 0 else None


def _parse(accept: str) -> list[tuple[str, str, float]]:
    ranges = []
    for element in accept.lower().split(",", _RANGES)[:_RANGES]:
        kind, *parameters = (part.strip() for part in element.split(";"))
        match = _RANGE.match(kind)
        quality = next((value[2:].strip() for value in parameters if value.startswith("q=")), "1")
        if match and _QUALITY.match(quality) and not (match[1] == "*" and match[2] != "*"):
            ranges.append((match[1], match[2], float(quality)))
    return ranges


def _quality(kind: str, ranges: list[tuple[str, str, float]]) -> float:
    major, minor = kind.split("/")
    matching = [
        ((left != "*") + (right != "*"), quality)
        for left, right, quality in ranges
        if left in (major, "*") and right in (minor, "*")
    ]
    return max(matching)[1] if matching else 0.0
