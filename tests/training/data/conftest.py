"""Small made-up sources: IDX files with known checksums, and folders of pictures."""

import gzip
import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.bundle.manifest import ImageSpec
from training.data.mnist import IdxFile, IdxSource


@dataclass(frozen=True)
class MadeUp:
    """A tiny IDX source with the unpacked content of each of its files."""

    source: IdxSource
    contents: dict[str, bytes]
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def write(self, folder: Path, *names: str, plain: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or self.contents:
            data = self.contents[name]
            if plain:
                (folder / name).write_bytes(data)
            else:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        return folder


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


@pytest.fixture
def made_up() -> MadeUp:
    generator = np.random.default_rng(7)
    contents, files, images, labels = {}, {}, {}, {}
    for split, prefix, n in (("train", "train", 20), ("test", "t10k", 6)):
        images[split] = generator.integers(0, 256, (n, 9, 8), dtype=np.uint8)
        labels[split] = generator.integers(0, 10, n, dtype=np.uint8)
        pair = []
        for name, array in ((f"{prefix}-images", images[split]), (f"{prefix}-labels", labels[split])):
            contents[name] = idx(array)
            pair.append(IdxFile(name, hashlib.sha256(contents[name]).hexdigest(), array.ndim))
        files[split] = (pair[0], pair[1])
    return MadeUp(IdxSource("Made-up", files, ()), contents, images, labels)


def picture_bytes(array: np.ndarray, suffix: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG" if suffix == "jpg" else suffix.upper())
    return buffer.getvalue()


@pytest.fixture
def picture_files() -> dict[str, bytes]:
    """Relative name -> bytes: two classes, mixed sizes, formats and modes."""
    generator = np.random.default_rng(3)
    files = {}
    for i in range(24):
        height, width = generator.integers(5, 30, 2)
        shape = (height, width) if i % 5 == 0 else (height, width, 4 if i % 5 == 1 else 3)
        suffix = "png" if len(shape) == 2 or shape[-1] == 4 else ("jpg", "bmp", "webp", "png")[i % 4]
        array = generator.integers(0, 256, shape, dtype=np.uint8)
        files[f"{'cat' if i % 2 else 'dog'}/{i:02}.{suffix}"] = picture_bytes(array, suffix)
    return files


@pytest.fixture
def write_folder() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(folder: Path, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return write


@pytest.fixture
def write_zip() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(path: Path, files: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in reversed(files):  # the order inside must not matter
                archive.writestr(name, files[name])
        return path

    return write


@pytest.fixture
def color() -> ImageSpec:
    return ImageSpec(height=10, width=12, channels=3, fit="contain", background=(9, 8, 7))


@pytest.fixture
def grey() -> ImageSpec:
    return ImageSpec(height=9, width=8, channels=1)
