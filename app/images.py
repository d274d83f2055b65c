"""From a request body to what the graphs take: pictures fitted to the model, and latents of its dimension.

How a picture is fitted is the bundle's business (model.bundle.pixels), the same code that prepared the training data;
here are only the forms in which clients send pictures. Synchronous, for codec threads.
"""

import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.bodies import Numbers, is_light, number_array, read_json, read_multipart, read_npy
from app.errors import Detail, Invalid, TooLarge, translate
from app.negotiation import JSON, MULTIPART, NPY
from app.schemas import ImagesBody, LatentsBody
from app.settings import Settings
from model.bundle.errors import PictureError, PictureTooLarge
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_array, fit_picture, read_picture, to_network

Array = NDArray[np.float32]
Fitted = NDArray[np.uint8] | NDArray[np.float32]


class ImageReader:
    """Reads the images of one request for one model: float32 (N, C, H, W) in [0, 1].

    ``refuse`` is ``?fit=error``: pictures that would be resized are refused. Raises the 4xx errors of app.errors.
    """

    def __init__(self, spec: ImageSpec, limits: Settings, *, refuse: bool = False) -> None:
        self._spec, self._limits, self._refuse = spec, limits, refuse
        self._pixels_left = limits.max_total_pixels

    def of_body(self, kind: str, content_type: str, body: bytes) -> Array:
        """Images of a body of any type, N from 1 to ``limits.max_items``."""
        most = self._limits.max_items
        if kind == JSON:
            document = read_json(
                body, ImagesBody, max_depth=self._limits.max_json_depth, max_items=most, items="images"
            )
            return self.of_json([(item, f"/images/{i}") for i, item in enumerate(document.images)])
        if kind == NPY:
            array = _bounded(read_npy(body), (3, 4), most)
            self._check_is_no_single(array)
            return self._network([self._fit_arrays(array, "")])
        files = read_multipart(content_type, body, max_files=most) if kind == MULTIPART else [body]
        pointers = [f"/images/{i}" for i in range(len(files))] if kind == MULTIPART else [""]
        return self._network([self._fit_file(data, at) for data, at in zip(files, pointers, strict=True)])

    def is_light(self, kind: str, body: bytes) -> bool:
        """Is this body a small array of the model's size, which nothing has to be decoded or resized for?"""
        size = (self._spec.height, self._spec.width)
        return kind == NPY and is_light(body) and read_npy(body).shape[1:3] == size

    def of_json(self, items: Sequence[tuple[object, str]]) -> Array:
        """JSON images with their pointers: base64 of a picture file, or a nested list [H][W] or [H][W][C]."""
        return self._network([self._of_item(item, pointer) for item, pointer in items])

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

    @staticmethod
    def _network(fitted: Sequence[Fitted]) -> Array:
        if len(fitted) == 1:
            return to_network(fitted[0])
        return np.concatenate([to_network(part) for part in fitted])


def read_latents(kind: str, body: bytes, dim: int, limits: Settings) -> Array:
    """Latents of a JSON or .npy body: float32 (N, D), N from 1 to ``limits.max_items``, finite."""
    if kind == NPY:
        return check_latents(_bounded(read_npy(body), (2,), limits.max_items), dim, "")
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
