"""From a configuration to data sets: the one place that decides which images train, validate and test.

A source offers up to three pools of images, each opened only when it is asked for::

    source      training pool          validation pool       test pool
    mnist       train-* files          -                     t10k-* files
    digits      all                    -                     -
    pictures    path                   -                     test_path, where given
    arrays      train (or images)      valid, where present  test, or test_path, where present

What a source does not offer is held out from its training pool by the seed (:mod:`training.data.splits`).
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.bundle.files import expand_home
from model.bundle.manifest import ImageSpec
from training.data.arrays import array_pools
from training.data.arrays import listing as array_listing
from training.data.cache import MEMORY_LIMIT
from training.data.dataset import Dataset, Progress
from training.data.digits import digits_pool
from training.data.mnist import MNIST, load_idx
from training.data.pictures import PicturePool
from training.data.pools import ArrayPool, Pool, Workspace
from training.data.splits import Indices, all_rows, hold_out_test, hold_out_validation
from training.errors import DataError

if TYPE_CHECKING:  # training.config needs torch; loading data does not
    from training.config import DataConfig

DEFAULT_FOLDER = Path("data")


@dataclass(frozen=True)
class Source:
    """How to open each pool; None where the source has no such split.

    ``listing`` lists the pool that the test images are chosen from, as JSON would have it, and reads none of them;
    ``ignored`` counts files that are no images.
    """

    training: Callable[[], Pool]
    listing: Callable[[], object]
    validation: Callable[[], Pool] | None = None
    test: Callable[[], Pool] | None = None
    ignored: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Survey:
    """What is known of a source without decoding an image.

    Attributes:
        listing: SHA-256 of the list of images that the test images are chosen from. Which of them are held out depends
            on how many there are. With one picture more or less the seed would draw others, and a model would be
            measured on images that it was trained on: who measures it compares this digest first.
        own_splits: what the source divides itself: none, "validation", "test" or both.
        ignored: files that are not looked at, since their names are not those of pictures.
    """

    listing: str
    own_splits: tuple[str, ...]
    ignored: int


def load_training(
    config: "DataConfig",
    image: ImageSpec,
    *,
    seed: int,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, Dataset]:
    """The training and the validation images, fitted to ``image``: uint8 ``(N, H, W, C)`` each.

    No test image is among them. Where the source has a test split of its own, it is not opened.

    Args:
        config: the ``[data]`` section.
        image: the model's size, channels and fit rule.
        seed: decides what is held out.
        data_dir: a folder with local copies, and the cache where it can be written; absent: ``./data``.
        progress: told about downloads and decoding.

    Raises:
        DataError: images cannot be found or read, or a split would be empty.
    """
    source = _open(config, image, data_dir, progress)
    pool = source.training()
    rows = all_rows(len(pool))
    if source.test is None:
        rows, _ = hold_out_test(len(pool), config.test_fraction, seed)
    if source.validation is not None:
        train = pool.read(rows, "train")
        validation_pool = source.validation()
        validation = validation_pool.read(all_rows(len(validation_pool)), "validation")
    else:
        kept, held = hold_out_validation(len(rows), config.validation_fraction, seed)
        train = pool.read(rows[kept], "train")
        validation = pool.read(rows[held], "validation")
    return _checked(train, config), _checked(validation, config)


def load_test(
    config: "DataConfig",
    image: ImageSpec,
    *,
    seed: int,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The test images, fitted to ``image``: the source's own test split, or what ``seed`` held out from training.

    Raises:
        DataError: images cannot be found or read, or there would be none.
    """
    pool, rows = _test_rows(_open(config, image, data_dir, progress), config, seed)
    return _checked(pool.read(rows, "test"), config)


def check_test(
    config: "DataConfig",
    image: ImageSpec,
    *,
    seed: int,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    look: Callable[[NDArray[np.uint8]], None] = lambda images: None,
) -> int | None:
    """Find out whether the test images can be read, before a model is trained that could never be measured.

    Each is decoded once, and nothing of it is kept. The files of MNIST are left alone: what they hold is known by its
    checksum, and they can be fetched again.

    Args:
        look: shown all of them, some ``(N, H, W, C)`` at a time.

    Returns:
        How many they are; None where they were left alone.

    Raises:
        DataError: some cannot be read, or are not what the configuration promises.
    """
    if config.source == "mnist":
        return None
    pool, rows = _test_rows(_open(config, image, data_dir, progress), config, seed)
    _require_some(len(rows), pool.name, "test")

    def judge(images: NDArray[np.uint8]) -> None:
        _require_promised(images, pool.name, "test", config)
        look(images)

    pool.check(rows, "test", judge)
    return len(rows)


def _test_rows(source: Source, config: "DataConfig", seed: int) -> tuple[Pool, Indices]:
    """The test images: their pool, and which of it they are."""
    if source.test is not None:
        pool = source.test()
        return pool, all_rows(len(pool))
    pool = source.training()
    return pool, hold_out_test(len(pool), config.test_fraction, seed)[1]


