"""The pictures in a folder or a zip file, in an order that does not depend on the machine."""

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from model.bundle.errors import PictureCorrupt, PictureError, PictureTooLarge

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
MAX_BYTES = 64 * 2**20


def picture_names(path: Path) -> list[str]:
    """The sorted names, relative and with forward slashes, of all pictures in a folder (recursive) or a zip file.

    A picture is what has a picture's suffix; hidden files and folders, and the shadows macOS puts into zips, are not.
    Raises PictureError where `path` is neither a folder nor a zip file.
    """
    if path.is_dir():
        found = [
            Path(root, file).relative_to(path).as_posix()
            for root, _, files in os.walk(path)  # does not follow links to folders, which may run in circles
            for file in files
        ]
    else:
        with _open_zip(path) as archive:
            found = [member.filename for member in archive.infolist() if not member.is_dir()]
    return sorted({name for name in found if _is_picture(name)})


def iterate_pictures(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each of `picture_names`, read one at a time; nothing is extracted.

    Raises PictureTooLarge beyond `max_bytes` a file, before it is unpacked, and PictureCorrupt where a zip is broken.
    """
    names = picture_names(path)
    if path.is_dir():
        for name in names:
            yield name, _read(path / name, name, max_bytes)
        return
    with _open_zip(path) as archive:
        for name in names:
            if archive.getinfo(name).file_size > max_bytes:
                raise _too_large(name, max_bytes)
            try:
                # Never more than the directory promised: the reader stops there, and checks the CRC.
                yield name, archive.read(name)
            except Exception as error:  # each compression has its own types; a password and a wrong CRC have others
                raise PictureCorrupt(f"{name} cannot be unpacked from {path.name}") from error


def _read(path: Path, name: str, max_bytes: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"{name} is not a file")
    if status.st_size > max_bytes:
        raise _too_large(name, max_bytes)
    return path.read_bytes()


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise PictureError(f"{path.name} is neither a folder nor a zip file of pictures") from error


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _too_large(name: str, max_bytes: int) -> PictureTooLarge:
    return PictureTooLarge(f"{name} has more than the {max_bytes} bytes allowed")
