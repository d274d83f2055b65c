"""What pictures become, and which are refused."""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageFile

from model.bundle.errors import PictureCorrupt, PictureError, PictureMismatch, PictureTooLarge, PictureUnsupported
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_array, fit_picture, from_network, read_picture, to_network, to_uint8, to_unit

laws = settings(deadline=None, max_examples=50)
Fit = Literal["contain", "cover", "stretch"]
GREY = ImageSpec(height=8, width=8, channels=1)
COLOR = ImageSpec(height=8, width=8, channels=3)


def saved(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def read(picture: Image.Image, format: str = "PNG", **options: object) -> Image.Image:
    return read_picture(saved(picture, format, **options))


def attempt(data: bytes) -> Image.Image | PictureError:
    try:
        return read_picture(data, max_pixels=10_000)
    except PictureError as error:
        return error


def noise(mode: str, size: tuple[int, int] = (8, 8)) -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- modes


@laws
@given(arrays(np.uint8, (8, 8)))
def test_grey_pngs_keep_their_levels(levels: np.ndarray) -> None:
    picture = read(Image.fromarray(levels))
    assert_array_equal(fit_picture(picture, GREY)[..., 0], levels)
    assert_array_equal(fit_picture(picture, COLOR), np.repeat(levels[..., None], 3, axis=2))


@laws
@given(arrays(np.uint8, (8, 8, 3)))
def test_color_pngs_keep_their_levels_and_luma_is_the_standard(levels: np.ndarray) -> None:
    picture = read(Image.fromarray(levels))
    assert_array_equal(fit_picture(picture, COLOR), levels)
    assert_allclose(fit_picture(picture, GREY)[..., 0], levels @ [0.299, 0.587, 0.114], atol=0.51)


@laws
@given(arrays(np.uint16, (8, 8)))
def test_sixteen_bits_are_scaled_and_not_cut(levels: np.ndarray) -> None:
    for picture in (
        read(Image.fromarray(levels)),
        Image.fromarray(levels.astype(np.int32)),
        Image.frombytes("I;16B", (8, 8), levels.astype(">u2").tobytes()),
    ):
        assert picture.mode.startswith("I")
        assert_array_equal(fit_picture(picture, GREY)[..., 0], np.rint(levels / 257))


def test_sixteen_bit_grey_with_a_transparent_level() -> None:
    levels = np.full((8, 8), 65535, np.uint16)
    levels[0] = 514
    picture = read(Image.fromarray(levels), transparency=514)
    spec = ImageSpec(height=8, width=8, channels=1, background=(90, 90, 90))
    assert_array_equal(np.unique(fit_picture(picture, spec)[0]), 90)
    assert_array_equal(np.unique(fit_picture(picture, spec)[1:]), 255)


@pytest.mark.parametrize(("color", "samples", "expected"), [(2, [65535, 32768, 256], [255, 128, 1])])
def test_sixteen_bit_color(color: int, samples: list[int], expected: list[int]) -> None:
    rows = (b"\0" + struct.pack(f">{len(samples)}H", *samples) * 8) * 8
    fitted = fit_picture(read_picture(png(8, 8, 16, color, rows)), COLOR)
    assert_array_equal(fitted, np.broadcast_to(np.array(expected, np.uint8), fitted.shape))


@pytest.mark.parametrize(
    ("depth", "color", "key", "row"),
    [
        (2, 0, [2], b"\xaa\xff"),  # four pixels of level 2, four of level 3
        (4, 0, [7], b"\x77\x77\xff\xff"),
        (8, 0, [7], b"\x07\x07\x07\x07\xff\xff\xff\xff"),
        (16, 2, [258, 515, 5], struct.pack(">3H", 258, 515, 5) * 4 + b"\xff" * 24),
    ],
)
def test_a_transparent_color_of_any_depth(depth: int, color: int, key: list[int], row: bytes) -> None:
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    picture = read_picture(png(8, 8, depth, color, (b"\0" + row) * 8, transparent))
    spec = ImageSpec(height=8, width=8, channels=3, background=(90, 91, 92))
    fitted = fit_picture(picture, spec)
    assert_array_equal(np.unique(fitted[:, :4].reshape(-1, 3), axis=0), [[90, 91, 92]])
    assert_array_equal(np.unique(fitted[:, 4:]), [255])


def test_float_pictures_are_unit_intervals() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert_array_equal(fit_picture(Image.fromarray(values), GREY)[..., 0], to_uint8(values))
    with pytest.raises(PictureError, match=r"\[0, 1\]"):
        fit_picture(Image.fromarray(values * 255), GREY)


def test_one_bit_pictures_are_black_and_white() -> None:
    bits = np.eye(8, dtype=bool)
    for format in ("PNG", "BMP"):
        assert_array_equal(fit_picture(read(Image.fromarray(bits), format), GREY)[..., 0], bits * 255)


def test_palettes_become_their_colors() -> None:
    picture = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8), (8, 1)))
    palette = Image.frombytes("P", (8, 8), picture.tobytes())
    colors = np.random.default_rng(0).integers(0, 256, (8, 3)).astype(np.uint8)
    palette.putpalette(colors.tobytes())
    for format in ("PNG", "GIF"):
        assert_array_equal(fit_picture(read(palette, format), COLOR), np.tile(colors, (8, 1, 1)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBa", "La", "PA"])
def test_alpha_lies_over_the_background(mode: str) -> None:
    spec = ImageSpec(height=8, width=8, channels=3, background=(10, 20, 30))
    half = Image.new("RGBA", (8, 8), (200, 200, 200, 128))
    if mode == "P":
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, 200, 200, 200])
        picture = read(picture, transparency=bytes([255, 128]))
        assert picture.mode == "P"
    elif mode == "La":
        picture = half.convert("LA").convert("La")
    else:
        picture = half.convert(mode)
    expected = np.array([200, 200, 200]) * 128 / 255 + np.array([10, 20, 30]) * 127 / 255
    fitted = fit_picture(picture, spec)
    assert_allclose(fitted, np.broadcast_to(expected, fitted.shape), atol=1.01)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_color_shows_the_background(mode: str) -> None:
    color = (7, 8, 9) if mode == "RGB" else 1
    picture = read(Image.new(mode, (8, 8), color), transparency=color)
    spec = ImageSpec(height=8, width=8, channels=3, background=(1, 2, 3))
    assert_array_equal(np.unique(fit_picture(picture, spec).reshape(-1, 3), axis=0), [[1, 2, 3]])


