"""Picture bytes -> checked uint8 array -> what a network takes, and back. The same code trains and serves.

    bytes --read_picture--> PIL image --fit_picture--> uint8 (H, W, C) --to_network--> float32 (N, C, H, W) in [0, 1]
                          client arrays --fit_array--> (N, H, W, C)    <--from_network--

The way back to files, grids and animations is in `drawing`. Pictures are hostile until fitted: only five decoders are
ever tried, the size is read from the header before anything is decoded, and what is truncated is refused.
"""

import io
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from model.bundle.errors import PictureCorrupt, PictureError, PictureMismatch, PictureTooLarge, PictureUnsupported
from model.bundle.manifest import ImageSpec

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 16_800_000
# JPEG's own limit. A needle of the same area costs several times its pixels: Pillow keeps a pointer to each row.
MAX_SIDE = 65_535

_TRUNCATED = "the picture is truncated or corrupt"
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as Pillow's
_ONE = np.float32(1).view(np.uint32)
_RESAMPLE = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What undoes each EXIF orientation (CIPA DC-008, table 4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture file: upright as its EXIF says, the first frame of an animation.

    Raises PictureUnsupported, PictureTooLarge (from the header, before decoding) or PictureCorrupt.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise PictureCorrupt(_TRUNCATED) from None
        raise PictureUnsupported("the picture is not a PNG, JPEG, WebP, GIF or BMP file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow has a limit of its own, 179 million, that no setting of ours lifts: it is global to the process.
        raise PictureTooLarge("the picture has far more pixels than allowed") from None
    except Exception as error:
        raise _corrupt(error) from None
    if picture.width * picture.height > max_pixels:
        raise PictureTooLarge(
            f"the picture has {picture.width} x {picture.height} pixels, more than the {max_pixels} allowed"
        )
    if max(picture.size) > MAX_SIDE:
        raise PictureTooLarge(f"the picture has a side of more than {MAX_SIDE} pixels")
    try:
        picture.load()
    except Exception as error:
        raise _corrupt(error) from None
    if picture.format == "PNG":
        _scale_transparent(picture, depth=data[24])
    turn = _UPRIGHT.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def fit_picture(picture: Image.Image, spec: ImageSpec, *, refuse: bool = False) -> Bytes:
    """The picture as uint8 (H, W, C) of the model's size and channels.

    Alpha is laid over the background, 16 bits are scaled to 8, float pictures are taken as [0, 1]; then colors become
    grey (ITU-R 601-2 luma) where the model is grey, then the fit rule. With `refuse` raises PictureMismatch
    where the picture would be resized or its channels changed; a color file that holds only greys counts as grey, since
    several formats have nothing else to store them in.
    """
    flat = _flatten(picture, spec)
    if refuse:
        if flat.size != (spec.width, spec.height):
            raise _wrong_size(flat.width, flat.height, spec)
        if spec.channels == 3 and picture.mode in _GREY_MODES:
            raise PictureMismatch("the picture is grey and the model takes color")
        if spec.channels == 1 and picture.mode not in _GREY_MODES and not _only_greys(flat):
            raise PictureMismatch("the picture is in color and the model takes grey")
    fitted = _fit(_in_mode(flat, "L" if spec.channels == 1 else "RGB"), spec)
    return np.array(fitted, np.uint8).reshape(spec.height, spec.width, spec.channels)


def fit_array(array: NDArray[np.generic], spec: ImageSpec, *, refuse: bool = False) -> Bytes | Floats:
    """Images in an array, [N, H, W] or [N, H, W, C], fitted by the same rule: (N, H, W, C) of the model's size.

    uint8 0..255 stays uint8; floats in [0, 1] become float32 and keep their precision, unless they have to be resized:
    that goes through 8 bits, as every picture does. Raises PictureError for a wrong type, shape or range, NaN and
    infinity, and PictureMismatch as `fit_picture` does.
    """
    images = _checked_array(array)
    height, width, channels = images.shape[1:]
    exact = (height, width) == (spec.height, spec.width)
    if refuse:
        if not exact:
            raise _wrong_size(width, height, spec)
        if channels != spec.channels:
            raise PictureMismatch(f"the images have {channels} channels and the model takes {spec.channels}")
    if images.dtype == np.uint8:
        pixels = images.astype(np.uint8, copy=False)
        return pixels if exact and channels == spec.channels else _fit_all(pixels, spec)
    floats = images.astype(np.float32, copy=False)
    if not exact:
        return to_unit(_fit_all(to_uint8(floats), spec))
    if channels == spec.channels:
        return floats
    if channels == 1:
        return np.repeat(floats, spec.channels, axis=3)
    luma: Floats = np.sum(floats * _LUMA, axis=3, dtype=np.float32, keepdims=True)
    return np.minimum(luma, np.float32(1))


def to_network(images: Bytes | Floats) -> Floats:
    """(N, H, W, C), uint8 or float32 in [0, 1] -> contiguous float32 (N, C, H, W) in [0, 1]."""
    count, height, width, channels = images.shape
    out = np.empty((count, channels, height, width), np.float32)
    if images.dtype == np.uint8:
        np.divide(images.transpose(0, 3, 1, 2), np.float32(255), out=out)
    elif images.dtype == np.float32:
        out[...] = images.transpose(0, 3, 1, 2)
    else:
        raise ValueError("images must be uint8 or float32")
    return out


def stack_for_network(parts: Sequence[Bytes | Floats]) -> Floats:
    """The images of all parts, each (N, H, W, C) as for `to_network`, one after the other."""
    if len({part.dtype for part in parts}) == 1:
        return to_network(parts[0] if len(parts) == 1 else cast(Floats, np.concatenate(parts)))
    return np.concatenate([to_network(part) for part in parts])


def from_network(images: Floats) -> Floats:
    """float32 (N, C, H, W) -> contiguous float32 (N, H, W, C)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1), np.float32)


def to_unit(images: Bytes) -> Floats:
    """uint8 of any shape -> float32 in [0, 1]."""
    return np.divide(images, np.float32(255), dtype=np.float32)


def to_uint8(images: NDArray[np.floating]) -> Bytes:
    """Finite floats in [0, 1] of any shape -> 0..255, rounded to the nearest level and clipped.

    >>> to_uint8(np.array([-0.1, 0.0, 0.5, 1.0, 1.1])).tolist()
    [0, 0, 128, 255, 255]
    """
    scaled = images * np.float32(255)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _corrupt(error: Exception) -> Exception:
    # Decoders meet hostile bytes with exceptions of a dozen types (OSError, SyntaxError, struct.error, zlib.error ...):
    # each says that the file is bad. Only a full memory is not the file's word.
    return error if isinstance(error, MemoryError) else PictureCorrupt(_TRUNCATED)


def _scale_transparent(picture: Image.Image, depth: int) -> None:
    """The transparent color of a PNG in 8 bits, as Pillow gives the pixels; it leaves the color in the file's depth.

    Pillow takes the high byte of 16-bit colors, so that neighbors of the transparent one are transparent as well.
    """
    color = picture.info.get("transparency")
    if picture.mode == "RGB" and depth == 16 and isinstance(color, tuple):
        picture.info["transparency"] = tuple(level >> 8 for level in color)
    elif picture.mode == "L" and depth < 8 and isinstance(color, int):
        picture.info["transparency"] = color * 255 // (2**depth - 1)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # garbled metadata says nothing about sound pixels; viewers show them as they lie
    return value if isinstance(value, int) else 1


def _flatten(picture: Image.Image, spec: ImageSpec) -> Image.Image:
    """Any mode -> opaque L or RGB, 8 bits."""
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.int32)
        grey = Image.fromarray(((np.clip(levels, 0, 65535) + 128) // 257).astype(np.uint8))
        key = picture.info.get("transparency")
        if not isinstance(key, int):
            return grey
        alpha = Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
        return _over_background(Image.merge("LA", (grey, alpha)), spec)
    if picture.mode == "F":
        values = np.asarray(picture)
        _check_range(values)
        return Image.fromarray(to_uint8(values))
    if picture.has_transparency_data:
        return _over_background(picture, spec)
    return _in_mode(picture, "L" if picture.mode in _GREY_MODES else "RGB")


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)  # which would copy


def _over_background(picture: Image.Image, spec: ImageSpec) -> Image.Image:
    picture = picture.convert("LA") if picture.mode == "La" else picture
    rgba = picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, spec.background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _only_greys(picture: Image.Image) -> bool:
    pixels = np.asarray(picture.convert("RGB"))
    return bool((pixels[..., :1] == pixels[..., 1:]).all())


def _fit(picture: Image.Image, spec: ImageSpec) -> Image.Image:
    """L or RGB of any size -> the model's size."""
    size = (spec.width, spec.height)
    if picture.size == size:
        return picture
    across, down = spec.width / picture.width, spec.height / picture.height
    if spec.fit == "stretch":
        return _resize(picture, size, spec)
    if spec.fit == "cover":
        scale = max(across, down)
        wide, high = min(spec.width / scale, picture.width), min(spec.height / scale, picture.height)
        left, top = (picture.width - wide) / 2, (picture.height - high) / 2
        return picture.resize(size, _RESAMPLE[spec.resample], box=(left, top, left + wide, top + high))
    scale = min(across, down)
    inner = (
        min(spec.width, max(1, math.floor(picture.width * scale + 0.5))),
        min(spec.height, max(1, math.floor(picture.height * scale + 0.5))),
    )
    canvas = Image.new("RGB", size, spec.background).convert(picture.mode)
    canvas.paste(_resize(picture, inner, spec), ((spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2))
    return canvas


def _resize(picture: Image.Image, size: tuple[int, int], spec: ImageSpec) -> Image.Image:
    resample = _RESAMPLE[spec.resample]
    if size[0] > picture.width and size[1] < picture.height:
        # Pillow widens before it shortens, so that a narrow column would cost hundreds of times its pixels.
        picture = picture.resize((picture.width, size[1]), resample)
    return picture.resize(size, resample)


def _fit_all(images: Bytes, spec: ImageSpec) -> Bytes:
    fitted = np.empty((len(images), spec.height, spec.width, spec.channels), np.uint8)
    for row, pixels in zip(fitted, images, strict=True):
        row[:] = fit_picture(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), spec)
    return fitted


def _checked_array(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """[N, H, W] or [N, H, W, C] -> (N, H, W, C), uint8 or floats, with the values checked."""
    if array.ndim not in (3, 4):
        raise PictureError("images must have the shape [N, H, W] or [N, H, W, C]")
    if 0 in array.shape:
        raise PictureError("images must not be empty")
    if array.ndim == 4 and array.shape[3] not in (1, 3):
        raise PictureError("images must have 1 or 3 channels, last")
    if max(array.shape[1:3]) > MAX_SIDE:
        raise PictureTooLarge(f"the images have a side of more than {MAX_SIDE} pixels")
    images = array.reshape(*array.shape[:3], -1)
    if images.dtype.kind == "f":
        _check_range(images)
    elif images.dtype != np.uint8:
        raise PictureError("images must be uint8 in 0..255 or floats in [0, 1]")
    return images


def _check_range(values: NDArray[np.generic]) -> None:
    # Written as bits, the floats in [0, 1] are just the integers up to that of 1: one look at each instead of two.
    if values.dtype == np.float32 and values.flags.c_contiguous and values.view(np.uint32).max() <= _ONE:
        return
    low, high = float(np.min(values)), float(np.max(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PictureError("images must not hold NaN or infinity")
    if low < 0 or high > 1:
        raise PictureError("floats in images must be in [0, 1]")


def _wrong_size(width: int, height: int, spec: ImageSpec) -> PictureMismatch:
    return PictureMismatch(
        f"the picture has {width} x {height} pixels and the model takes {spec.width} x {spec.height}"
    )