def survey(config: "DataConfig", image: ImageSpec, *, data_dir: Path | None = None) -> Survey:
    """Look at a source, and decode nothing.

    Raises:
        DataError: images cannot be found or listed.
    """
    source = _open(config, image, data_dir, None)
    pools = {"validation": source.validation, "test": source.test}
    digest = hashlib.sha256(json.dumps(source.listing()).encode()).hexdigest()
    return Survey(digest, tuple(split for split, pool in pools.items() if pool is not None), source.ignored())


def _open(config: "DataConfig", image: ImageSpec, data_dir: Path | None, progress: Progress | None) -> Source:
    data_dir = data_dir and expand_home(data_dir)
    if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
        raise DataError(f"{data_dir}: not a folder; name one with --data-dir")
    # A data folder is often a read-only share; the cache then lies in the default one. One that is not there is made.
    read_only = data_dir is not None and data_dir.exists() and not os.access(data_dir, os.W_OK)
    home = DEFAULT_FOLDER if data_dir is None or read_only else data_dir
    workspace = Workspace(image, home / "cache", progress, MEMORY_LIMIT)
    match config.source:
        case "mnist":
            return _mnist(config, workspace, data_dir)
        case "digits":
            return Source(lambda: digits_pool(workspace), lambda: "scikit-learn's digits")
        case "pictures":
            path = _locate(config.path, data_dir, "a folder or zip of pictures")
            pool = cache(lambda: PicturePool.open(path, workspace))  # listed once
            if config.test_path is None:
                return Source(pool, lambda: pool().listing(), ignored=lambda: pool().ignored)
            test_path = _locate(config.test_path, data_dir, "a folder or zip of pictures")
            _apart(path, test_path)
            test = cache(lambda: PicturePool.open(test_path, workspace))
            return Source(
                lambda: _apart_from(test(), pool()),
                lambda: test().listing(),
                test=test,
                ignored=lambda: pool().ignored + test().ignored,
            )
        case "arrays":
            path = _locate(config.path, data_dir, "a .npy or .npz file")
            own_test = config.test_path and _locate(config.test_path, data_dir, "a .npy or .npz file")
            _apart(path, own_test)
            pools = array_pools(path, own_test, workspace, static=config.binarization == "static")
            return Source(pools.training, lambda: array_listing(path, own_test), pools.validation, pools.test)


def _mnist(config: "DataConfig", workspace: Workspace, data_dir: Path | None) -> Source:
    home = config.path or (data_dir or DEFAULT_FOLDER) / "mnist"
    folders = [home] if data_dir is None else list(dict.fromkeys([home, data_dir, data_dir / "mnist"]))

    def pool(split: str) -> Pool:
        whole = load_idx(MNIST, split, folders, download_to=home, progress=workspace.progress)
        return ArrayPool(whole.images, whole.labels, whole.label_names, whole.name, workspace, (split, whole.sha256))

    checksums = [file.sha256 for file in MNIST.files["test"]]
    return Source(lambda: pool("train"), lambda: checksums, test=lambda: pool("test"))


def _locate(path: Path | None, data_dir: Path | None, kind: str) -> Path:
    """``path`` itself, or under ``data_dir`` where a relative path does not exist by itself."""
    if path is None:
        raise DataError(f"data.path is missing: name {kind}")
    if not path.exists() and data_dir is not None and (data_dir / path).exists():
        return data_dir / path
    if not path.exists():
        if path.is_absolute():
            raise DataError(f"{path}: not found; name {kind}")
        where = "here" if data_dir is None else f"here, nor in {data_dir}"
        raise DataError(f"{path}: not found {where}; name {kind}, or with --data-dir the folder that it lies in")
    return path


def _apart(path: Path, test_path: Path | None) -> None:
    """Refuse a test set that lies inside the training set, or is the same."""
    if test_path is None:
        return
    training, test = path.resolve(), test_path.resolve()
    if test.is_relative_to(training) or training.is_relative_to(test):
        raise DataError(
            f"data.path {path} and data.test_path {test_path} are the same, or one lies inside the other: "
            "training would see test images"
        )


def _apart_from(test: PicturePool, pool: PicturePool) -> PicturePool:
    """The training pictures, none of which is a test picture; those are listed and not decoded."""
    pool.refuse_files_of(test)
    return pool


def _checked(dataset: Dataset, config: "DataConfig") -> Dataset:
    _require_some(len(dataset), dataset.name, dataset.split)
    for start in range(0, len(dataset), 4096):
        _require_promised(dataset.images[start : start + 4096], dataset.name, dataset.split, config)
    return dataset


def _require_some(n: int, name: str, split: str) -> None:
    if n == 0:
        raise DataError(f"{name}: the {split} split is empty: at least one image is needed")


def _require_promised(images: NDArray[np.uint8], name: str, split: str, config: "DataConfig") -> None:
    """Static binarization promises that every pixel is 0 or 255; hold the data to it."""
    if config.binarization == "static" and np.any((images != 0) & (images != 255)):
        raise DataError(
            f"{name}: data.binarization = 'static' promises pixels of two values only, "
            f"but the {split} images (fitted to the model's size) have grey ones: use 'dynamic'"
        )
