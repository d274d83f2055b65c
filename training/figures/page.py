"""Rows of small images with titles and labels, on a page where every image pixel is a whole number of page pixels."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.bundle.drawing import tile
from model.bundle.files import write_bytes_atomically
from training.errors import DataError

Bytes = NDArray[np.uint8]

DPI = 100
INK = "#222222"
# All in page pixels.
_WIDTH = 900  # of the images of one row, about
_MARGIN = 16
_PADDING = 4
_TITLE = 30
_LABEL = 18
_CHARACTER = 6.6


@dataclass(frozen=True)
class Panel:
    """A titled grid.

    Attributes:
        images: uint8 ``(R, K, H, W, C)``, R rows of K.
        row_labels: R words to the left, or none.
        column_labels: K words above, or none.
    """

    title: str
    images: Bytes
    row_labels: tuple[str, ...] = ()
    column_labels: tuple[str, ...] = ()


def columns_of(width: int) -> int:
    """How many images of this width go into a row: 4 to 10.

    >>> columns_of(28), columns_of(64), columns_of(256)
    (10, 10, 4)
    """
    return min(10, max(4, 1000 // (width + _PADDING)))


def page(panels: Sequence[Panel]) -> Figure:
    """The panels below each other, left-aligned; all images are enlarged by the same whole number."""
    widest = max(panel.images.shape[1] * panel.images.shape[3] for panel in panels)
    zoom = max(1, round(_WIDTH / widest))
    grids = [enlarged(panel.images, zoom) for panel in panels]
    labels = max((len(label) for panel in panels for label in panel.row_labels), default=0)
    left = _MARGIN + round(labels * _CHARACTER + (10 if labels else 0))
    heads = [_TITLE + (_LABEL if panel.column_labels else 0) for panel in panels]
    # A title may be wider than a small grid.
    titles = max(round(len(panel.title) * _CHARACTER * 1.25) for panel in panels)
    width = left + max(titles, *(grid.shape[1] for grid in grids)) + _MARGIN
    height = sum(heads) + sum(grid.shape[0] for grid in grids) + _MARGIN * (len(panels) + 1)

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    top = _MARGIN
    for panel, grid, head in zip(panels, grids, heads, strict=True):
        write_at(figure, panel.title, left, top + 8, size=11, va="center", ha="left")
        top += head
        rows, columns, *_ = panel.images.shape
        down, across = (grid.shape[0] + _PADDING) / rows, (grid.shape[1] + _PADDING) / columns
        for row, label in enumerate(panel.row_labels):
            write_at(figure, label, left - 10, top + (row + 0.5) * down - _PADDING / 2, size=8, va="center", ha="right")
        for column, label in enumerate(panel.column_labels):
            x = left + (column + 0.5) * across - _PADDING / 2
            write_at(figure, label, x, top - 8, size=8, va="center", ha="center")
        figure.figimage(np.broadcast_to(grid, (*grid.shape[:2], 3)), left, height - top - grid.shape[0], origin="upper")
        top += grid.shape[0] + _MARGIN
    return figure


@contextmanager
def constant_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's matplotlibrc says; afterwards as it was."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "axes.axisbelow": True,
                "axes.edgecolor": INK,
                "axes.grid": True,
                "axes.labelcolor": INK,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlesize": 11,
                "figure.constrained_layout.h_pad": 0.1,
                "figure.constrained_layout.w_pad": 0.1,
                "font.size": 9,
                "grid.color": "#dddddd",
                "grid.linewidth": 0.6,
                "legend.frameon": False,
                "text.color": INK,
                "xtick.color": INK,
                "ytick.color": INK,
            }
        )
        yield


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # figures draw on it from here on
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def enlarged(images: Bytes, zoom: int) -> Bytes:
    """One image ``(H', W', C)`` of R rows of K ``(R, K, H, W, C)``, every pixel ``zoom`` page pixels wide."""
    rows, columns, *shape = images.shape
    larger = images.reshape(rows * columns, *shape).repeat(zoom, axis=1).repeat(zoom, axis=2)
    return tile(larger, columns, padding=_PADDING)


def write_at(figure: Figure, text: str, x: float, y: float, *, size: float, va: str, ha: str) -> None:
    """Text at page pixels, y from the top."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, text, fontsize=size, color=INK, va=va, ha=ha)


def write_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Each as ``NAME.png`` in a folder that is made where there is none; the files.

    Raises:
        DataError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            path = folder / f"{name}.png"
            write_bytes_atomically(path, png(figure))
            written.append(path)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return written
