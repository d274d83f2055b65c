"""Arrays: which name means what, flat and binary images, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.manifest import ImageSpec
from training.data.arrays import ArrayPools, array_pools
from training.data.pools import Workspace
from training.data.splits import all_rows
from training.errors import DataError


def images_of(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *(shape or (9, 8))), dtype=np.uint8)


def opened(path: Path, spec: ImageSpec, *, static: bool = False, test_path: Path | None = None) -> ArrayPools:
    return array_pools(path, test_path, Workspace(spec, path.parent / "cache"), static=static)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 1), (72,)])
def test_images_of_the_model_s_size_come_through_unchanged(
    tmp_path: Path, grey: ImageSpec, shape: tuple[int, ...]
) -> None:
    images = images_of(5, *shape)
    np.save(tmp_path / "a.npy", images)
    pools = opened(tmp_path / "a.npy", grey)
    data = pools.training().read(np.array([0, 3, 4]), "train")
    assert np.array_equal(data.images, images[[0, 3, 4]].reshape(3, 9, 8, 1))
    assert (data.name, data.labels, pools.validation, pools.test) == ("a", None, None, None)


def test_floats_are_rounded_to_levels(tmp_path: Path, grey: ImageSpec) -> None:
    images = images_of(4)
    np.save(tmp_path / "a.npy", images / 255)
    pool = opened(tmp_path / "a.npy", grey).training()
    assert np.array_equal(pool.read(all_rows(4), "train").images[..., 0], images)


@pytest.mark.parametrize(
    "keys",
    [
        {"training": "images", "labels": "labels"},
        {"training": "train", "labels": "train_labels", "validation": "valid", "test": "test"},
        {"training": "x_train", "labels": "y_train", "validation": "x_valid", "test": "x_test"},
        {"training": "images", "validation": "validation"},
    ],
)
def test_npz_splits_and_labels_are_found_by_name(tmp_path: Path, grey: ImageSpec, keys: dict[str, str]) -> None:
    arrays = {key: images_of(n) for n, (kind, key) in enumerate(keys.items(), 4) if kind != "labels"}
    labels = np.array([3, 1, 2, 0], np.uint8)
    if "labels" in keys:
        arrays[keys["labels"]] = labels
    np.savez_compressed(tmp_path / "a.npz", allow_pickle=False, **arrays)
    pools = opened(tmp_path / "a.npz", grey)
    for kind in ("training", "validation", "test"):
        opener = getattr(pools, kind)
        assert (opener is None) == (kind not in keys)
        if opener is not None:
            pool = opener()
            data = pool.read(all_rows(len(pool)), kind)
            assert np.array_equal(data.images[..., 0], arrays[keys[kind]])
            assert (data.labels is None) == (kind != "training" or "labels" not in keys)
            if data.labels is not None:
                assert data.labels.dtype == np.int64
                assert np.array_equal(data.labels, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_binary_images_are_scaled_only_when_the_configuration_says_so(
    tmp_path: Path, grey: ImageSpec, dtype: type[np.generic]
) -> None:
    binary: NDArray[np.generic] = (images_of(6) > 127).astype(dtype)
    np.savez(tmp_path / "a.npz", train=binary)
    pool = opened(tmp_path / "a.npz", grey, static=True).training()
    data = pool.read(all_rows(6), "train")
    assert np.array_equal(data.images[..., 0], binary.astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"data\.binarization = 'static'"):
        opened(tmp_path / "a.npz", grey).training()


@pytest.mark.parametrize("static", [False, True])
def test_images_of_0_and_255_are_never_scaled(tmp_path: Path, grey: ImageSpec, static: bool) -> None:
    images = (images_of(6) > 127).astype(np.uint8) * np.uint8(255)
    np.save(tmp_path / "a.npy", images)
    data = opened(tmp_path / "a.npy", grey, static=static).training().read(all_rows(6), "train")
    assert np.array_equal(data.images[..., 0], images)


def test_a_test_file_of_its_own(tmp_path: Path, grey: ImageSpec) -> None:
    np.savez(tmp_path / "a.npz", train=images_of(5), test=images_of(6))
    np.savez(tmp_path / "both.npz", train=images_of(7), test=images_of(8))
    np.save(tmp_path / "b.npy", images_of(9))
    for name, n in (("both.npz", 8), ("b.npy", 9)):
        pools = opened(tmp_path / "a.npz", grey, test_path=tmp_path / name)
        assert pools.test is not None
        assert len(pools.test()) == n
    np.savez(tmp_path / "none.npz", other=images_of(7))
    pools = opened(tmp_path / "a.npz", grey, test_path=tmp_path / "none.npz")
    assert pools.test is not None
    with pytest.raises(DataError, match="no test images"):
        pools.test()


def test_an_npy_file_is_memory_mapped_and_large_selections_too(tmp_path: Path, color: ImageSpec) -> None:
    images = images_of(40, 5, 6, 3)
    np.save(tmp_path / "a.npy", images)
    memory = opened(tmp_path / "a.npy", color).training()
    assert isinstance(memory.images, np.memmap)
    rows = np.arange(0, 40, 3)
    workspace = Workspace(color, tmp_path / "cache", memory_limit=100)
    mapped = array_pools(tmp_path / "a.npy", None, workspace, static=False).training().read(rows, "train")
    assert isinstance(mapped.images, np.memmap)
    assert mapped.sha256 == memory.read(rows, "train").sha256
    others = array_pools(tmp_path / "a.npy", None, workspace, static=False).training().read(rows[1:], "train")
    assert others.sha256 != mapped.sha256
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_chunks_do_not_show(tmp_path: Path, color: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", images_of(17, 5, 6, 3))
    pool = opened(tmp_path / "a.npy", color).training()
    whole = pool.read(all_rows(17), "train")
    monkeypatch.setattr("training.data.pools._CHUNK_BYTES", 5 * 5 * 6 * 3)
    assert pool.read(all_rows(17), "train").sha256 == whole.sha256


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((3, 9, 8), 2, np.int64), "uint8 in 0..255 or floats"),
        (np.full((3, 9, 8), 2.0), r"in \[0, 1\]"),
        (np.full((3, 9, 8), np.nan), "NaN"),
        (np.full((3, 9, 8, 2), 9, np.uint8), "channels"),
        (np.full((3, 71), 9, np.uint8), "flat images of 71 values"),
        (np.full((3,), 9, np.uint8), r"shape \(3,\)"),
        (np.array([None] * 3), "cannot be read"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, grey: ImageSpec, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", images=array)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.npz", grey).training().read(all_rows(3), "train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.zeros(4, np.int64), r"\(3,\)"), (np.zeros(3), "float64"), (np.zeros((3, 1), int), "3, 1")],
)
def test_unusable_labels_are_refused(tmp_path: Path, grey: ImageSpec, labels: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", images=images_of(3), labels=labels)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.npz", grey).training()


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path: Path, grey: ImageSpec) -> None:
    for name, data in (("a.npz", b"no zip"), ("a.npy", b"no array"), ("b.npy", b""), ("a.txt", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            opened(tmp_path / name, grey).training()
    np.savez(tmp_path / "zip.npz", images=images_of(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match="not an array"):
        opened(tmp_path / "zip.npy", grey).training()
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match="pickled"):
        opened(tmp_path / "pickled.npy", grey).training()


def test_names_that_are_missing_or_mean_the_same_are_refused(tmp_path: Path, grey: ImageSpec) -> None:
    np.savez(tmp_path / "a.npz", pictures=images_of(3))
    with pytest.raises(DataError, match=r"images or train or x_train \(found pictures\)"):
        opened(tmp_path / "a.npz", grey)
    np.savez(tmp_path / "b.npz", images=images_of(3), train=images_of(3))
    with pytest.raises(DataError, match="images and train"):
        opened(tmp_path / "b.npz", grey)
