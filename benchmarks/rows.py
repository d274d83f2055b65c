"""What is asked: rows of the tables, the pictures and latents that they send, and what a right answer holds."""

import io
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders.graphs import Graphs, to_levels

Operation = Literal["encode", "decode", "reconstruct", "sample"]
Form = Literal["json", "binary", "png"]
Arrays = dict[str, NDArray[Any]]

MOST_ITEMS = 256
# Beside sums in another order there is the rounding of JSON's four decimals, and of a server that goes through 8 bits.
LATENT_TOLERANCE = 5e-3
PIXEL_TOLERANCE = 2e-3
LEVEL_TOLERANCE = 1


class WrongAnswer(Exception):
    """An answer that is no success or does not hold the right numbers; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: an operation on so many items a request, with so many connections at a time."""

    operation: Operation
    items: int
    form: Form
    connections: int

    @property
    def request(self) -> str:
        """What is sent, without how many at a time: ``encode-64-json``."""
        return f"{self.operation}-{self.items}-{self.form}"

    @property
    def name(self) -> str:
        """
        >>> Row("encode", 64, "json", 16).name
        'encode-64-json-16'
        """
        return f"{self.request}-{self.connections}"


CONNECTIONS = (1, 16, 64)
_GRAPHS: tuple[Operation, ...] = ("encode", "decode")
_FORMS: tuple[Form, ...] = ("json", "binary")
_PICTURES: tuple[tuple[Operation, int], ...] = (("encode", 1), ("reconstruct", 1), ("sample", 16))

MAIN_ROWS = tuple(Row(*row) for row in product(_GRAPHS, (1, 64), _FORMS, CONNECTIONS))
PICTURE_ROWS = tuple(Row(*said, "png", connections) for said, connections in product(_PICTURES, (1, 16)))
LARGE_ROWS = tuple(Row(*row) for row in product(_GRAPHS, (1, 64), _FORMS, (16,)))


class Workload:
    """The items of all rows, from a bundle's golden images, and what ONNX Runtime gives for them in this process."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.graphs = Graphs(bundle)
        with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
            images = golden["images"]
        self._images: NDArray[np.uint8] = np.resize(images, (MOST_ITEMS, *images.shape[1:]))
        noise = np.random.Generator(np.random.Philox(0)).standard_normal((MOST_ITEMS, self.graphs.latent_dim))
        self._latents: NDArray[np.float32] = np.round(noise, 4).astype(np.float32)
        self._expected: dict[str, Arrays] = {}

    def images(self, items: int) -> NDArray[np.uint8]:
        """The first of them: uint8 (N, H, W, C)."""
        return self._images[:items]

    def unit_images(self, items: int) -> NDArray[np.float64]:
        """The same as JSON has them: [0, 1], at most four decimals; (N, H, W), in color (N, H, W, C)."""
        unit = np.round(self.images(items) / 255, 4)
        return unit[..., 0] if self.graphs.channels == 1 else unit

    def latents(self, items: int) -> NDArray[np.float32]:
        """(N, D), at most four decimals."""
        return self._latents[:items]

    @cached_property
    def picture(self) -> bytes:
        """The first image as a PNG file."""
        image = self.images(1)[0]
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    def expected(self, row: Row) -> Arrays:
        """The arrays that the answer to a row must hold; nothing for samples, which are random."""
        if row.request not in self._expected:
            self._expected[row.request] = self._compute(row)
        return self._expected[row.request]

    def _compute(self, row: Row) -> Arrays:
        if row.operation == "sample":
            return {}
        if row.operation == "decode":
            (pixels,) = self.graphs.run("decode", self.latents(row.items))
            return {"pixels": pixels} if row.form == "json" else {"levels": to_levels(pixels)}
        unit = (self.images(row.items) / 255).astype(np.float32)
        mean, log_variance = self.graphs.run("encode", self.graphs.to_network(unit))
        if row.operation == "reconstruct":
            return {"levels": to_levels(self.graphs.run("decode", mean)[0])}
        return {"mean": mean} if row.form == "binary" else {"mean": mean, "log_variance": log_variance}

    def check(self, row: Row, found: Arrays) -> None:
        """Raises WrongAnswer where an array is missing, has another shape, or differs by more than is tolerated."""
        for name, wanted in self.expected(row).items():
            if name not in found:
                raise WrongAnswer(f"{row.request}: the answer has no {name}")
            array = found[name]
            if array.shape != wanted.shape:
                raise WrongAnswer(f"{row.request}: {name} has the shape {array.shape} and not {wanted.shape}")
            difference = np.abs(array.astype(np.float64) - wanted)
            worst = float(difference.max())
            tolerance = {"levels": LEVEL_TOLERANCE, "pixels": PIXEL_TOLERANCE}.get(name, LATENT_TOLERANCE)
            if name in ("mean", "log_variance"):
                worst = float((difference / np.maximum(1, np.abs(wanted))).max())
            if not worst <= tolerance:  # so written, NaN fails
                raise WrongAnswer(f"{row.request}: {name} is off by {worst:.3g}")

    def check_grid(self, row: Row, grid: NDArray[Any]) -> None:
        """Sampled pictures: nobody knows their numbers, but there is room for all of them and they are no blank."""
        room = row.items * self.graphs.height * self.graphs.width
        if grid.shape[0] * grid.shape[1] < room or not np.ptp(grid):
            raise WrongAnswer(f"{row.request}: the answer is no grid of {row.items} pictures")

    def write_answers(self, folder: Path) -> None:
        """A file for each kind of plain request, named as it, with the right answer."""
        folder.mkdir()
        for row in {row.request: row for row in (*MAIN_ROWS, *LARGE_ROWS)}.values():
            assert row.operation in ("encode", "decode")
            inputs = self.latents(row.items)
            if row.operation == "encode":
                inputs = self.graphs.to_network((self.images(row.items) / 255).astype(np.float32))
            outputs = self.graphs.run(row.operation, inputs)
            answer = self.graphs.write(row.operation, outputs, is_json=row.form == "json")
            (folder / row.request).write_bytes(answer)
