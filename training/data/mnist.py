"""MNIST from its four original IDX files, found on disk or downloaded, and always checked against their SHA-256.

An IDX file (http://yann.lecun.com/exdb/mnist/) is: two zero bytes, a type code (0x08: unsigned byte), the number of
dimensions, each dimension as a big-endian uint32, then the values in C order. Checksums are of the unpacked content,
because mirrors compress the same bytes differently.
"""

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset, Progress
from training.data.download import download
from training.errors import DataError

_UNSIGNED_BYTE = 0x08
_LARGEST_FILE = 1 << 28  # unpacked; MNIST's largest has 47 MB, so a gzip bomb ends here


@dataclass(frozen=True)
class IdxFile:
    """One file: its name without ``.gz``, the SHA-256 of its unpacked content, its number of dimensions."""

    name: str
    sha256: str
    dimensions: int


@dataclass(frozen=True)
class IdxSource:
    """A data set of IDX files: for each split the images and the labels, and where to get ``NAME.gz`` of each."""

    name: str
    files: Mapping[str, tuple[IdxFile, IdxFile]]
    mirrors: tuple[str, ...]


MNIST = IdxSource(
    name="MNIST",
    files=MappingProxyType(
        {
            "train": (
                IdxFile(
                    "train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 3
                ),
                IdxFile(
                    "train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 1
                ),
            ),
            "test": (
                IdxFile(
                    "t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 3
                ),
                IdxFile(
                    "t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 1
                ),
            ),
        }
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)


def load_idx(
    source: IdxSource,
    split: str,
    folders: Sequence[Path],
    *,
    download_to: Path,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Dataset:
    """One split of ``source``: each file from the first of ``folders`` that has it, else from a mirror.

    Only the two files of ``split`` are looked for, opened or downloaded (into ``download_to``).

    Returns:
        images uint8 ``(N, H, W, 1)``, labels int64 ``(N,)``.

    Raises:
        DataError: a file is neither found nor downloadable, is not the original, or is not IDX.
    """
    images_file, labels_file = source.files[split]
    images = _read(source, images_file, folders, download_to, progress, timeout)
    labels = _read(source, labels_file, folders, download_to, progress, timeout).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(f"{images_file.name} has {len(images)} images and {labels_file.name} {len(labels)} labels")
    names = tuple(str(label) for label in range(10))
    return Dataset.of(images[..., None], name=source.name, split=split, labels=labels, label_names=names)


def unpack(data: bytes, what: str) -> bytes:
    """The content of a gzip file, or ``data`` itself when it is not gzip.

    Raises:
        DataError: damaged or truncated gzip, or more than 256 MiB; ``what`` names it.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(data, _LARGEST_FILE)
    except zlib.error as error:
        raise DataError(f"{what}: damaged gzip file") from error
    if unpacker.unconsumed_tail:
        raise DataError(f"{what}: unpacks to more than {_LARGEST_FILE >> 20} MiB")
    if not unpacker.eof:
        raise DataError(f"{what}: truncated gzip file")
    return content


def parse_idx(content: bytes, dimensions: int, what: str) -> NDArray[np.uint8]:
    """The array of an unpacked IDX file of unsigned bytes.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), 1, "two labels")
    array([7, 9], dtype=uint8)

    Raises:
        DataError: wrong magic number, number of dimensions or length; ``what`` names the file.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise DataError(
            f"{what}: starts with {content[:4].hex(' ') or 'nothing'}, not with the IDX magic {magic.hex(' ')}"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{what}: ends inside the IDX header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{what}: {len(content)} bytes, but its header says {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read(
    source: IdxSource,
    file: IdxFile,
    folders: Sequence[Path],
    download_to: Path,
    progress: Progress | None,
    timeout: float,
) -> NDArray[np.uint8]:
    path = _find(file, folders)
    if path is None:
        path = _fetch(source, file, folders, download_to, progress, timeout)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_idx(_checked(data, file, source, str(path)), file.dimensions, str(path))


def _find(file: IdxFile, folders: Sequence[Path]) -> Path | None:
    candidates = (folder / name for folder in folders for name in (file.name + ".gz", file.name))
    return next((path for path in candidates if path.is_file()), None)


def _fetch(
    source: IdxSource,
    file: IdxFile,
    folders: Sequence[Path],
    download_to: Path,
    progress: Progress | None,
    timeout: float,
) -> Path:
    name = file.name + ".gz"
    try:
        return download(
            [mirror + name for mirror in source.mirrors],
            download_to / name,
            check=lambda data, url: _checked(data, file, source, url),
            progress=progress,
            timeout=timeout,
        )
    except DataError as error:
        wanted = ", ".join(f"{each.name}.gz" for pair in source.files.values() for each in pair)
        looked = ", ".join(str(folder) for folder in folders)
        raise DataError(
            f"{source.name}: {name} is not in {looked} and could not be downloaded ({error}). "
            f"Without a network, put {wanted} in a folder and name it with --data-dir"
        ) from error


def _checked(data: bytes, file: IdxFile, source: IdxSource, what: str) -> bytes:
    """The unpacked content, proven to be the original's."""
    content = unpack(data, what)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{what}: not the original {source.name} file: "
            f"its unpacked SHA-256 is {found[:16]}..., not {file.sha256[:16]}..."
        )
    return content
