"""A folder or zip of pictures of any sizes: listed first, and only the chosen ones decoded, by the code that serves.

Pictures are ordered by their relative name, so a folder and a zip of it are the same data. Their class is the first
folder below those that all of them share (``test/cat/1.png`` and ``test/dog/1.png``: cat and dog).
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import PictureError
from model.bundle.folders import SUFFIXES
from model.bundle.pixels import fit_picture, read_picture
from training.data.cache import materialize
from training.data.dataset import Dataset
from training.data.pools import Workspace
from training.data.splits import Indices, all_rows
from training.errors import DataError
from training.words import count

UNREAD_SUFFIXES = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd"})
"""Pictures in formats that are not read: refused by name, because leaving them out would be silent."""
MAX_PIXELS = 89_000_000
"""Of one picture; more than the server allows, since these files are the user's own. Pillow warns above it."""
MAX_FILE_BYTES = 1 << 28

_WORKERS = 8
_WINDOW = 512
_NAMED = 5
_NAMED_UNUSABLE = 200  # each of them has to be repaired or removed; a longer list is another problem


class Entry(NamedTuple):
    """A picture file: relative name with ``/``, bytes, and a stamp that changes with the content (CRC-32 or mtime).

    ``file`` is its device and inode in a folder: the same of two names, however they were reached, is one file.
    """

    name: str
    size: int
    stamp: int
    file: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class PicturePool:
    """Pictures that are decoded when they are read; see :class:`training.data.pools.Pool`."""

    path: Path
    entries: tuple[Entry, ...]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...] | None
    workspace: Workspace
    ignored: int = 0
    """Files that are not looked at, since their names do not end as those of pictures do."""

    @classmethod
    def open(cls, path: Path, workspace: Workspace) -> "PicturePool":
        """List the pictures; decode none.

        Raises:
            DataError: ``path`` is no folder or zip, cannot be listed, or holds no pictures or some of an unread format.
        """
        entries, ignored = _listed(path)
        labels, names = class_labels([entry.name for entry in entries])
        return cls(path, entries, labels, names, workspace, ignored)

    @property
    def name(self) -> str:
        """The folder's name, or the zip's without ``.zip``."""
        return self.path.resolve().name if self.path.is_dir() else self.path.stem

    def __len__(self) -> int:
        return len(self.entries)

    def refuse_files_of(self, test: "PicturePool") -> None:
        """Refuse to train on files of a test set, which symbolic links can lead to.

        Raises:
            DataError: the first few of them.
        """
        files = {entry.file for entry in test.entries if entry.file is not None}
        shared = [entry.name for entry in self.entries if entry.file in files]
        if shared:
            files_are = count(len(shared), "file is", "files are")
            raise DataError(_few(f"{self.path}: {files_are} in data.test_path {test.path} too, through a link", shared))

    def listing(self) -> list[tuple[str, int]]:
        """Name and bytes of every picture, in order; names without the folders that all share, as a zip may add one."""
        shared = _shared_folders([entry.name for entry in self.entries])
        return [("/".join(PurePosixPath(entry.name).parts[shared:]), entry.size) for entry in self.entries]

    def read(self, rows: Indices, split: str) -> Dataset:
        """Decode and fit the pictures ``rows``.

        Raises:
            DataError: pictures that cannot be read. All of the folder or zip are named, with their reasons.
        """
        chosen = [self.entries[row] for row in rows]
        workspace = self.workspace
        images = materialize(
            workspace.shape(len(chosen)),
            lambda out: self._decode(rows, out.__setitem__, "decoding"),
            key=workspace.key("pictures", str(self.path.resolve()), [entry[:3] for entry in chosen]),
            folder=workspace.cache,
            limit=workspace.memory_limit,
        )
        return Dataset.of(
            images,
            name=self.name,
            split=split,
            labels=None if self.labels is None else self.labels[rows],
            label_names=self.label_names,
        )

    def check(self, rows: Indices, split: str, judge: Callable[[NDArray[np.uint8]], None]) -> None:
        """See :class:`training.data.pools.Pool`; raises as ``read`` does."""
        self._decode(rows, lambda _, picture: judge(picture[np.newaxis]), "checking")

    def _decode(self, rows: Indices, keep: Callable[[int, NDArray[np.uint8]], None], what: str) -> None:
        """Hand every picture, fitted, to ``keep``, with its place in ``rows``; threads do it, in any order."""
        failures = self._failures(rows, keep, what)
        if not failures:
            return
        # Whoever mends or removes these draws another split, and would find the next ones one run after the other.
        others = np.setdiff1d(all_rows(len(self)), rows)
        failures |= self._failures(others, lambda _, picture: None, "checking the rest of")
        named = [failures[row] for row in sorted(failures)]
        summary = f"{self.path}: {len(named):,} of {count(len(self), 'picture')} cannot be used"
        advice = "repair them, or remove them before a run begins"
        raise DataError(_few(f"{summary}: {advice}", named, _NAMED_UNUSABLE))

    def _failures(self, rows: Indices, keep: Callable[[int, NDArray[np.uint8]], None], what: str) -> dict[int, str]:
        """What is wrong with pictures that cannot be read, by their row."""
        failures: dict[int, str] = {}
        with _reader(self.path) as read, ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as executor:

            def decode(place: int) -> str | None:
                name = self.entries[rows[place]].name
                try:
                    picture = fit_picture(read_picture(read(name), max_pixels=MAX_PIXELS), self.workspace.image)
                except PictureError as error:
                    return f"{name}: {error}"
                except (OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, LZMAError) as error:
                    return f"{name}: cannot be read ({error})"
                keep(place, picture)
                return None

            # Window by window: neither a million futures nor a million file contents at a time.
            for start in range(0, len(rows), _WINDOW):
                window = range(start, min(start + _WINDOW, len(rows)))
                for place, failure in zip(window, executor.map(decode, window), strict=True):
                    if failure is not None:
                        failures[int(rows[place])] = failure
                self.workspace.report(f"{what} {self.name}", window.stop, len(rows))
        return failures


