"""Does a bundle tell digits from other pictures? Scores of both, and the area under the ROC curve of each score.

    python -m benchmarks.anomaly --data-dir data --others "CIFAR-10, grey"=data/cifar10/test.zip

The digits are test images of MNIST. Beside the pictures that are named, the others are the digits themselves, turned by
a quarter, inverted, or with their pixels in another order, and black pictures: what a model that only counts ink would
take for digits. Scores are those of `vae score` and `POST /score`, from the bundle alone.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.settings import PRETRAINED
from model.bundle import offline
from model.bundle.pixels import fit_array
from model.bundle.runtime import Bundle
from model.bundle.scores import Scores, percentile, score_images
from model.bundle.store import open_bundle
from training.data.dataset import Dataset
from training.data.mnist import MNIST, load_idx
from training.data.splits import choose

Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]

_RARE = 1.0  # percent: as few validation images score lower


class Area(NamedTuple):
    """Of the ROC curve, with its 95% interval."""

    value: float
    low: float
    high: float


def area(normal: Doubles, other: Doubles) -> Area:
    """How often an other's score (M,) is lower than a normal one's (N,), ties counted half: the AUROC of the score as
    a detector of others (Mann and Whitney, 1947).

    The interval holds the areas that are no further from it than 1.96 of their own standard errors, which are those of
    Hanley and McNeil (1982), as Newcombe (2006) has it: an area of 1 is no certainty.

    >>> area(np.array([2.0, 3.0]), np.array([0.0, 1.0])).value
    1.0
    """
    ordered = np.sort(normal)
    above = len(normal) - np.searchsorted(ordered, other, "right")
    tied = np.searchsorted(ordered, other, "right") - np.searchsorted(ordered, other, "left")
    value = float((above + tied / 2).mean() / len(normal))
    low, high = (_furthest(value, end, len(normal), len(other)) for end in (0.0, 1.0))
    return Area(value, low, high)


def _furthest(value: float, end: float, normal: int, other: int) -> float:
    """The area between ``value`` and ``end`` that is 1.96 of its standard errors from ``value``, by bisection."""
    near, far = value, end  # at the end the error is 0
    for _ in range(60):
        area = (near + far) / 2
        first, second = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (other - 1) * (first - area**2) + (normal - 1) * (second - area**2)
        within = abs(value - area) <= 1.96 * math.sqrt(max(variance, 0.0) / (normal * other))
        near, far = (area, far) if within else (near, area)
    return near


def digits_of(data_dir: Path) -> Dataset:
    """The test images of MNIST, from where training has them.

    Raises:
        DataError: they are not there and cannot be downloaded, or are not the original.
    """
    home = data_dir / "mnist"
    return load_idx(MNIST, "test", [home, data_dir], download_to=home)


def others(
    digits: Bytes, named: Mapping[str, Path], bundle: Bundle, count: int, seed: int
) -> Iterator[tuple[str, Bytes]]:
    """What is no digit, by its name: uint8 (N, H, W, C), at most ``count`` of each."""
    for name, path in named.items():
        total = offline.count_pictures([path])
        wanted = set(choose(total, count, seed).tolist())
        chosen = (item for number, item in enumerate(offline.read_sources([path])) if number in wanted)
        yield name, np.concatenate([images for _, images in offline.fitted_pictures(bundle.manifest.image, chosen)])
    order = np.random.default_rng(seed).permutation(digits[0].size)
    yield "digits, turned by a quarter", np.rot90(digits, axes=(1, 2)).copy()
    yield "digits, inverted", np.asarray(255 - digits, np.uint8)
    yield "digits, pixels in another order", digits.reshape(len(digits), -1)[:, order].reshape(digits.shape)
    yield "black", np.zeros_like(digits[:1])


def scored(bundle: Bundle, images: Bytes, what: str, k: int, seed: int, console: Console) -> Scores:
    """Scores of images, with a bar on a terminal."""
    rows = track(range(len(images)), what, console=console, transient=True, disable=not console.is_terminal)
    parts = [score_images(bundle, images[row : row + 1], k, seed=seed, first=row) for row in rows]
    return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def table(bundle: Bundle, normal: Scores, found: Mapping[str, Scores]) -> str:
    """Markdown: a line for each of the others."""
    lines = [
        "| pictures | ELBO, nats | AUROC of the ELBO | of log_likelihood | percentile below 1 |",
        "|---|---:|---:|---:|---:|",
        f"| digits ({len(normal.elbo):,}) | {normal.elbo.mean():.1f} | | | {_rare(bundle, normal)} |",
    ]
    for name, scores in found.items():
        elbo, bound = (area(getattr(normal, score), getattr(scores, score)) for score in ("elbo", "log_likelihood"))
        lines.append(
            f"| {name} ({len(scores.elbo):,}) | {scores.elbo.mean():.1f} | {_shown(elbo)} | {_shown(bound)} "
            f"| {_rare(bundle, scores)} |"
        )
    return "\n".join(lines) + "\n"


def _shown(found: Area) -> str:
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _rare(bundle: Bundle, scores: Scores) -> str:
    if bundle.validation_scores is None:
        return ""
    return f"{(percentile(scores.elbo, bundle.validation_scores) < _RARE).mean():.1%}"


def main() -> None:
    """Score, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="bundle folder; absent: the one that ships")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        help="MNIST is in mnist/ there, or in it, or is downloaded to mnist/",
    )
    parser.add_argument(
        "--others", action="append", default=[], metavar="NAME=PATH", help="a folder or zip of pictures"
    )
    parser.add_argument("--images", type=int, default=1000, help="of each kind")
    parser.add_argument("-k", type=int, default=64, help="draws from the posterior of each")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    named = dict(pair.partition("=")[::2] for pair in chosen.others)
    for name, path in named.items():
        if not name or not Path(path).exists():
            parser.error(f"--others {name}={path}: write NAME=PATH, of a folder or zip that is there")
    console = Console(stderr=True)
    bundle = open_bundle(chosen.model, allow_hard_links=chosen.model == PRETRAINED)
    test = digits_of(chosen.data_dir)
    rows = choose(len(test), chosen.images, chosen.seed)
    digits = fit_array(np.asarray(test.images[rows]), bundle.manifest.image).astype(np.uint8, copy=False)
    normal = scored(bundle, digits, "digits", chosen.k, chosen.seed, console)
    paths = {name: Path(path) for name, path in named.items()}
    found = {
        name: scored(bundle, pictures, name, chosen.k, chosen.seed, console)
        for name, pictures in others(digits, paths, bundle, chosen.images, chosen.seed)
    }
    print(f"{bundle.name}/{bundle.version}, k = {chosen.k}, seed {chosen.seed}\n")
    print(table(bundle, normal, found), end="")


if __name__ == "__main__":
    main()
