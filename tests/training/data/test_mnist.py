"""IDX files are read byte for byte, from wherever they lie, and believed only when their checksum is right."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.conftest import MadeUp, idx
from training.data.mnist import MNIST, load_idx, parse_idx, unpack
from training.errors import DataError


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_exact(made_up: MadeUp, tmp_path: Path, split: str, plain: bool) -> None:
    made_up.write(tmp_path, plain=plain)
    data = load_idx(made_up.source, split, [tmp_path / "absent", tmp_path], download_to=tmp_path)
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.images[..., 0], made_up.images[split])
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert np.array_equal(data.labels, made_up.labels[split])
    assert (data.name, data.split, data.label_names) == ("Made-up", split, tuple("0123456789"))


def test_only_the_files_of_the_split_are_needed(made_up: MadeUp, tmp_path: Path) -> None:
    made_up.write(tmp_path, "train-images", "train-labels")
    assert len(load_idx(made_up.source, "train", [tmp_path], download_to=tmp_path)) == 20
    with pytest.raises(DataError) as caught:
        load_idx(made_up.source, "test", [tmp_path], download_to=tmp_path)
    for expected in ("Made-up", "t10k-images.gz", "train-labels.gz", "--data-dir", str(tmp_path)):
        assert expected in str(caught.value)


@pytest.mark.parametrize("plain", [False, True])
def test_a_changed_byte_is_refused(made_up: MadeUp, tmp_path: Path, plain: bool) -> None:
    content = bytearray(made_up.contents["train-images"])
    content[100] ^= 1
    made_up.contents["train-images"] = bytes(content)
    made_up.write(tmp_path, plain=plain)
    with pytest.raises(DataError, match="not the original Made-up file"):
        load_idx(made_up.source, "train", [tmp_path], download_to=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing"),
        (b"\0\0\x08\x01" + bytes(8), "magic"),
        (b"\0\0\x0d\x03" + bytes(12), "magic"),
        (b"\0\0\x08\x03" + bytes(5), "inside the IDX header"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:-1], "39 bytes, but its header says 40"),
        (idx(np.zeros((2, 3, 4), np.uint8)) + b"\0", "41 bytes, but its header says 40"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "header says"),
    ],
)
def test_what_is_not_idx_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, 3, "file")


def test_gzip_is_unpacked_and_damage_is_named() -> None:
    packed = gzip.compress(b"content" * 100)
    assert unpack(packed, "f") == b"content" * 100
    assert unpack(b"plain", "f") == b"plain"
    with pytest.raises(DataError, match="f: truncated"):
        unpack(packed[:-9], "f")
    with pytest.raises(DataError, match="f: damaged"):
        unpack(packed[:12] + bytes([packed[12] ^ 255]) + packed[13:-8] + bytes(8), "f")


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.mnist._LARGEST_FILE", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MiB"):
        unpack(gzip.compress(bytes(1 << 22)), "f")


def test_the_published_data_are_asked_for_by_their_names_over_https() -> None:
    assert [file.name for pair in MNIST.files.values() for file in pair] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    assert len(MNIST.mirrors) == 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in MNIST.mirrors)