def test_invisible_colors_do_not_bleed_through_a_resize() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0] = 255  # invisible red
    pixels[:8] = [0, 255, 0, 255]
    assert fit_picture(Image.fromarray(pixels), COLOR)[..., 0].max() == 0


def test_cmyk_jpegs_become_rgb() -> None:
    picture = read(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert picture.mode == "CMYK"
    assert_allclose(fit_picture(picture, COLOR)[0, 0], [255, 0, 0], atol=3)


# --- reading


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_upright(orientation: int) -> None:
    """A picture stored by the inverse of each orientation reads as the upright one."""
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright[::-1, ::-1].T,
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert_array_equal(np.asarray(picture), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and goes on
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_garbled_exif_leaves_a_sound_picture_as_it_lies(exif: bytes) -> None:
    assert read(noise("L", (4, 3)), "JPEG", exif=exif).size == (4, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_counts(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    picture = read(first, format, save_all=True, append_images=[second], duration=100, **options)
    assert_array_equal(np.unique(fit_picture(picture, COLOR).reshape(-1, 3), axis=0), [[255, 0, 0]])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_size_limit_is_inclusive(format: str) -> None:
    data = saved(noise("L", (10, 10)), format)
    assert read_picture(data, max_pixels=100).size == (10, 10)
    with pytest.raises(PictureTooLarge, match="10 x 10"):
        read_picture(data, max_pixels=99)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_too_large_is_known_before_decoding(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(noise("L", (10, 10)), format)

    def refuse(*_: object) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(PictureTooLarge):
        read_picture(data, max_pixels=99)


@pytest.mark.parametrize("side", [9_000, 12_000, 16_000, 2**31 - 1])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    """Below, between and beyond the limits at which Pillow itself warns and refuses."""
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3, "Pillow's own limit was changed"
    with pytest.raises(PictureTooLarge):
        read_picture(png(side, side, 8, 0, b""))


def test_bombs_in_text_chunks_are_corrupt() -> None:
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(b"\0" * 2**27))
    with pytest.raises(PictureCorrupt):
        read_picture(png(8, 8, 8, 0, (b"\0" * 9) * 8, extra=text))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\0" * 99,
    ],
)
def test_other_files_are_unsupported(data: bytes) -> None:
    with pytest.raises(PictureUnsupported, match="PNG, JPEG, WebP, GIF or BMP"):
        read_picture(data)


@pytest.mark.parametrize("format", ["TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000"])
def test_formats_that_pillow_knows_and_we_do_not_are_unsupported(format: str) -> None:
    with pytest.raises(PictureUnsupported):
        read(noise("L", (16, 16)), format)


FILES = {
    "png": saved(noise("RGB", (20, 20))),
    "png16": saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 99)),
    "jpeg": saved(noise("RGB", (20, 20)), "JPEG"),
    "progressive": saved(noise("RGB", (20, 20)), "JPEG", progressive=True),
    "webp": saved(noise("RGB", (20, 20)), "WEBP"),
    "lossless": saved(noise("RGB", (20, 20)), "WEBP", lossless=True),
    "gif": saved(noise("L", (20, 20)), "GIF"),
    "bmp": saved(noise("RGB", (20, 20)), "BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_never_passes_as_another_picture(kind: str) -> None:
    """Cut anywhere: refused, or (where only a trailer is missing) the very same picture."""
    data = FILES[kind]
    whole = np.asarray(read_picture(data))
    refused = 0
    for end in range(len(data)):
        outcome = attempt(data[:end])
        if isinstance(outcome, PictureError):
            assert isinstance(outcome, PictureCorrupt | PictureUnsupported)
            refused += 1
        else:
            assert_array_equal(np.asarray(outcome), whole)
    assert refused > 0.9 * len(data)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_corrupt_files_are_refused_or_read_and_nothing_else(kind: str, data: st.DataObject) -> None:
    file = bytearray(FILES[kind])
    for position in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=4)):
        file[position] = data.draw(st.integers(0, 255))
    outcome = attempt(bytes(file))
    if isinstance(outcome, PictureError):
        assert "/" not in str(outcome)
        assert "\n" not in str(outcome)
    else:
        assert fit_picture(outcome, COLOR).shape == (8, 8, 3)


