"""Scores of picture files, as a table: what `POST /score` tells, without a server."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import OfflineError, OutputError
from model.bundle.files import write_text_atomically
from model.bundle.offline import check_file
from model.bundle.runtime import Bundle
from model.bundle.scores import Scores, bits_per_dim, has_likelihood, percentile, score_images

Bytes = NDArray[np.uint8]
COLUMNS = (
    "name", "elbo", "log_likelihood", "effective_sample_size", "reliable", "kl", "distortion", "bits_per_dim",
    "percentile",
)  # fmt: skip


def check_scoring(bundle: Bundle, path: Path) -> None:
    """Refuse, before any work is done, a bundle that cannot score and a file that could not be written.

    Raises OfflineError or OutputError.
    """
    if bundle.manifest.graphs.likelihood is None:
        raise OfflineError(
            f"{bundle.name}/{bundle.version} cannot score: its bundle has no likelihood graph; export it again"
        )
    if path.suffix.lower() != ".csv":
        raise OutputError(f"{path}: write to a .csv file")
    check_file(path)


def score_pictures(
    bundle: Bundle, pictures: Iterable[tuple[list[str], Bytes]], k: int, *, seed: int
) -> Iterator[tuple[list[str], Scores]]:
    """Names with their scores, of images (N, H, W, C) some at a time, each with noise by the seed and its number.

    Raises ModelFault, and what ``pictures`` raises.
    """
    first = 0
    for names, images in pictures:
        yield names, score_images(bundle, images, k, seed=seed, first=first)
        first += len(names)


def save_scores(bundle: Bundle, path: Path, scored: Iterable[tuple[list[str], Scores]]) -> int:
    """A .csv file with a row a picture, `COLUMNS` in the first; the number of pictures.

    A cell is empty where a bundle has no such number. Raises OfflineError where there are no pictures, and what
    ``scored`` raises; then nothing is written.
    """
    text, count = io.StringIO(), 0
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for names, scores in scored:
        for row in zip(names, *_columns(bundle, scores), strict=True):
            table.writerow(row)
        count += len(names)
    if count == 0:
        raise OfflineError("there are no pictures to score")
    write_text_atomically(path, text.getvalue())
    return count


def _columns(bundle: Bundle, scores: Scores) -> list[list[str]]:
    """All columns but the names."""
    manifest, reference = bundle.manifest, bundle.validation_scores
    nothing = [""] * len(scores.elbo)
    proper = has_likelihood(manifest.likelihood)
    bits = bits_per_dim(scores.log_likelihood, manifest)
    return [
        _numbers(scores.elbo),
        _numbers(scores.log_likelihood) if proper else nothing,
        _numbers(scores.effective_sample_size) if proper else nothing,
        [str(value).lower() for value in scores.reliable.tolist()] if proper else nothing,
        _numbers(scores.kl),
        _numbers(scores.distortion),
        nothing if bits is None else _numbers(bits),
        nothing if reference is None else _numbers(percentile(scores.elbo, reference)),
    ]


def _numbers(values: NDArray[np.float64]) -> list[str]:
    # Large pictures have millions of nats, of which single ones count.
    return [f"{value:.10g}" for value in values.tolist()]
