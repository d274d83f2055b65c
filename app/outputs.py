"""Rows of several requests as one batch, and what a graph gave for it as the outputs of each."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.float32] | NDArray[np.uint8]
Run = Callable[[Array], Sequence[Array]]
Gather = Callable[[Sequence[Rows]], Array]
Derived = TypeVar("Derived", bound=np.generic)


class Outputs(tuple[Array, ...]):
    """The outputs of a graph for one request's rows. What all requests of a batch want made of them is made once."""

    _batch: tuple[Array, ...] | None  # None if it is this one: in a cycle large arrays would outlive their request
    _rows: slice
    _made: dict[Callable[..., object], object]

    @classmethod
    def whole(cls, arrays: Iterable[Array]) -> "Outputs":
        """Those of a whole batch."""
        made = cls(arrays)
        made._batch, made._rows, made._made = None, slice(None), {}
        return made

    def part(self, start: int, stop: int) -> "Outputs":
        """The same of some of its rows."""
        rows = slice(start, stop)
        made = Outputs([array[rows] for array in self])
        made._batch, made._rows, made._made = self, rows, self._made
        return made

    def of(self, make: Callable[..., NDArray[Derived]]) -> NDArray[Derived]:
        """``make(*outputs)``, which works row by row, for these rows."""
        try:
            found = self._made[make]
        except KeyError:
            found = self._made[make] = make(*(self if self._batch is None else self._batch))
        return cast("NDArray[Derived]", found)[self._rows]


def gathered(parts: Sequence[Rows]) -> Array:
    """Rows of several requests as those of one batch; a lone one, the usual case of a quiet server, is not copied."""
    return cast(Array, parts[0] if len(parts) == 1 else np.concatenate(parts))
