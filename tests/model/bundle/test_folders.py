"""Pictures of a folder and of a zip file."""

import os
import zipfile
from pathlib import Path

import pytest

from model.bundle.errors import PictureCorrupt, PictureError, PictureTooLarge
from model.bundle.folders import iterate_pictures, picture_names

NAMES = ["b.png", "a/2.JPG", "a/10.webp", "ü.gif", "c.bmp", "d.jpeg"]
OTHERS = ["notes.txt", ".hidden.png", ".git/x.png", "__MACOSX/a/._2.JPG", "png", "model.onnx"]


def fill(folder: Path) -> Path:
    for name in NAMES + OTHERS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def packed(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(NAMES + OTHERS):
            archive.write(folder / name, name)
    return to


def test_folder_and_zip_give_the_same_sorted_pictures(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures")
    archive = packed(folder, tmp_path / "pictures.zip")
    expected = [(name, name.encode()) for name in sorted(NAMES)]
    for path in (folder, archive):
        assert picture_names(path) == sorted(NAMES)
        assert list(iterate_pictures(path)) == expected


@pytest.mark.parametrize("zipped", [False, True])
def test_files_too_large_are_refused_unread(tmp_path: Path, zipped: bool) -> None:
    folder = fill(tmp_path / "pictures")
    (folder / "b.png").write_bytes(b"\0" * 1001)
    path = packed(folder, tmp_path / "p.zip") if zipped else folder
    with pytest.raises(PictureTooLarge, match=r"b\.png"):
        list(iterate_pictures(path, max_bytes=1000))
    assert len(list(iterate_pictures(path, max_bytes=1001))) == len(NAMES)


def test_a_zip_member_that_lies_about_its_size_gives_no_more_than_it_promised(tmp_path: Path) -> None:
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 10_000_000)
    honest = (10_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(honest, (10).to_bytes(4, "little")))
    with pytest.raises(PictureCorrupt, match=r"a\.png"):
        list(iterate_pictures(path, max_bytes=100))


def test_a_broken_zip_member_is_named(tmp_path: Path) -> None:
    path = packed(fill(tmp_path / "pictures"), tmp_path / "p.zip")
    data = path.read_bytes()
    at = data.index(b"b.png") + len("b.png")
    path.write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])
    with pytest.raises(PictureCorrupt, match=r"b\.png"):
        list(iterate_pictures(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    for name in ("x.txt", "missing"):
        with pytest.raises(PictureError, match=f"{name} is neither a folder nor a zip"):
            picture_names(tmp_path / name)


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures")
    (folder / "circle").symlink_to(folder)
    assert picture_names(folder) == sorted(NAMES)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match=r"pipe\.png is not a file"):
        list(iterate_pictures(tmp_path))
