"""Training pictures are what the server would make of them; a folder and a zip of it are the same data."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_picture, read_picture
from tests.training.data.conftest import picture_bytes
from training.data.pictures import PicturePool, class_labels
from training.data.pools import Workspace
from training.data.splits import all_rows
from training.errors import DataError

Write = Callable[[Path, dict[str, bytes]], Path]


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_fitted_as_the_server_fits_them(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, fit: str, channels: int
) -> None:
    spec = ImageSpec.model_validate({"height": 11, "width": 9, "channels": channels, "fit": fit})
    pool = PicturePool.open(write_folder(tmp_path / "in", picture_files), Workspace(spec, tmp_path / "cache"))
    data = pool.read(all_rows(len(pool)), "train")
    expected = [fit_picture(read_picture(picture_files[name]), spec) for name in sorted(picture_files)]
    assert np.array_equal(data.images, np.stack(expected))
    assert data.images.dtype == np.uint8
    assert not (tmp_path / "cache").exists()


def test_a_zip_is_the_folder(
    picture_files: dict[str, bytes], write_folder: Write, write_zip: Write, tmp_path: Path, color: ImageSpec
) -> None:
    clutter = {"README.txt": b"text", "cat/.DS_Store": b"x", "cat/._1.png": b"x", "__MACOSX/cat/1.png": b"x"}
    inside = {f"pets/{name}": data for name, data in picture_files.items()}
    workspace = Workspace(color, tmp_path / "cache")
    folder = PicturePool.open(write_folder(tmp_path / "pets", picture_files | clutter), workspace)
    one = folder.read(all_rows(len(folder)), "train")
    for name, files in (("pets.zip", picture_files | clutter), ("nested.zip", inside)):
        pool = PicturePool.open(write_zip(tmp_path / name, files), workspace)
        other = pool.read(all_rows(len(pool)), "train")
        assert pool.name == Path(name).stem
        assert np.array_equal(one.images, other.images)
        assert one.sha256 == other.sha256
        assert one.label_names == other.label_names == ("cat", "dog")
        assert one.labels is not None
        assert other.labels is not None
        assert np.array_equal(one.labels, other.labels)


def test_a_memory_map_holds_what_memory_would(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    folder = write_folder(tmp_path / "in", picture_files)
    rows = np.array([1, 4, 5, 20])
    cache = tmp_path / "cache"
    memory = PicturePool.open(folder, Workspace(color, cache)).read(rows, "train")
    calls: list[tuple[str, int, int]] = []
    small = Workspace(color, cache, lambda *call: calls.append(call), memory_limit=10)
    mapped = PicturePool.open(folder, small).read(rows, "train")
    assert isinstance(mapped.images, np.memmap)
    assert not mapped.images.flags.writeable
    assert np.array_equal(memory.images, mapped.images)
    assert memory.sha256 == mapped.sha256
    assert calls == [("decoding in", 4, 4)]
    again = PicturePool.open(folder, small).read(rows, "train")
    assert len(calls) == 1
    assert again.sha256 == mapped.sha256
    changed = sorted(picture_files)[4]
    (folder / changed).write_bytes(picture_bytes(np.zeros((7, 7, 3), np.uint8)))
    assert PicturePool.open(folder, small).read(rows, "train").sha256 != mapped.sha256


def test_another_folder_of_the_same_names_sizes_and_times_is_not_taken_for_it(
    write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    """As unpacked from two archives, or written by a camera that starts anew."""
    workspace, found = Workspace(color, tmp_path / "cache", memory_limit=10), []
    for level in (10, 200):
        folder = write_folder(tmp_path / str(level), {"1.bmp": picture_bytes(np.full((9, 9), level, np.uint8), "bmp")})
        os.utime(folder / "1.bmp", (1e9, 1e9))
        found.append(PicturePool.open(folder, workspace).read(all_rows(1), "train"))
    sizes = [(tmp_path / str(level) / "1.bmp").stat().st_size for level in (10, 200)]
    assert sizes[0] == sizes[1]
    assert found[0].sha256 != found[1].sha256


def test_only_the_asked_pictures_are_decoded(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    names = sorted(picture_files)
    picture_files[names[3]] = b"no picture"
    pool = PicturePool.open(write_folder(tmp_path / "in", picture_files), Workspace(color, tmp_path))
    assert len(pool.read(np.array([0, 1, 2, 4]), "train")) == 4
    with pytest.raises(DataError, match=f"1 of 24 pictures .*\n  {names[3]}: "):
        pool.read(np.arange(4), "train")


def test_what_cannot_be_read_is_named_in_one_error(
    picture_files: dict[str, bytes],
    write_zip: Write,
    tmp_path: Path,
    color: ImageSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = sorted(picture_files)
    for name in names[::3]:
        picture_files[name] = picture_files[name][:40]
    pool = PicturePool.open(write_zip(tmp_path / "in.zip", picture_files), Workspace(color, tmp_path))
    with pytest.raises(DataError) as caught:
        pool.read(np.arange(2, 9), "train")  # whichever were asked for
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("8 of 24 pictures cannot be used: repair them, or remove them before a run begins")
    assert [line.split(":")[0].strip() for line in lines[1:]] == names[::3]
    monkeypatch.setattr("training.data.pictures._NAMED_UNUSABLE", 5)
    with pytest.raises(DataError) as caught:
        pool.read(np.arange(2, 9), "train")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:6]] == names[::3][:5]
    assert lines[6].strip() == "and 3 more"


def test_a_check_shows_every_picture_and_keeps_none(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    folder, cache = write_folder(tmp_path / "in", picture_files), tmp_path / "cache"
    pool = PicturePool.open(folder, Workspace(color, cache, memory_limit=10))
    shown: list[bytes] = []
    pool.check(np.arange(3, 9), "test", lambda images: shown.extend(image.tobytes() for image in images))
    assert not cache.exists()
    assert sorted(shown) == sorted(image.tobytes() for image in pool.read(np.arange(3, 9), "test").images)
    (folder / sorted(picture_files)[3]).write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 of 24 pictures"):
        pool.check(np.arange(3, 9), "test", lambda images: None)


def test_a_picture_that_vanishes_is_named(write_folder: Write, tmp_path: Path, color: ImageSpec) -> None:
    folder = write_folder(tmp_path / "in", {"1.png": picture_bytes(np.zeros((9, 9), np.uint8))})
    pool = PicturePool.open(folder, Workspace(color, tmp_path))
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        pool.read(all_rows(1), "train")


def test_a_damaged_zip_member_is_named(write_zip: Write, tmp_path: Path, color: ImageSpec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    path = write_zip(tmp_path / "in.zip", {"1.png": picture_bytes(noise)})
    data = bytearray(path.read_bytes())
    data[120] ^= 255
    path.write_bytes(data)
    pool = PicturePool.open(path, Workspace(color, tmp_path))
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        pool.read(all_rows(1), "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no pictures among 0 files"),
        ({"notes.txt": b"text"}, "no pictures among 1 file "),
        ({"1.png": b"", "scan.TIFF": b""}, "scan.TIFF"),
    ],
)
def test_folders_without_usable_pictures_are_refused(
    files: dict[str, bytes], message: str, write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=message):
        PicturePool.open(write_folder(tmp_path / "in", files), Workspace(color, tmp_path))


def test_linked_class_folders_count_and_loops_are_refused(
    picture_files: dict[str, bytes], write_folder: Write, tmp_path: Path, color: ImageSpec
) -> None:
    write_folder(tmp_path / "elsewhere", picture_files)
    (tmp_path / "in").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere" / name)
    pool = PicturePool.open(tmp_path / "in", Workspace(color, tmp_path))
    assert (len(pool), pool.label_names) == (24, ("cat", "dog"))
    (tmp_path / "elsewhere" / "cat" / "loop").symlink_to(tmp_path / "in")
    with pytest.raises(DataError, match="twice"):
        PicturePool.open(tmp_path / "in", Workspace(color, tmp_path))


def test_a_pipe_named_like_a_picture_is_refused_without_waiting_for_it(tmp_path: Path, color: ImageSpec) -> None:
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(DataError, match="not a regular file"):
        PicturePool.open(tmp_path, Workspace(color, tmp_path))


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, color: ImageSpec) -> None:
    (tmp_path / "1.png").write_bytes(picture_bytes(np.zeros((9, 9), np.uint8)))
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        PicturePool.open(tmp_path / "1.png", Workspace(color, tmp_path))


@pytest.mark.parametrize(
    ("names", "labels", "label_names"),
    [
        ([], None, None),
        (["a/1.png", "a/2.png"], None, None),
        (["a/1.png", "2.png"], None, None),
        (["r/a/1.png", "r/2.png"], None, None),
        (["r/b/1.png", "r/a/x/2.png", "r/b/x/3.png"], [1, 0, 1], ("a", "b")),
        (["ab/1.png", "abc/1.png"], [0, 1], ("ab", "abc")),
    ],
)
def test_classes_are_the_first_folders_that_differ(
    names: list[str], labels: list[int] | None, label_names: tuple[str, ...] | None
) -> None:
    found, found_names = class_labels(names)
    assert (None if found is None else found.tolist()) == labels
    assert found_names == label_names
