"""The page of a comparison: a column for each run, on which what is to be compared stands in the same row."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.figures.charts import TRAINING, Group, groups_of
from training.figures.page import DPI, enlarged, write_at
from training.figures.panels import SEED, Bytes
from training.figures.plane import Plane, draw_plane
from training.words import count

# All in page pixels.
_CELL = 170
_GAP = 18
_MARGIN = 16
_LINE = 16
_TICKS = (26, 22)
_CHARACTER = 5.4  # of the small letters
NO_MODEL = "no samples of a model: an autoencoder has no prior"


class Column(NamedTuple):
    """One run."""

    name: str
    objective: str
    reconstructions: Bytes
    """``(R, K, H, W, C)``"""
    samples: Bytes
    """The same shape."""
    plane: Plane
    numbers: dict[str, str]
    has_prior: bool


def comparison_page(columns: Sequence[Column], originals: Bytes, images: Dataset) -> Figure:
    """The page.

    Args:
        originals: what was reconstructed, in the shape of the reconstructions.
        images: those of the planes, with their labels, where there are any.
    """
    zoom = max(1, round(_CELL / (originals.shape[1] * originals.shape[3])))
    grid_height, grid_width = enlarged(originals, zoom).shape[:2]
    cell = max(grid_width, _CELL)
    heads = [_wrapped(column.objective, cell) for column in columns]
    notes = [[] if column.has_prior else _wrapped(NO_MODEL, cell) for column in columns]
    square, names = cell - _TICKS[0], list(columns[0].numbers)
    across = (1 + len(columns)) * (cell + _GAP) - _GAP
    titles = [textwrap.wrap(title, int(across / _CHARACTER / 1.35)) for title in _titles(images)]
    heights = (
        grid_height,
        grid_height + _LINE * max(map(len, notes)),
        square + _TICKS[1] + _LINE,
        _LINE * len(names),
    )
    top = _MARGIN + _LINE * (1 + max(map(len, heads)))
    rows = []
    for title, height in zip(titles, heights, strict=True):
        top += _GAP
        rows.append(top + _LINE * len(title) + 10)
        top = rows[-1] + height
    figure = Figure(figsize=((across + 2 * _MARGIN) / DPI, (top + _MARGIN) / DPI), dpi=DPI, facecolor="white")
    for title, row in zip(titles, rows, strict=True):
        _lines(figure, title, _MARGIN, row - 10 - _LINE * len(title), size=10)
    reconstructions, samples, planes, numbers = rows

    groups = _groups(images)
    _place(figure, enlarged(originals, zoom), _MARGIN, reconstructions)
    if images.labels is not None:
        _legend(figure, groups, _MARGIN, planes)
    _lines(figure, names, _MARGIN, numbers, size=10)
    for number, (column, head, note) in enumerate(zip(columns, heads, notes, strict=True), 1):
        left = _MARGIN + number * (cell + _GAP)
        _lines(figure, [_shortened(column.name, cell)], left, _MARGIN, size=11)
        _lines(figure, head, left, _MARGIN + _LINE, size=8)
        _place(figure, enlarged(column.reconstructions, zoom), left, reconstructions)
        _place(figure, enlarged(column.samples, zoom), left, samples)
        _lines(figure, note, left, samples + grid_height + 3, size=8)
        draw_plane(_axes(figure, (left + _TICKS[0], planes, square, square)), column.plane, groups)
        _lines(figure, list(column.numbers.values()), left, numbers, size=10)
    return figure


def _titles(images: Dataset) -> tuple[str, str, str, str]:
    """Of the four rows."""
    these = count(len(images), "validation image")
    colored = "" if images.labels is None else ", colored by label"
    return (
        "reconstructions: what the decoder makes of the posterior mean of the image in the first column",
        f"samples: images of latents drawn from the prior, seed {SEED}: of N(0, I) the same latents wherever there are "
        "as many dimensions",
        f"posterior means of {these}{colored}; circles: N(0, I) at 1, 2 and 3 standard deviations; ellipses: some of "
        "the posteriors at one",
        f"numbers of the same {these}: nats per image, and squared error per pixel",
    )


def _groups(images: Dataset) -> list[Group]:
    if images.labels is None:
        return [Group(np.ones(len(images), dtype=bool), "", TRAINING, "o")]
    return groups_of(images.labels, images.label_names)


def _shortened(name: str, cell: int) -> str:
    """In large letters, as far as the cell goes: the end of a path tells more than its beginning."""
    room = int(cell / _CHARACTER / 1.4)
    return name if len(name) <= room else f"…{name[len(name) - room + 1 :]}"


def _wrapped(text: str, cell: int) -> list[str]:
    """In small letters."""
    return textwrap.wrap(text, int(cell / _CHARACTER))


def _lines(figure: Figure, lines: Sequence[str], left: int, top: int, *, size: int) -> None:
    for number, line in enumerate(lines):
        write_at(figure, line, left, top + _LINE * (number + 0.5), size=size, va="center", ha="left")


def _place(figure: Figure, image: Bytes, left: int, top: int) -> None:
    """Its upper left corner at page pixels, y from the top."""
    height = round(figure.get_figheight() * DPI)
    rgb: NDArray[np.uint8] = np.broadcast_to(image, (*image.shape[:2], 3))
    figure.figimage(rgb, left, height - top - image.shape[0], origin="upper")


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes at page pixels: left, top from the top, width, height."""
    width, height = figure.get_size_inches() * DPI
    left, top, across, down = box
    return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))


def _legend(figure: Figure, groups: Sequence[Group], left: float, top: float) -> None:
    width, height = figure.get_size_inches() * DPI
    dots = [Line2D([], [], color=group.color, marker=group.marker, linestyle="", markersize=6) for group in groups]
    figure.legend(
        dots,
        [group.name for group in groups],
        loc="upper left",
        bbox_to_anchor=(left / width, 1 - top / height),
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.25,
    )
