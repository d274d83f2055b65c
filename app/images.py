"""From a request body to what the graphs take: pictures fitted to the model, and latents of its dimension.

How a picture is fitted is the bundle's business (model.bundle.pixels), the same code that prepared the training data;
here are only the forms in which clients send pictures. Synchronous: what is small is read on the event loop
(`at_once`), everything else on codec threads.
"""

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.answers import LIGHT_PIXELS
from app.bodies import Numbers, number_array, read_json, read_multipart, read_npy
from app.decimals import read_decimals
from app.engine import Model
from app.errors import Detail, Invalid, TooLarge, translate
from app.negotiation import JSON, MULTIPART, NPY, PNG
from app.rectangles import read_rectangle
from app.schemas import ImagesBody, LatentsBody
from app.settings import Settings
from model.bundle.errors import PictureError, PictureTooLarge
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_array, fit_picture, read_picture, to_unit

LIGHT_BYTES, LIGHT_NUMBERS = 256 * 2**10, 2**15
"""Arrays in so many bytes, and so many numbers in JSON of just the shape that is wanted, are read in some 2 ms, all of
which hold Python's lock: on a thread too, the event loop would wait for them, and for the way there and back."""

LIGHT_DECIMALS = 512 * 2**10
"""The same for plain decimals, however many: NumPy reads twice as many of them in that time."""

LIGHT_DOCUMENT = 4 * 2**10
"""So many bytes of any JSON are read, or refused, in 2 ms."""

SMALL_FILE, SMALL_SIDE = 16 * 2**10, 128  # bytes and pixels of a PNG that is decoded faster than a thread takes it up
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_INFLATED = (b"zTXt", b"iTXt", b"iCCP")  # parts of a PNG that may be far larger than the pixels

Array = NDArray[np.float32]
Fitted = NDArray[np.uint8] | NDArray[np.float32]


