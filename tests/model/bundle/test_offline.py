"""Pictures in files become latents in a file, and back, with what a server would give."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.bundle import offline
from model.bundle.drawing import encode_picture
from model.bundle.errors import ModelFault, OfflineError, PictureError
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.runtime import Bundle
from model.bundle.store import open_bundle
from tests.support.tiny import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with 70 pictures, more than one piece, in two folders."""
    folder = tmp_path / "pictures"
    generator = np.random.default_rng(0)
    for number in range(70):
        file = folder / f"{number % 2}" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_picture(generator.integers(0, 256, (8, 8, 1)).astype(np.uint8)))
    return folder


def test_a_folder_its_zip_and_its_files_are_the_same(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in pictures.rglob("*.png"):
            file.write(path, path.relative_to(pictures))
    heard: list[int] = []
    folder = offline.encode_pictures(bundle, offline.read_sources([pictures]), progress=heard.append)
    assert sum(heard) == offline.count_pictures([pictures]) == 70
    assert folder.names[:2] == ("0/00.png", "0/02.png")
    zipped = offline.encode_pictures(bundle, offline.read_sources([archive]))
    single = offline.encode_pictures(bundle, offline.read_sources(sorted(pictures.rglob("*.png"))))
    assert zipped.names == folder.names
    assert single.names == tuple(str(pictures / name) for name in folder.names)
    for other in (zipped, single):
        np.testing.assert_array_equal(other.mean, folder.mean)
        np.testing.assert_array_equal(other.log_variance, folder.log_variance)
    images = np.stack([np.asarray(Image.open(pictures / name))[..., None] for name in folder.names])
    np.testing.assert_allclose(folder.mean, bundle.encode(to_network(images)).mean, rtol=1e-6)


def test_several_sources_keep_their_names_apart(bundle: Bundle, pictures: Path) -> None:
    sources = [pictures / "0", pictures / "1" / "01.png"]
    names = offline.encode_pictures(bundle, offline.read_sources(sources)).names
    assert (names[0], names[-1]) == (f"{pictures.as_posix()}/0/00.png", str(pictures / "1" / "01.png"))


def test_a_picture_that_cannot_be_read_is_named(bundle: Bundle, pictures: Path) -> None:
    (pictures / "0" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"^0/bad\.png: "):
        offline.encode_pictures(bundle, offline.read_sources([pictures]))
    skipped: list[str] = []
    encoding = offline.encode_pictures(
        bundle, offline.read_sources([pictures]), skip=lambda error: skipped.append(str(error))
    )
    assert len(encoding.names) == len(encoding.mean) == 70
    assert [text.partition(":")[0] for text in skipped] == ["0/bad.png"]


def test_a_source_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="holds no pictures"):
        offline.count_pictures([tmp_path])


def test_saved_latents_load(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    encoding = offline.encode_pictures(bundle, offline.read_sources([pictures]))
    offline.save_encoding(tmp_path / "latents.npz", encoding)
    with np.load(tmp_path / "latents.npz", allow_pickle=False) as saved:
        assert set(saved.files) == {"mean", "log_variance", "latent", "names"}
        np.testing.assert_array_equal(saved["latent"], encoding.mean)
        assert tuple(saved["names"]) == encoding.names
        np.testing.assert_array_equal(saved["log_variance"], encoding.log_variance)
    np.testing.assert_array_equal(offline.load_latents(tmp_path / "latents.npz", 2), encoding.mean)
    np.save(tmp_path / "latents.npy", encoding.mean.astype(np.float64))
    np.testing.assert_array_equal(offline.load_latents(tmp_path / "latents.npy", 2), encoding.mean)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 5)), r"holds float64 \[3, 5\]"),
        (np.zeros(3), r"holds float64 \[3\]"),
        (np.zeros((0, 2)), r"\[0, 2\]"),
        (np.zeros((3, 2), complex), "complex128"),
        (np.array([["a", "b"]]), "<U1"),
        (np.array([[1.0, np.nan]]), "NaN or infinity"),
        (np.array([[1.0, 1e300]]), "NaN or infinity"),
        (np.array([[{}, {}]], dtype=object), "not a .npy or .npz file of numbers"),
    ],
)
def test_latents_that_a_model_cannot_take(array: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "latents.npy", array, allow_pickle=True)
    with pytest.raises(OfflineError, match=words):
        offline.load_latents(tmp_path / "latents.npy", 2)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 no zip"])
def test_files_that_are_no_latents(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "latents.npz").write_bytes(content)
    with pytest.raises(OfflineError, match=r"not a \.npy or \.npz file"):
        offline.load_latents(tmp_path / "latents.npz", 2)


def test_an_archive_without_means(tmp_path: Path) -> None:
    np.savez(tmp_path / "latents.npz", other=np.zeros(2))
    with pytest.raises(OfflineError, match="no array named latent or mean"):
        offline.load_latents(tmp_path / "latents.npz", 2)


def test_every_output_holds_the_same_pictures(bundle: Bundle, tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(70, 2)).astype(np.float32)
    images = to_uint8(from_network(bundle.decode(latents)))
    for name in ("array.npy", "folder", "grid.png", "walk.gif", "walk.webp"):
        heard: list[int] = []
        offline.decode_to(bundle, latents, tmp_path / name, progress=heard.append)
        assert sum(heard) == 70
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), images)
    files = sorted((tmp_path / "folder").iterdir())
    assert [file.name for file in files[:2]] == ["00000.png", "00001.png"]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), images[..., 0])
    assert np.asarray(Image.open(tmp_path / "grid.png"))[:8, :8].tolist() == images[0, ..., 0].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "array.npy",
        "folder",
        "grid.png",
        "walk.gif",
        "walk.webp",
    ]


@pytest.mark.parametrize("name", ["array.npy", "folder", "grid.png"])
def test_a_fault_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    overflowing = open_bundle(write_tiny_bundle(tmp_path / "tiny", decoder="overflowing"))
    latents = np.zeros((70, 2), np.float32)
    latents[-1] = 1e6
    with pytest.raises(ModelFault):
        offline.decode_to(overflowing, latents, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for output, count, words in (
        ("full", 1, "not an empty folder"),
        ("full/file", 1, "not an empty folder"),
        ("picture.jpg", 1, "write to a folder"),
        ("missing/grid.png", 1, "no such folder"),
        ("grid.png", offline.MAX_TOGETHER + 1, "name a folder"),
    ):
        with pytest.raises(OfflineError, match=words):
            offline.check_output(tmp_path / output, count)
    with pytest.raises(OfflineError, match="npz"):
        offline.check_encoding(tmp_path / "latents.npy")
    with pytest.raises(OfflineError, match="no such folder"):
        offline.check_encoding(tmp_path / "missing" / "latents.npz")
