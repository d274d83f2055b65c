"""Request bodies as Python and NumPy objects: media types, JSON, multipart forms and .npy. Syntax only, no pictures.

Every count is checked before it costs memory. All of it is synchronous and, save for what is small, belongs on a codec
thread. Errors are ours (app.errors) and carry pointers into the body.
"""

import math
import re
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import (
    Detail,
    Invalid,
    MalformedJSON,
    MalformedMultipart,
    UnsupportedMediaType,
    invalid_body,
)
from app.negotiation import BMP, GIF, JPEG, JSON, MULTIPART, NPY, PNG, WEBP

Numbers = NDArray[np.uint8] | NDArray[np.floating]
Document = TypeVar("Document", bound=BaseModel)

PICTURE_TYPES = (PNG, JPEG, WEBP, GIF, BMP)
IMAGE_BODIES = (JSON, *PICTURE_TYPES, MULTIPART, NPY)
LATENT_BODIES = (JSON, NPY)

FIELD = "images"

# What clients send that name no type, and what curl does where it is given none.
_SENT = {
    "": "The Content-Type is missing. ",
    "application/x-www-form-urlencoded": (
        "The Content-Type is that of a form, as curl has it where none is given: say that of the body with "
        "-H 'Content-Type: ...'. "
    ),
}

_CHARSET = re.compile(r"charset\s*=\s*\"?([\w-]+)", re.IGNORECASE)


def media_type(content_type: str | None, taken: tuple[str, ...]) -> str:
    """The body's media type, lower case and without parameters. Raises UnsupportedMediaType unless it is ``taken``.

    >>> media_type("Application/JSON; charset=UTF-8", (JSON, NPY))
    'application/json'
    """
    return content_type if content_type in taken else _media_type(content_type, taken)


def _media_type(content_type: str | None, taken: tuple[str, ...]) -> str:
    kind, _, parameters = (content_type or "").partition(";")
    kind = kind.strip().lower()
    charset = _CHARSET.search(parameters) if parameters else None
    if kind not in taken:
        raise UnsupportedMediaType(f"{_SENT.get(kind, '')}This route takes {', '.join(taken)}.")
    if kind == JSON and charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("JSON is taken in UTF-8 only.")
    return kind


# JSON

# A text in quotes; a text that never ends matches as well, so that every quote is looked at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1

MOST_KEYS = 16  # at the top of a document; the largest has four
_CHUNK = 2**20


def read_json(
    body: bytes, shape: type[Document], *, max_depth: int, max_items: int = 256, items: str | None = None
) -> Document:
    """A JSON body as the model ``shape``. The list in its field ``items`` may have ``max_items`` entries.

    This holds the interpreter's lock, so that what has no bound of its own is counted first: texts before the body is
    looked at more closely, nesting before it is parsed, keys and items before they are validated. Raises
    MalformedJSON (400) or Invalid (422).
    """
    # An item has at most a key and a text, hence four quotes.
    if body.count(b'"') > 4 * (MOST_KEYS + max_items):
        raise Invalid.at("", "Holds more keys and texts than any body that this route takes.")
    _check_depth(body, max_depth)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedJSON("The body is not JSON in UTF-8.") from None
    if isinstance(document, dict):
        if len(document) > MOST_KEYS:
            raise Invalid.at("", f"Takes at most {MOST_KEYS} keys.")
        listed = document.get(items)
        if isinstance(listed, list) and len(listed) > max_items:
            raise Invalid.at(f"/{items}", f"Takes at most {max_items} {items}.")
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        raise invalid_body(error, shape) from None


def _check_depth(body: bytes, most: int) -> None:
    if body.count(b"[") + body.count(b"{") <= most:
        return
    brackets = np.frombuffer(_STRING.sub(b"", body).translate(None, _NO_BRACKETS), np.uint8)
    level = 0
    for start in range(0, len(brackets), _CHUNK):  # a level takes four times the memory of its bracket
        levels = level + np.cumsum(_STEPS[brackets[start : start + _CHUNK]], dtype=np.int32)
        if levels.max() > most:
            raise MalformedJSON(f"The JSON is nested deeper than {most} levels.")
        level = int(levels[-1])


def number_array(value: object, pointer: str) -> NDArray[np.float32]:
    """A nested list of JSON numbers as an array. Nothing else passes: no texts, no true, no null, nothing ragged.

    >>> number_array([[0, 0.5], [1, 1]], "/x").shape
    (2, 2)
    """
    level: object = value
    while isinstance(level, list):
        kinds = set(map(type, level))  # a loop in C: a body can hold millions of numbers
        if kinds and kinds <= {int, float}:
            try:
                with np.errstate(over="ignore"):  # what overflows is infinite, and refused where ranges are checked
                    return np.array(value, np.float32)
            except ValueError:  # ragged
                break
        if kinds != {list}:
            break
        level = list(chain.from_iterable(level))
    raise Invalid.at(pointer, "Must be a rectangular nested list of numbers.")


