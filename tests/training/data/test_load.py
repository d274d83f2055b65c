"""Which images train, validate and test, whatever the source; and that training never sees a test image."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from model.bundle.manifest import ImageSpec
from tests.training.data.conftest import MadeUp, picture_bytes
from training.config import DataConfig
from training.data.dataset import Dataset
from training.data.load import check_test, load_test, load_training
from training.errors import DataError

Write = Callable[[Path, dict[str, bytes]], Path]


def rows_of(*parts: Dataset) -> list[bytes]:
    return sorted(image.tobytes() for part in parts for image in part.images)


def test_mnist_training_never_opens_the_test_files(
    made_up: MadeUp, tmp_path: Path, grey: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.load.MNIST", made_up.source)
    made_up.write(tmp_path / "mnist")
    for name in ("t10k-images.gz", "t10k-labels.gz"):
        (tmp_path / "mnist" / name).write_bytes(b"damaged")
    config = DataConfig(source="mnist", validation_fraction=0.2)
    train, validation = load_training(config, grey, seed=1, data_dir=tmp_path)
    assert (len(train), len(validation)) == (16, 4)
    assert (train.split, validation.split) == ("train", "validation")
    assert rows_of(train, validation) == sorted(image.tobytes() for image in made_up.images["train"])
    assert check_test(config, grey, seed=1, data_dir=tmp_path) is None  # their checksum is known
    with pytest.raises(DataError, match="not the original"):
        load_test(config, grey, seed=1, data_dir=tmp_path)


@pytest.mark.parametrize("place", ["data_dir", "data_dir/mnist", "path", "default"])
def test_mnist_is_found_in_every_place_it_may_lie(
    made_up: MadeUp, tmp_path: Path, grey: ImageSpec, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("training.data.load.MNIST", made_up.source)
    monkeypatch.chdir(tmp_path)
    folder = {"data_dir": "here", "data_dir/mnist": "here/mnist", "path": "here", "default": "data/mnist"}[place]
    made_up.write(tmp_path / folder)
    config = DataConfig(source="mnist", path=tmp_path / "here" if place == "path" else None)
    data_dir = tmp_path / "here" if place.startswith("data_dir") else None
    test = load_test(config, grey, seed=0, data_dir=data_dir)
    assert np.array_equal(test.images[..., 0], made_up.images["test"])


def test_mnist_is_fitted_to_the_model(
    made_up: MadeUp, tmp_path: Path, color: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.load.MNIST", made_up.source)
    test = load_test(DataConfig(source="mnist", path=made_up.write(tmp_path)), color, seed=0)
    assert test.images.shape == (6, 10, 12, 3)


def test_large_splits_of_mnist_are_cached_apart(
    made_up: MadeUp, tmp_path: Path, color: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.load.MNIST", made_up.source)
    config = DataConfig(source="mnist", path=made_up.write(tmp_path))
    small = load_training(config, color, seed=0, data_dir=tmp_path), load_test(config, color, seed=0, data_dir=tmp_path)
    monkeypatch.setattr("training.data.load.MEMORY_LIMIT", 10)
    train, validation = load_training(config, color, seed=0, data_dir=tmp_path)
    test = load_test(config, color, seed=0, data_dir=tmp_path)
    assert all(isinstance(part.images, np.memmap) for part in (train, validation, test))
    assert [small[0][0].sha256, small[0][1].sha256, small[1].sha256] == [train.sha256, validation.sha256, test.sha256]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_digits_are_divided_into_three(grey: ImageSpec) -> None:
    spec = grey.model_copy(update={"height": 8})
    config = DataConfig(source="digits", validation_fraction=0.1, test_fraction=0.2)
    train, validation = load_training(config, spec, seed=5)
    test = load_test(config, spec, seed=5)
    assert [len(part) for part in (train, validation, test)] == [1294, 144, 359]
    assert train.images.max() == 255
    assert set(np.unique(train.images)) <= {round(level * 255 / 16) for level in range(17)}
    assert train.labels is not None
    assert set(train.labels) == set(range(10))
    again, _ = load_training(config, spec, seed=5)
    assert again.sha256 == train.sha256
    assert load_training(config, spec, seed=6)[0].sha256 != train.sha256
    assert load_test(config, spec, seed=6).sha256 != test.sha256


def test_pictures_are_divided_into_three(
    picture_files: dict[str, bytes], write_zip: Write, tmp_path: Path, color: ImageSpec
) -> None:
    path = write_zip(tmp_path / "pets.zip", picture_files)
    config = DataConfig(source="pictures", path=path, validation_fraction=0.2, test_fraction=0.25)
    train, validation = load_training(config, color, seed=0)
    test = load_test(config, color, seed=0)
    assert [len(part) for part in (train, validation, test)] == [14, 4, 6]
    assert len(set(rows_of(train, validation, test))) == 24


def test_which_rows_are_held_out_does_not_depend_on_the_content(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    held = []
    for constant in (3, 200):
        files = {
            f"{i:02}.png": picture_bytes(np.full((9, 9), constant + i, np.uint8)) for i in range(len(picture_files))
        }
        config = DataConfig(source="pictures", path=write_folder(tmp_path / str(constant), files), test_fraction=0.25)
        test = load_test(config, color.model_copy(update={"fit": "stretch"}), seed=0)
        held.append(test.images[:, 0, 0, 0].astype(int) - constant)
    assert np.array_equal(held[0], held[1])


def test_a_test_folder_of_its_own_is_not_opened_by_training(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    config = DataConfig(
        source="pictures",
        path=write_folder(tmp_path / "train", picture_files),
        test_path=write_folder(tmp_path / "test", {"1.png": b"damaged"}),
        validation_fraction=0.25,
    )
    train, validation = load_training(config, color, seed=0)
    assert (len(train), len(validation)) == (18, 6)
    for load in (load_test, check_test):
        with pytest.raises(DataError, match=r"1\.png"):
            load(config, color, seed=0)


@pytest.mark.parametrize(("training", "test"), [("all", "all"), ("all", "all/cat"), ("all/cat", "all")])
def test_a_test_folder_inside_the_training_folder_is_refused(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec, training: str, test: str
) -> None:
    write_folder(tmp_path / "all", picture_files)
    config = DataConfig(source="pictures", path=tmp_path / training, test_path=tmp_path / test)
    with pytest.raises(DataError, match="would see test images"):
        load_training(config, color, seed=0)


@pytest.mark.parametrize("link", ["folder", "file", "hard"])
@pytest.mark.parametrize("linked", ["training", "test"])
def test_a_test_folder_that_a_link_leads_to_is_refused(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec, link: str, linked: str
) -> None:
    folders = [write_folder(tmp_path / name, picture_files) for name in ("training", "test")]
    config = DataConfig(source="pictures", path=folders[0], test_path=folders[1], validation_fraction=0.25)
    load_training(config, color, seed=0)
    source, target = folders if linked == "training" else folders[::-1]
    name = sorted(picture_files)[0]
    match link:
        case "folder":
            (source / "more").symlink_to(target / "cat")
        case "file":
            (source / f"1{Path(name).suffix}").symlink_to(target / name)
        case "hard":
            (source / f"1{Path(name).suffix}").hardlink_to(target / name)
    with pytest.raises(
        DataError, match=rf"training: {'12 files are' if link == 'folder' else '1 file is'} in data\.test_path"
    ):
        load_training(config, color, seed=0)


def test_arrays_keep_their_own_splits(tmp_path: Path, grey: ImageSpec) -> None:
    generator = np.random.default_rng(0)
    parts = {name: generator.integers(0, 2, (n, 9, 8), dtype=np.uint8) for name, n in (("train", 9), ("valid", 3))}
    np.savez(tmp_path / "a.npz", allow_pickle=True, **parts, test=np.array([None] * 4))
    config = DataConfig(source="arrays", path=tmp_path / "a.npz", binarization="static")
    train, validation = load_training(config, grey, seed=0)
    assert np.array_equal(train.images[..., 0], parts["train"] * 255)
    assert np.array_equal(validation.images[..., 0], parts["valid"] * 255)
    for load in (load_test, check_test):
        with pytest.raises(DataError, match="test cannot be read"):
            load(config, grey, seed=0)


def test_arrays_with_validation_but_no_test_hold_out_test_images(tmp_path: Path, grey: ImageSpec) -> None:
    generator = np.random.default_rng(0)
    images, valid = (generator.integers(0, 256, (n, 9, 8), dtype=np.uint8) for n in (20, 5))
    np.savez(tmp_path / "a.npz", images=images, valid=valid)
    config = DataConfig(source="arrays", path=Path("a.npz"), test_fraction=0.2)
    train, validation = load_training(config, grey, seed=0, data_dir=tmp_path)
    test = load_test(config, grey, seed=0, data_dir=tmp_path)
    assert [len(part) for part in (train, validation, test)] == [16, 5, 4]
    assert rows_of(train, test) == sorted(image.tobytes() for image in images)


@pytest.mark.parametrize(
    ("test", "binarization", "words"),
    [
        (np.full((6, 9, 8), np.nan, np.float32), "none", "test images from number 0 on"),
        (np.zeros((0, 9, 8), np.uint8), "none", "the test split is empty"),
        (np.full((6, 9, 8), 7, np.uint8), "static", "but the test images .* have grey ones"),
    ],
)
def test_arrays_that_could_not_be_measured_are_found_before(
    test: np.ndarray, binarization: Literal["none", "static"], words: str, tmp_path: Path, grey: ImageSpec
) -> None:
    train = np.random.default_rng(0).integers(0, 2, (20, 9, 8), dtype=np.uint8) * np.uint8(255)
    np.savez(tmp_path / "a.npz", train=train, test=test)
    config = DataConfig(source="arrays", path=tmp_path / "a.npz", binarization=binarization)
    load_training(config, grey, seed=0)
    for load in (load_test, check_test):
        with pytest.raises(DataError, match=words):
            load(config, grey, seed=0)


def test_a_check_counts_the_test_images_and_writes_nothing(
    picture_files: dict[str, bytes],
    write_folder: Write,
    tmp_path: Path,
    color: ImageSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.data.load.MEMORY_LIMIT", 10)
    config = DataConfig(source="pictures", path=write_folder(tmp_path / "in", picture_files), test_fraction=0.25)
    assert check_test(config, color, seed=0, data_dir=tmp_path) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    spec = color.model_copy(update={"height": 8, "width": 8, "channels": 1})
    assert check_test(DataConfig(source="digits"), spec, seed=0) == 180


def test_static_binarization_is_held_to_its_word(tmp_path: Path, grey: ImageSpec) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (20, 9, 8), dtype=np.uint8))
    config = DataConfig(source="arrays", path=tmp_path / "a.npy", binarization="static")
    with pytest.raises(DataError, match="grey ones: use 'dynamic'"):
        load_training(config, grey, seed=0)


def test_too_few_images_are_refused_with_what_would_do(tmp_path: Path, grey: ImageSpec) -> None:
    np.save(tmp_path / "a.npy", np.full((8, 9, 8), 77, np.uint8))
    config = DataConfig(source="arrays", path=tmp_path / "a.npy", test_fraction=0.13)
    with pytest.raises(DataError, match=r"validation_fraction to 0\.14 or more"):
        load_training(config, grey, seed=0)
    with pytest.raises(DataError, match="test_fraction"):
        load_test(config.model_copy(update={"test_fraction": 0.01}), grey, seed=0)


@pytest.mark.parametrize("source", ["pictures", "arrays"])
def test_a_path_that_is_missing_is_asked_for(
    tmp_path: Path, grey: ImageSpec, source: Literal["pictures", "arrays"]
) -> None:
    empty = DataConfig.model_construct(source=source, path=None, test_path=None)
    with pytest.raises(DataError, match=r"data\.path is missing"):
        load_training(empty, grey, seed=0)
    config = DataConfig.model_validate({"source": source, "path": tmp_path / "absent.npz"})
    with pytest.raises(DataError, match=r"absent\.npz: not found; name a"):
        load_training(config, grey, seed=0, data_dir=tmp_path)
    relative = config.model_copy(update={"path": Path("absent.npz")})
    with pytest.raises(DataError, match=r"absent\.npz: not found here; name a .*--data-dir"):
        load_training(relative, grey, seed=0)
    with pytest.raises(DataError, match=rf"not found here, nor in {re.escape(str(tmp_path))}; .*--data-dir"):
        load_training(relative, grey, seed=0, data_dir=tmp_path)


def test_loading_data_needs_no_torch() -> None:
    code = "import sys, training.data.load; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