class ImageReader:
    """Reads the images of one request for one model: (N, H, W, C), uint8 or float32 in [0, 1].

    ``refuse`` is ``?fit=error``: pictures that would be resized are refused. Raises the 4xx errors of app.errors.
    """

    def __init__(self, spec: ImageSpec, limits: Settings, *, refuse: bool = False) -> None:
        self._spec, self._limits, self._refuse = spec, limits, refuse
        self._pixels_left = limits.max_total_pixels
        self._usual = (spec.height, spec.width) if spec.channels == 1 else (spec.height, spec.width, spec.channels)

    def of_body(self, kind: str, content_type: str, body: bytes) -> Fitted:
        """Images of a body of any type, N from 1 to ``limits.max_items``."""
        most = self._limits.max_items
        if kind == JSON:
            if (images := self._of_rectangle(body)) is not None:
                return images
            document = read_json(
                body, ImagesBody, max_depth=self._limits.max_json_depth, max_items=most, items="images"
            )
            return self.of_json([(item, f"/images/{i}") for i, item in enumerate(document.images)])
        if kind == NPY:
            return self._of_array(read_npy(body))
        files = read_multipart(content_type, body, max_files=most) if kind == MULTIPART else [body]
        pointers = [f"/images/{i}" for i in range(len(files))] if kind == MULTIPART else [""]
        return _together([self._fit_file(data, at) for data, at in zip(files, pointers, strict=True)])

    def at_once(self, kind: str, body: bytes) -> Fitted | None:
        """Images that are read faster than a thread could take them up: numbers of the model's size, a small PNG.

        None for everything else, which `of_body` reads or refuses.
        """
        size = (self._spec.height, self._spec.width)
        if kind == NPY and len(body) <= LIGHT_BYTES:
            array = read_npy(body)
            if array.dtype == np.uint8 and array.shape[1:] == self._usual and len(array) <= self._limits.max_items:
                return array.reshape(-1, *size, self._spec.channels)
            return self._of_array(array) if array.shape[1:3] == size else None
        if kind == JSON and len(body) <= LIGHT_BYTES:
            return self._of_rectangle(body, partial(read_rectangle, objects=LIGHT_NUMBERS))
        if kind == JSON and len(body) <= LIGHT_DECIMALS:
            return self._of_rectangle(body, read_decimals)
        if kind == PNG and size[0] * size[1] <= LIGHT_PIXELS and _is_small_png(body):
            return self._fit_file(body, "")
        return None

    def _of_array(self, array: Numbers) -> Fitted:
        self._check_is_no_single(_bounded(array, (3, 4), self._limits.max_items))
        return self._fit_arrays(array, "")

    def _of_rectangle(self, body: bytes, read: Callable[..., Array | None] = read_rectangle) -> Fitted | None:
        """A JSON body of numbers in the model's size, as ``read`` takes it; None if it is another, or one with an error
        to be told."""
        shape, channels = (self._spec.height, self._spec.width), self._spec.channels
        for item in (shape, (*shape, 1)) if channels == 1 else ((*shape, channels),):
            if len(item) + 2 > self._limits.max_json_depth:
                continue
            array = read(body, "images", item, most=self._limits.max_items)
            if array is not None:
                try:
                    return self._fit_arrays(array, "")
                except Invalid:
                    return None
        return None

    def of_json(self, items: Sequence[tuple[object, str]]) -> Fitted:
        """JSON images with their pointers: base64 of a picture file, or a nested list [H][W] or [H][W][C]."""
        return _together([self._of_item(item, pointer) for item, pointer in items])

    def _check_is_no_single(self, array: Numbers) -> None:
        """By the rule one picture [H,W,C] would be [N,H,W]: H pictures, a pixel or three wide, which nobody meant."""
        one = (self._spec.height, self._spec.width, self._spec.channels)
        if array.shape == one and array.shape[1:] != one[:2]:
            raise Invalid.at(
                "", f"The array has the shape of one picture; as a list of one it is [1,{','.join(map(str, one))}]."
            )

    def _of_item(self, item: object, pointer: str) -> Fitted:
        if isinstance(item, str):
            try:
                data = binascii.a2b_base64(item, strict_mode=True)
            except ValueError:
                raise Invalid.at(pointer, "Is not base64.") from None
            return self._fit_file(data, pointer)
        array = number_array(item, pointer)
        if array.ndim not in (2, 3):
            raise Invalid.at(pointer, "Must have the shape [H][W] or [H][W][C].")
        return self._fit_arrays(array[None], pointer)

    def _fit_file(self, data: bytes, pointer: str) -> Fitted:
        # A few kilobytes can hold millions of pixels: what counts is the work of decoding them all.
        most = min(self._limits.max_pixels, self._pixels_left)
        try:
            with read_picture(data, max_pixels=most) as picture:
                self._pixels_left -= picture.width * picture.height
                return fit_picture(picture, self._spec, refuse=self._refuse)[None]
        except PictureTooLarge as error:
            if most == self._limits.max_pixels:
                raise translate(error, pointer) from None
            sentence = f"The pictures of one request may have at most {self._limits.max_total_pixels} pixels in all."
            raise TooLarge(sentence, errors=[Detail(pointer, sentence)]) from None
        except PictureError as error:
            raise translate(error, pointer) from None

    def _fit_arrays(self, arrays: Numbers, pointer: str) -> Fitted:
        try:
            return fit_array(arrays, self._spec, refuse=self._refuse)
        except PictureError as error:
            raise translate(error, pointer) from None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the images of a request are read, from its head: for ``model``, from a body of type ``kind``."""

    model: Model
    limits: Settings
    kind: str
    content_type: str
    refuse: bool

    def reader(self) -> ImageReader:
        """For one body."""
        return ImageReader(self.model.manifest.image, self.limits, refuse=self.refuse)

    def at_once(self, body: bytes) -> Fitted | None:
        """As `ImageReader.at_once`."""
        return self.reader().at_once(self.kind, body)

    def read(self, body: bytes) -> Fitted:
        """As `ImageReader.of_body`."""
        return self.reader().of_body(self.kind, self.content_type, body)


def _together(parts: Sequence[Fitted]) -> Fitted:
    """All of them in one array: of bytes if they all are."""
    if len(parts) == 1:
        return parts[0]
    if all(part.dtype == np.uint8 for part in parts):
        return np.concatenate(parts, dtype=np.uint8)
    return np.concatenate([_as_floats(part) for part in parts])


def _as_floats(images: Fitted) -> Array:
    return to_unit(cast("NDArray[np.uint8]", images)) if images.dtype == np.uint8 else cast("Array", images)


def _is_small_png(body: bytes) -> bool:
    """Small by its header (PNG specification, 11.2.1), and without what inflates."""
    # Decoders believe the last header, wherever it is.
    if len(body) > SMALL_FILE or not body.startswith(_PNG_BEGINS) or body.count(b"IHDR") > 1:
        return False
    if any(part in body for part in _INFLATED):
        return False
    return max(int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big")) <= SMALL_SIDE


def read_latents_at_once(kind: str, body: bytes, dim: int, limits: Settings) -> Array | None:
    """Latents that are read faster than a thread could take them up; None for all others, as `ImageReader.at_once`."""
    if len(body) <= LIGHT_DOCUMENT or (kind == NPY and len(body) <= LIGHT_BYTES):
        return read_latents(kind, body, dim, limits)
    if len(body) > LIGHT_BYTES:
        return None
    return read_rectangle(body, "latents", (dim,), most=limits.max_items, objects=LIGHT_NUMBERS)


def read_latents(kind: str, body: bytes, dim: int, limits: Settings) -> Array:
    """Latents of a JSON or .npy body: float32 (N, D), N from 1 to ``limits.max_items``, finite."""
    if kind == NPY:
        return check_latents(_bounded(read_npy(body), (2,), limits.max_items), dim, "")
    latents = read_rectangle(body, "latents", (dim,), most=limits.max_items)
    if latents is not None:
        return latents
    document = read_json(
        body, LatentsBody, max_depth=limits.max_json_depth, max_items=limits.max_items, items="latents"
    )
    return check_latents(number_array(document.latents, "/latents"), dim, "/latents")


def read_latent(value: object, dim: int, pointer: str) -> Array:
    """One JSON latent: float32 (D,), finite."""
    latent: Array = check_latents(number_array([value], pointer), dim, pointer)[0]
    return latent


def check_latents(array: Numbers, dim: int, pointer: str) -> Array:
    """(N, D) numbers as float32, refused unless D is the model's and all are finite."""
    if array.ndim != 2 or array.shape[1] != dim:
        raise Invalid.at(pointer, f"A latent of this model has {dim} numbers.")
    with np.errstate(over="ignore"):
        latents: Array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(latents).all():
        raise Invalid.at(pointer, "Latents must be finite and fit into float32.")
    return latents


def _bounded(array: Numbers, dimensions: tuple[int, ...], most: int) -> Numbers:
    if array.ndim not in dimensions:
        raise Invalid.at("", f"The array must have {' or '.join(map(str, dimensions))} dimensions.")
    if not 1 <= len(array) <= most:
        raise Invalid.at("", f"The array must have between 1 and {most} rows.")
    return array
