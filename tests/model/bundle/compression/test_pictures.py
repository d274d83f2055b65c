"""Which pictures are compressed as they are, which are refused, and what is made of others when asked for."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from model.bundle.compression.pictures import binary_pictures, count_binary
from model.bundle.drawing import encode_picture
from model.bundle.errors import CompressedError, OfflineError, PictureError
from model.bundle.manifest import ImageSpec

SPEC = ImageSpec(height=8, width=12, channels=1)


@pytest.fixture
def binary() -> np.ndarray:
    white = np.random.default_rng(0).random((70, 8, 12, 1)) < 0.5
    return np.where(white, np.uint8(255), np.uint8(0))


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 8, 12, 1)).astype(np.uint8)


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_folders_zips_files_and_arrays_give_the_same(binary: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(binary):
        (folder / f"{number:02}.png").write_bytes(encode_picture(picture))
    files = sorted(folder.iterdir())
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    for sources in (
        [folder],
        [tmp_path / "pictures.zip"],
        files,
        [saved(tmp_path / "levels.npy", binary)],
        [saved(tmp_path / "plain.npy", binary[..., 0])],
        [saved(tmp_path / "bool.npy", binary > 0)],
        [*files[:3], saved(tmp_path / "rest.npy", binary[3:])],
    ):
        assert count_binary(sources) == 70
        assert_array_equal(np.stack(list(binary_pictures(sources, SPEC))), binary)


@pytest.mark.parametrize("binarize", ["threshold", "sample"])
def test_what_is_black_and_white_stays(binarize: str, binary: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", binary)
    assert_array_equal(np.stack(list(binary_pictures([path], SPEC, binarize=binarize, seed=3))), binary)  # type: ignore[arg-type]


def test_threshold_is_half_of_the_range(tmp_path: Path) -> None:
    levels = np.resize(np.array([0, 1, 127, 128, 254, 255], np.uint8), (1, 8, 12, 1))
    (picture,) = binary_pictures([saved(tmp_path / "a.npy", levels)], SPEC, binarize="threshold")
    assert picture.ravel()[:6].tolist() == [0, 0, 0, 255, 255, 255]


def test_sample_makes_white_of_as_many_as_the_level_says(tmp_path: Path) -> None:
    levels = np.resize(np.array([0, 25, 102, 204, 255], np.uint8), (400, 8, 10, 1))
    spec = ImageSpec(height=8, width=10, channels=1)
    drawn = np.stack(list(binary_pictures([saved(tmp_path / "a.npy", levels)], spec, binarize="sample", seed=1)))
    assert set(np.unique(drawn)) == {0, 255}
    shares = [float((drawn[levels == level] / 255).mean()) for level in (0, 25, 102, 204, 255)]
    np.testing.assert_allclose(shares, [0, 25 / 255, 0.4, 0.8, 1], atol=0.02)


def test_noise_is_of_the_seed_and_the_pictures_number(grey: np.ndarray, tmp_path: Path) -> None:
    path, rest = saved(tmp_path / "a.npy", grey), saved(tmp_path / "b.npy", grey[:1])

    def drawn(*sources: Path, seed: int) -> np.ndarray:
        return np.stack(list(binary_pictures(sources, SPEC, binarize="sample", seed=seed)))

    whole = drawn(path, seed=1)
    assert_array_equal(drawn(path, rest, seed=1)[:70], whole)
    assert_array_equal(drawn(rest, seed=1), whole[:1])
    assert not np.array_equal(drawn(path, seed=2), whole)
    assert not np.array_equal(drawn(rest, rest, seed=1)[0], drawn(rest, rest, seed=1)[1])


def test_other_sizes_are_fitted_only_when_asked_for(binary: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path / "large.npy", np.kron(binary, np.ones((1, 2, 2, 1), np.uint8)))
    with pytest.raises(PictureError, match=r"large\.npy: the picture has 24 x 16 pixels and the model takes 12 x 8"):
        list(binary_pictures([path], SPEC))
    assert next(binary_pictures([path], SPEC, binarize="threshold")).shape == (8, 12, 1)


def test_grey_is_refused_by_name(binary: np.ndarray, grey: np.ndarray, tmp_path: Path) -> None:
    mixed = np.concatenate([binary[:66], grey[:1]])
    with pytest.raises(CompressedError, match=r"a\.npy, picture 66: is not black and white .* --binarize makes it so"):
        list(binary_pictures([saved(tmp_path / "a.npy", mixed)], SPEC))
    for name, picture in (("a.png", binary[0]), ("b.png", grey[0])):
        (tmp_path / name).write_bytes(encode_picture(picture))
    (tmp_path / "a.npy").unlink()
    with pytest.raises(CompressedError, match=r"/b\.png: is not black and white"):
        list(binary_pictures([tmp_path], SPEC))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 8, 12), np.float32), "holds float32 and not the uint8"),
        (np.zeros((2, 8, 12), np.int64), "must be uint8"),
        (np.zeros((2, 8), np.uint8), r"\[N, H, W\]"),
        (np.array(3), "not a .npy file of pictures"),
        (np.array([{}], dtype=object), "not a .npy file of numbers"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises((OfflineError, PictureError), match=words):
        list(binary_pictures([tmp_path / "a.npy"], SPEC))


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "a.npy"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(PictureError, match=r"a\.png: "):
        list(binary_pictures([tmp_path / "a.png"], SPEC))
    with pytest.raises(OfflineError, match=r"a\.npy: "):
        list(binary_pictures([tmp_path / "a.npy"], SPEC))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OfflineError, match="holds no pictures"):
        count_binary([tmp_path / "empty"])
