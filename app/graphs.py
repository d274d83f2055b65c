"""The graphs of a bundle as batchers run them: on one array of rows, however many inputs they have."""

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.outputs import Gather, Rows, Run, gathered
from model.bundle.manifest import GraphSpec, Role
from model.bundle.pixels import stack_for_network, to_network
from model.bundle.runtime import Bundle

Array = NDArray[np.float32]


class Packed:
    """Rows for a graph with several inputs: what is given for each input, (N, P), side by side.

    Inputs may have different numbers of rows: of the fewer, each stands for as many of the others. A row is put
    together when its turn has come, so that what is the same for many is not held many times.
    """

    def __init__(self, *inputs: Rows) -> None:
        """The inputs in the order of the graph, flat float32 (N, P), or images (N, H, W, C) as `to_network` takes them;
        the largest N is a multiple of every other."""
        self._inputs, self._count = inputs, max(map(len, inputs))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> Array:
        which = np.arange(self._count)[rows]
        return np.concatenate([_flat(each, which * len(each) // self._count) for each in self._inputs], axis=1)


def _flat(rows: Rows, which: NDArray[np.intp]) -> Array:
    """The rows ``which``, in ascending order, as (N, P)."""
    some = rows[which[0] : which[-1] + 1]  # an image that is there for many is turned once
    flat: Array = to_network(some).reshape(len(some), -1) if rows.ndim == 4 else cast(Array, some)
    return np.asarray(flat[which - which[0]])


def runs_of(bundle: Bundle) -> dict[Role, tuple[Run, Gather]]:
    """How each graph is run, and how the rows of several requests become those of one run.

    - encoder: images (N, H, W, C), uint8 or float32 in [0, 1] -> mean, log_variance (N, D)[, parameters (N, E)].
    - decoder: latents (N, D) -> images (N, C, H, W) in [0, 1].
    - posterior: `Packed` mean, log_variance, parameters, noise -> latent (N, D), log_density (N,).
    - likelihood: `Packed` latent, image -> log_likelihood (N,).
    """
    runs: dict[Role, tuple[Run, Gather]] = {}
    for role, spec in bundle.manifest.graphs.present().items():
        run: Run = partial(bundle.run, role)
        if len(spec.inputs) > 1:
            run = partial(_unpacked, bundle, role, spec)
        runs[role] = run, stack_for_network if role == "encoder" else gathered
    return runs


def _unpacked(bundle: Bundle, role: Role, spec: GraphSpec, rows: Array) -> Sequence[Array]:
    shapes = [cast("tuple[int, ...]", tensor.shape[1:]) for tensor in spec.inputs]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(rows, ends[:-1], axis=1)
    return bundle.run(
        role,
        *(np.ascontiguousarray(part).reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)),
    )
