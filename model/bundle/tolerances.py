"""How far the numbers of an open bundle may lie from those that torch gave in float32."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.bundle.precision import LIMITS, Compared, Deviation, Precision

Floats = NDArray[np.float32]

# In float32: sums in another order, on any provider, and nothing more. A pixel may be off by a quarter of a grey level.
LATENT_RTOL = 1e-3
LATENT_ATOL = 1e-3
PIXEL_ATOL = 1e-3
# Where a machine sums in another order, an 8-bit step may fall the other way: as much again as was recorded.
_SLACK = 2.0


def deviations(output: Compared, found: Floats, wanted: Floats) -> NDArray[np.float64]:
    """How far each number is off: (N, ...), (N, ...) -> (N, P), for P numbers an item.

    Of mean and log_variance relative to max(1, |wanted|), of pixels absolute, as `Deviation` has it.

    >>> deviations("mean", np.array([[1.0, 22.0]], np.float32), np.array([[0.5, 20.0]], np.float32)).tolist()
    [[0.5, 0.1]]
    """
    exact = wanted.astype(np.float64)
    off = np.abs(found - exact)
    if output != "pixel":
        off /= np.maximum(1, np.abs(exact))
    return off.reshape(len(off), -1)


def within(output: Compared | Literal["nats"], found: Floats, wanted: Floats, precision: Precision | None) -> bool:
    """Whether an output (N, ...) is what torch gave, as well as a bundle of this precision can tell; NaN never is.

    Latents and "nats", which are log densities, come from graphs that are float32 in every bundle.
    Reduced graphs must keep to what was recorded when they were exported, twice over, both number by number and on
    average, and never leave the limits of their kind: a manifest cannot declare a broken graph to be good.
    """
    if precision is None or output == "nats":
        rtol, atol = (0.0, PIXEL_ATOL) if output == "pixel" else (LATENT_RTOL, LATENT_ATOL)
        return np.allclose(found, wanted, rtol=rtol, atol=atol)
    recorded: Deviation = getattr(precision.parity, output)
    limit = LIMITS[precision.kind][output]
    off = deviations(output, found, wanted)
    atol = PIXEL_ATOL if output == "pixel" else LATENT_ATOL
    largest = min(_SLACK * recorded.largest, limit.largest) + atol
    average = min(_SLACK * recorded.worst_average, limit.average) + atol
    return bool(off.max() <= largest and off.mean(axis=1).max() <= average)