# .npy

_NPY_HEADER = re.compile(
    rb"\{\s*'descr':\s*'(?P<kind>[<>|=]?(?:[ui][1248]|f[248]))',\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>[0-9, ]{0,64})\),?\s*\}\s*"
)
_LONGEST_HEADER = 4096
_NO_PLAIN_ARRAY = "The .npy header is not that of a plain array of integers or floats."
_NPY_BEGINS = {b"\x01\x00": 10, b"\x02\x00": 12}  # by the version of the format


def read_npy(body: bytes) -> Numbers:
    """What numpy.save wrote, as a view of the body: no copy, no pickle, no evaluation of the header.

    The header is held against the body's length before anything is made of it. Numbers are integers or floats, in
    the machine's byte order. Raises Invalid.
    """
    if body[:6] != b"\x93NUMPY" or not (begin := _NPY_BEGINS.get(body[6:8], 0)) or len(body) < begin:
        raise Invalid.at("", "The body is not an .npy file of format 1.0 or 2.0.")
    end = begin + int.from_bytes(body[8:begin], "little")
    if end > min(len(body), _LONGEST_HEADER):
        raise Invalid.at("", _NO_PLAIN_ARRAY)
    dtype, shape, order, count = _npy_header(body[begin:end])
    if count * dtype.itemsize != len(body) - end:
        raise Invalid.at("", "The .npy header does not agree with the length of the data.")
    array = np.frombuffer(body, dtype, count, end).reshape(shape, order=order)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


@lru_cache(maxsize=512)  # clients send the same one over and over
def _npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"], int]:
    """Type, shape, order and count of an array."""
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        raise Invalid.at("", _NO_PLAIN_ARRAY)
    sizes = [size for size in match["shape"].decode().replace(" ", "").split(",") if size]
    shape = tuple(int(size) for size in sizes)
    if 0 in shape:  # beside a zero, any other size would agree with no data
        raise Invalid.at("", "The array must not be empty.")
    if len(shape) > 8:
        raise Invalid.at("", "The array has too many dimensions.")
    return np.dtype(match["kind"].decode()), shape, "F" if match["fortran"] == b"True" else "C", math.prod(shape)


# multipart/form-data


# Some clients name a file so, and so only, if the name is not ASCII (RFC 5987); the parser passes it over.
_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=", re.IGNORECASE)


class _Files:
    """Collects the files of one form from the parser's callbacks."""

    def __init__(self, most: int) -> None:
        self.files: list[bytes] = []
        self.complete = False
        self._most = most
        self._name, self._value = bytearray(), bytearray()
        self._disposition = ""
        self._data = bytearray()

    def on_part_begin(self) -> None:
        if len(self.files) >= self._most:
            raise Invalid.at(f"/{FIELD}", f"Takes at most {self._most} files.")
        self._data = bytearray()
        self._disposition = ""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._name, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise MalformedMultipart("A part of the form has no name.")
        named = b"filename" in options or _EXTENDED_NAME.search(self._disposition)
        if options[b"name"] != FIELD.encode() or not named:
            raise Invalid(
                "The form is not what the route takes.",
                errors=[Detail("", f"Every part must be a file in the form field {FIELD}.")],
            )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.files.append(bytes(self._data))

    def on_end(self) -> None:
        self.complete = True


def read_multipart(content_type: str, body: bytes, *, max_files: int) -> list[bytes]:
    """The files in field ``images`` of a form, in order, at least one. Raises MalformedMultipart or Invalid."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedMultipart("The Content-Type names no boundary.")
    files = _Files(max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": files.on_part_begin,
                "on_part_data": files.on_part_data,
                "on_part_end": files.on_part_end,
                "on_header_field": files.on_header_field,
                "on_header_value": files.on_header_value,
                "on_header_end": files.on_header_end,
                "on_headers_finished": files.on_headers_finished,
                "on_end": files.on_end,
            },
        )
        parser.write(body)
    except FormParserError:
        raise MalformedMultipart("The form does not have the structure of multipart/form-data.") from None
    if not files.complete:
        raise MalformedMultipart("The form ends before its closing boundary.")
    if not files.files:
        raise Invalid.at(f"/{FIELD}", "Needs at least one file.")
    return files.files
