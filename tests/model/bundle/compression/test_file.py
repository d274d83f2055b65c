"""The file: there and back, and every way in which it is refused."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from model.bundle.compression import bits_back, file
from model.bundle.compression.file import MAX_PICTURES, Compressed, check_bundle, compress, decompress, read
from model.bundle.errors import CompressedError
from model.bundle.manifest import LikelihoodSpec
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle
from tests.support.tiny import rewrite, write_tiny_bundle

COUNT = 30


def opened(folder: Path) -> Bundle:
    return open_bundle(folder, RuntimeOptions(threads=1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return opened(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", width=12))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    white = np.random.default_rng(0).random((COUNT, 8, 12, 1)) < 0.5
    return np.where(white, np.uint8(255), np.uint8(0))


@pytest.fixture(scope="module")
def compressed(bundle: Bundle, pictures: np.ndarray) -> Compressed:
    return compress(bundle, iter(pictures), seed=7)


def signed(body: bytes) -> bytes:
    """With the checksum that a file of these contents has."""
    return body + hashlib.sha256(body).digest()


def test_there_and_back(bundle: Bundle, pictures: np.ndarray, compressed: Compressed) -> None:
    heard: list[int] = []
    assert_array_equal(np.concatenate(list(decompress(bundle, compressed.data, progress=heard.append))), pictures)
    assert sum(heard) == COUNT


def test_the_header_says_what_it_holds(bundle: Bundle, compressed: Compressed) -> None:
    header, words = read(compressed.data)
    assert (header.name, header.version, header.digest.hex()) == ("tiny", "1", bundle.digest)
    assert (header.pictures, header.seed, header.shape) == (COUNT, 7, (1, 8, 12))
    assert header.writer.startswith("onnxruntime ")
    bits = 32 * len(words)
    assert 0 <= bits - compressed.measurement.coded_bits - compressed.measurement.initial_bits < 32


def test_the_report_adds_up(compressed: Compressed) -> None:
    whole, pictures, bound, overhead = compressed.report()
    measurement, bits = compressed.measurement, 8 * len(compressed.data)
    assert whole.startswith(f"file: {len(compressed.data):,} bytes, {bits / COUNT:.2f} bits a picture, ")
    assert pictures.startswith(f"pictures: {measurement.coded_bits / COUNT:.2f} bits each, ")
    assert pictures.endswith(f"{measurement.ratio:.4f} of -ELBO")
    assert f"{measurement.negative_elbo / COUNT:.2f} nats a picture" in bound
    rest = bits - measurement.coded_bits - measurement.initial_bits
    assert overhead == (
        f"overhead: {measurement.initial_bits:,} initial bits, {rest:,} bits of header, checksum and padding"
    )


def test_progress_hears_of_each_picture_twice(bundle: Bundle, pictures: np.ndarray) -> None:
    heard: list[int] = []
    compress(bundle, iter(pictures), seed=7, progress=heard.append)
    assert sum(heard) == 2 * COUNT


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_damage_is_noticed(bundle: Bundle, compressed: Compressed, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(compressed.data) - 1))
    changed = bytearray(compressed.data)
    changed[place] ^= data.draw(st.integers(1, 255))
    for broken in (bytes(changed), compressed.data[:place], compressed.data + compressed.data[: place + 1]):
        with pytest.raises(CompressedError) as refused:
            decompress(bundle, broken)
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: b"", "not a file of compressed pictures"),
        (lambda body: b"\x89PNG" + body, "not a file of compressed pictures"),
        (lambda body: body[:4] + struct.pack("<H", 2) + body[6:], "has format version 2 and not 1, which is read here"),
        (lambda body: body[:6] + b"\xff" + body[7:], "its header is not that"),
        (lambda body: body[:7] + b"\xff\xff" + body[9:], "its header is not that"),
        (lambda body: body[:20], "its header is not that"),
        (lambda body: body + b"\0\0\0\0", "its header is not that"),
        (lambda body: body[:-1], "its header is not that"),
    ],
)
def test_headers_that_are_wrong(
    change: Callable[[bytes], bytes], words: str, bundle: Bundle, compressed: Compressed
) -> None:
    """Though their checksum is right."""
    with pytest.raises(CompressedError, match=words):
        decompress(bundle, signed(change(compressed.data[:-32])))


@pytest.mark.parametrize("count", [0, MAX_PICTURES + 1, 2**32 - 1])
def test_counts_that_no_file_has(count: int, bundle: Bundle, compressed: Compressed) -> None:
    header, words = read(compressed.data)
    with pytest.raises(CompressedError, match="its header is not that"):
        decompress(bundle, file._packed(header._replace(pictures=count), words))


def test_a_count_that_the_words_cannot_hold_ends_soon(bundle: Bundle, compressed: Compressed) -> None:
    header, words = read(compressed.data)
    heard: list[int] = []
    with pytest.raises(CompressedError, match=r"computes other numbers|does not hold"):
        decompress(bundle, file._packed(header._replace(pictures=MAX_PICTURES), words), progress=heard.append)
    assert sum(heard) < 1000


def test_another_bundle_is_refused_by_name(compressed: Compressed, tmp_path: Path) -> None:
    other = opened(write_tiny_bundle(tmp_path / "other", name="other", width=12))
    with pytest.raises(
        CompressedError, match=r"was compressed with tiny/1 of digest \w{12}, and this bundle is other/1"
    ):
        decompress(other, compressed.data)


def test_another_shape_is_refused(bundle: Bundle, compressed: Compressed) -> None:
    header, words = read(compressed.data)
    with pytest.raises(CompressedError, match=r"\(3, 8, 12\) and the model's \(1, 8, 12\)"):
        decompress(bundle, file._packed(header._replace(shape=(3, 8, 12)), words))


def test_a_machine_that_computes_otherwise_is_told_before_anything_is_decoded(
    bundle: Bundle, compressed: Compressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bundle.decode
    monkeypatch.setattr(bundle, "decode", lambda latents: right(latents) * np.float32(1 - 1e-6))
    monkeypatch.setattr(bits_back, "decode", lambda *arguments, **options: pytest.fail("decoded"))
    with pytest.raises(CompressedError, match=r"was compressed with onnxruntime .*, where this bundle computes other"):
        decompress(bundle, compressed.data)


def test_what_does_not_come_back_is_not_written(
    bundle: Bundle, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bits_back.decode

    def inverted(*arguments: Any, **options: Any) -> list[tuple[int, np.ndarray]]:
        return [(size, ~bits) for size, bits in right(*arguments, **options)]

    monkeypatch.setattr(bits_back, "decode", inverted)
    with pytest.raises(CompressedError, match="did not come back as they are"):
        compress(bundle, iter(pictures), seed=0)


def test_nothing_cannot_be_compressed(bundle: Bundle) -> None:
    with pytest.raises(CompressedError, match="there are 0 pictures to compress"):
        compress(bundle, iter([]), seed=0)


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ({"family": "gaussian", "scale": 0.1}, "has a gaussian likelihood; only pictures under a bernoulli"),
        ({"family": "categorical"}, "has a categorical likelihood"),
        ({"family": "bernoulli", "binarization": "none"}, "was trained on grey pixels"),
    ],
)
def test_bundles_of_other_pixels_are_refused(
    likelihood: dict[str, Any], words: str, pictures: np.ndarray, tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny", width=12)
    spec = LikelihoodSpec(**likelihood).model_dump()
    rewrite(folder, lambda manifest: manifest.update(likelihood=spec))
    with pytest.raises(CompressedError, match=words):
        compress(opened(folder), iter(pictures), seed=0)


def test_static_binarization_will_do(pictures: np.ndarray, tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny", width=12)
    rewrite(folder, lambda manifest: manifest["likelihood"].update(binarization="static"))
    assert compress(opened(folder), iter(pictures), seed=0).measurement.pictures == COUNT


def test_posteriors_that_bend_space_are_refused(tmp_path: Path) -> None:
    flow = opened(write_tiny_bundle(tmp_path / "tiny"))
    posterior = flow.manifest.posterior.model_copy(update={"family": "iaf"})
    flow.manifest = flow.manifest.model_copy(update={"posterior": posterior})
    with pytest.raises(CompressedError, match="tiny/1 has a iaf posterior; only one of independent coordinates"):
        check_bundle(flow)