@laws
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]))
def test_arbitrary_bytes_are_refused(tail: bytes, magic: bytes) -> None:
    with pytest.raises(PictureError):
        read_picture(magic + tail)


# --- fitting


@laws
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["contain", "cover", "stretch"]),
    st.sampled_from(["box", "bilinear", "bicubic", "lanczos"]),
    st.sampled_from([1, 3]),
)
def test_every_size_fits_and_a_constant_stays_constant(
    width: int, height: int, fit: Fit, resample: Literal["box"], channels: Literal[1, 3]
) -> None:
    spec = ImageSpec(height=12, width=9, channels=channels, fit=fit, resample=resample, background=(70, 70, 70))
    fitted = fit_picture(Image.new("RGB", (width, height), (70, 70, 70)), spec)
    assert fitted.shape == (12, 9, channels)
    assert fitted.dtype == np.uint8
    assert_array_equal(fitted, 70)


def test_contain_shows_the_whole_picture_in_the_middle() -> None:
    spec = ImageSpec(height=8, width=16, channels=3, fit="contain", background=(1, 2, 3))
    fitted = fit_picture(Image.new("RGB", (4, 4), (200, 200, 200)), spec)
    assert_array_equal(fitted[:, 4:12], 200)
    assert_array_equal(fitted[:, :4], np.broadcast_to([1, 2, 3], (8, 4, 3)))
    assert_array_equal(fitted[:, 12:], np.broadcast_to([1, 2, 3], (8, 4, 3)))


def test_cover_takes_the_middle() -> None:
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    assert_array_equal(fit_picture(Image.fromarray(pixels), ImageSpec(height=8, width=8, channels=1, fit="cover")), 255)


def test_stretch_keeps_the_corners() -> None:
    pixels = np.zeros((2, 3), np.uint8)
    pixels[0, 0], pixels[-1, -1] = 255, 100
    fitted = fit_picture(
        Image.fromarray(pixels), ImageSpec(height=16, width=24, channels=1, fit="stretch", resample="box")
    )
    assert fitted[0, 0, 0] == 255
    assert fitted[-1, -1, 0] == 100


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_needles_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(PictureTooLarge, match="side"):
        read(Image.new("L", size))
    with pytest.raises(PictureTooLarge, match="side"):
        fit_array(np.zeros((1, *size), np.uint8), GREY)


def test_a_column_is_shortened_before_it_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    resize = Image.Image.resize

    def watched(self: Image.Image, *args: object, **options: object) -> Image.Image:
        nonlocal largest
        result: Image.Image = resize(self, *args, **options)  # type: ignore[arg-type]  # passed on as it came
        largest = max(largest, self.height * result.width)  # what lies between Pillow's two passes
        return result

    monkeypatch.setattr(Image.Image, "resize", watched)
    spec = ImageSpec(height=256, width=256, channels=1, fit="stretch")
    assert fit_picture(Image.new("L", (1, 60_000), 9), spec).max() == 9
    assert largest <= 256 * 256


