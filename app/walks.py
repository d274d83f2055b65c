"""Walks in latent space as clients describe them: through points, and along one dimension. For codec threads."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.bodies import read_json
from app.errors import Invalid
from app.images import Fitted, ImageReader, read_latent
from app.schemas import InterpolateBody, TraverseBody
from app.settings import Settings
from model.bundle.latents import traverse

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Points:
    """An interpolation as read: latents (P, D), of which the rows ``where`` are still to come from ``images``."""

    latents: Array
    where: list[int]
    images: Fitted
    steps: int
    path: Literal["slerp", "linear"]


def read_points(body: bytes, reader: ImageReader, dim: int, limits: Settings) -> Points:
    """The JSON body of /interpolate. Raises MalformedJSON, Invalid or TooLarge."""
    document = read_json(
        body, InterpolateBody, max_depth=limits.max_json_depth, max_items=limits.max_items, items="points"
    )
    check_segments(limits, len(document.points), document.steps, "/steps")
    latents = np.zeros((len(document.points), dim), np.float32)
    pictures: list[tuple[object, str]] = []
    where: list[int] = []
    for i, point in enumerate(document.points):
        if "latent" in point.model_fields_set:
            latents[i] = read_latent(point.latent, dim, f"/points/{i}/latent")
        else:
            pictures.append((point.image, f"/points/{i}/image"))
            where.append(i)
    images: Fitted = reader.of_json(pictures) if pictures else np.empty((0,), np.float32)
    return Points(latents, where, images, document.steps, document.path)


def check_segments(limits: Settings, points: int, steps: int, pointer: str) -> None:
    """Raises Invalid for fewer than two points or more than ``max_count`` steps in all."""
    if points < 2:
        raise Invalid.at("/images", "Needs at least two points.")
    if (points - 1) * steps > limits.max_count:
        raise Invalid.at(pointer, f"steps x segments must be at most {limits.max_count}.")


def read_traverse(body: bytes, dim: int, limits: Settings) -> Array:
    """The JSON body of /traverse as the latents (S, D) of its pictures. Raises MalformedJSON or Invalid."""
    document = read_json(body, TraverseBody, max_depth=limits.max_json_depth)
    if document.steps > limits.max_count:
        raise Invalid.at("/steps", f"Must be at most {limits.max_count}.")
    if document.dimension >= dim:
        raise Invalid.at("/dimension", f"Must be at most {dim - 1}.")
    start = np.zeros(dim, np.float32)
    if "latent" in document.model_fields_set:
        start = read_latent(document.latent, dim, "/latent")
    return traverse(start, document.dimension, document.low, document.high, document.steps)
