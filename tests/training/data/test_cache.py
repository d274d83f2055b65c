"""The cache: complete or absent, built once, never trusted when it is not what it should be."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from training.data.cache import materialize
from training.errors import DataError

SHAPE = (3, 2, 2, 1)


def ones(out: np.ndarray) -> None:
    out[:] = 1


def never(out: np.ndarray) -> None:
    raise AssertionError("must not be built again")


def test_small_arrays_stay_in_memory(tmp_path: Path) -> None:
    images = materialize(SHAPE, ones, key="k", folder=tmp_path / "cache", limit=12)
    assert not isinstance(images, np.memmap)
    assert images.sum() == 12
    assert not (tmp_path / "cache").exists()


def test_large_arrays_are_built_once_in_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for fill in (ones, never):
        images = materialize(SHAPE, fill, key="k", folder=folder, limit=11)
        assert isinstance(images, np.memmap)
        assert images.sum() == 12
    assert [path.name for path in folder.iterdir()] == ["k.npy"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: np.ndarray) -> None:
        raise DataError("a picture is corrupt")

    with pytest.raises(DataError, match="corrupt"):
        materialize(SHAPE, fail, key="k", folder=tmp_path, limit=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_file_is_built_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.npy").write_bytes(content)
    assert materialize(SHAPE, ones, key="k", folder=tmp_path, limit=0).sum() == 12


def test_a_file_of_another_shape_is_built_again(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.zeros((1, 2, 2, 1), np.uint8))
    assert materialize(SHAPE, ones, key="k", folder=tmp_path, limit=0).shape == SHAPE


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "a.npy.1.partial", tmp_path / "b.npy.2.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    materialize(SHAPE, ones, key="k", folder=tmp_path, limit=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "k.npy"]


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="GiB are free"):
        materialize((1 << 30, 1 << 10, 1 << 10, 1), never, key="k", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(DataError, match=r"taken.*--data-dir"):
        materialize(SHAPE, ones, key="k", folder=tmp_path / "taken", limit=0)