def test_refuse_takes_what_fits_exactly() -> None:
    assert fit_picture(noise("L"), GREY, refuse=True).shape == (8, 8, 1)
    assert fit_picture(noise("RGB"), COLOR, refuse=True).shape == (8, 8, 3)
    assert fit_picture(Image.new("RGB", (8, 8), (7, 7, 7)), GREY, refuse=True).max() == 7
    assert fit_picture(read(noise("L").convert("RGB"), "WEBP", lossless=True), GREY, refuse=True).shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("picture", "spec", "message"),
    [
        (noise("L", (8, 9)), GREY, "8 x 9 pixels"),
        (noise("L"), COLOR, "grey"),
        (noise("RGB"), GREY, "color"),
    ],
)
def test_refuse_refuses(picture: Image.Image, spec: ImageSpec, message: str) -> None:
    with pytest.raises(PictureMismatch, match=message):
        fit_picture(picture, spec, refuse=True)


# --- arrays


@laws
@given(arrays(np.float32, (2, 8, 8, 1), elements=st.floats(0, 1, width=32)))
def test_floats_of_the_right_size_keep_every_bit(images: np.ndarray) -> None:
    assert_array_equal(fit_array(images, GREY), images)
    assert_array_equal(fit_array(images[..., 0], GREY), images)
    assert_array_equal(fit_array(images, COLOR), np.repeat(images, 3, axis=3))


@laws
@given(arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))))
def test_arrays_fit_as_their_pictures_do(images: np.ndarray) -> None:
    for spec in (GREY, COLOR):
        fitted = fit_array(images, spec)
        assert fitted.dtype == np.uint8
        floats = fit_array(images / np.float32(255), spec)
        assert floats.dtype == np.float32
        assert_allclose(floats, to_unit(fitted.astype(np.uint8)), atol=0.51 / 255)
        for i, image in enumerate(images):
            picture = read(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image))
            assert_array_equal(fit_picture(picture, spec), fitted[i])


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8"])
def test_every_float_is_taken(dtype: str) -> None:
    fitted = fit_array(np.full((1, 8, 8), 0.5, dtype), GREY)
    assert fitted.dtype == np.float32
    assert_array_equal(fitted, 0.5)


def test_white_stays_within_the_unit_interval() -> None:
    fitted = fit_array(np.ones((1, 8, 8, 3), np.float32), GREY)
    assert fitted.max() <= 1
    assert_allclose(fitted, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8)), "shape"),
        (np.zeros((1, 1, 8, 8, 1)), "shape"),
        (np.zeros((0, 8, 8)), "empty"),
        (np.zeros((1, 0, 8, 3)), "empty"),
        (np.zeros((1, 8, 8, 2)), "channels"),
        (np.zeros((1, 8, 8, 4)), "channels"),
        (np.zeros((1, 8, 8), np.int64), "uint8"),
        (np.zeros((1, 8, 8), bool), "uint8"),
        (np.zeros((1, 8, 8), complex), "uint8"),
        (np.zeros((1, 8, 8), object), "uint8"),
        (np.zeros((1, 8, 8), "U1"), "uint8"),
        (np.full((1, 8, 8), np.nan), "NaN"),
        (np.full((1, 8, 8), np.inf), "NaN or infinity"),
        (np.full((1, 8, 8), 1.001), r"\[0, 1\]"),
        (np.full((1, 8, 8), -0.001), r"\[0, 1\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        fit_array(images, GREY)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 8, 8, 3)])
def test_arrays_that_would_change_are_refused_on_demand(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureMismatch):
        fit_array(np.zeros(shape, np.uint8), GREY, refuse=True)
    assert fit_array(np.zeros((1, 8, 8), np.uint8), GREY, refuse=True).shape == (1, 8, 8, 1)


# --- network


@laws
@given(arrays(np.uint8, (2, 5, 4, 3)))
def test_the_network_and_back_is_the_identity(images: np.ndarray) -> None:
    there = to_network(images)
    assert there.shape == (2, 3, 5, 4)
    assert there.dtype == np.float32
    assert there.flags.c_contiguous
    assert 0 <= there.min() <= there.max() <= 1
    back = from_network(there)
    assert back.flags.c_contiguous
    assert_array_equal(to_uint8(back), images)
    assert_array_equal(to_network(back), there)
    assert_array_equal(back, to_unit(images))


def test_to_network_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="uint8 or float32"):
        to_network(np.zeros((1, 8, 8, 1)))  # type: ignore[arg-type]  # the wrong type is the point