def class_labels(names: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Labels ``(N,)`` and their sorted names, from the first folder below those that all names share.

    None where the pictures lie in one folder, or some lie beside the class folders.

    >>> class_labels(["all/dog/1.png", "all/cat/1.png", "all/cat/more/2.png"])
    (array([1, 0, 0]), ('cat', 'dog'))
    >>> class_labels(["1.png", "2.png"])
    (None, None)
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if not folders:
        return None, None
    shared = _shared_folders(names)
    if any(len(parts) <= shared for parts in folders):
        return None, None
    classes = [parts[shared] for parts in folders]
    found = tuple(sorted(set(classes)))
    number = {name: index for index, name in enumerate(found)}
    return np.array([number[name] for name in classes], np.int64), found


def _shared_folders(names: Sequence[str]) -> int:
    """How many folders, from the outermost on, all names are in.

    >>> _shared_folders(["all/old/dog/1.png", "all/old/cat/1.png"])
    2
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    # What the first and the last in order share, all share.
    ends = zip(min(folders), max(folders), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))


def _listed(path: Path) -> tuple[tuple[Entry, ...], int]:
    """The pictures, and how many other files there are."""
    try:
        if path.is_dir():
            found = list(_folder_entries(path))
        elif zipfile.is_zipfile(path):
            found = list(_zip_entries(path))
        else:
            raise DataError(f"{path}: neither a folder nor a zip file")
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be listed: {error}") from error
    pictures = sorted(entry for entry in found if _suffix(entry) in SUFFIXES)
    unread = sorted(entry.name for entry in found if _suffix(entry) in UNREAD_SUFFIXES)
    formats = ", ".join(sorted(SUFFIXES))
    if unread:
        raise DataError(
            _few(f"{path}: {count(len(unread), 'picture')} of a format that is not read (read are {formats})", unread)
        )
    if not pictures:
        raise DataError(f"{path}: no pictures among {count(len(found), 'file')} (looked for {formats})")
    large = [entry.name for entry in pictures if entry.size > MAX_FILE_BYTES]
    if large:
        raise DataError(_few(f"{path}: {count(len(large), 'file')} of more than {MAX_FILE_BYTES >> 20} MiB", large))
    return tuple(pictures), len(found) - len(pictures)


def _suffix(entry: Entry) -> str:
    return PurePosixPath(entry.name).suffix.lower()


def _hidden(name: str) -> bool:
    """What operating systems leave beside pictures: ``.DS_Store``, ``._1.png``, ``__MACOSX``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _folder_entries(path: Path) -> Iterator[Entry]:
    """All files; those that are no pictures only by name, since they are never opened."""
    seen: set[str] = set()
    # Unlike Path.rglob, which passes over linked folders and unreadable ones without a word.
    for folder, _, files in os.walk(path, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            raise DataError(f"{folder}: symbolic links lead to the same folder twice")
        seen.add(real)
        for name in files:
            file = Path(folder, name)
            relative = file.relative_to(path).as_posix()
            if _hidden(relative):
                continue
            if file.suffix.lower() not in SUFFIXES:
                yield Entry(relative, 0, 0)
                continue
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file}: not a regular file")
            # A file system without inodes calls them all 0.
            which = (status.st_dev, status.st_ino) if status.st_ino else None
            yield Entry(relative, status.st_size, status.st_mtime_ns, which)


def _raise(error: OSError) -> NoReturn:
    raise error


def _zip_entries(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise DataError(f"{path}: the same name occurs twice in this zip file")
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise DataError(f"{path}: encrypted zip files are not read")
            if not member.is_dir() and not _hidden(member.filename):
                yield Entry(member.filename, member.file_size, member.CRC)


@contextmanager
def _reader(path: Path) -> Iterator[Callable[[str], bytes]]:
    """What gives the bytes of a name; threads may share it."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            yield archive.read


def _few(summary: str, items: Sequence[str], most: int = _NAMED) -> str:
    more = [f"and {len(items) - most:,} more"] if len(items) > most else []
    return "\n  ".join([summary, *items[:most], *more])
