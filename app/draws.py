"""Latents from posteriors of any family, for operations: drawn by a seed, or the one that stands for a picture."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.engine import Model
from app.errors import ModelFailure
from app.exchange import Call
from app.graphs import Packed
from app.outputs import Outputs
from model.bundle.latents import gaussian_draws, posterior_noise

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]

TOO_WIDE = "The model's posterior is too wide to draw from."


async def centers(model: Model, encoded: Outputs, call: Call) -> Array:
    """The latent that stands for each picture, (N, D), of what the encoder gave: the mean, or what a flow makes of it.
    Raises as Batcher.submit does."""
    if model.manifest.posterior.is_diagonal:
        return encoded[0]
    return (await model.run("posterior", Packed(*encoded, np.zeros_like(encoded[0])), call))[0]


async def drawn(model: Model, encoded: Outputs, count: int, seed: int, call: Call) -> tuple[Array, Array]:
    """``count`` latents (N, count, D) from each posterior, and their log density (N, count) in nats.

    Raises ModelFailure where a posterior is too wide for that, Overloaded where others draw too much, and as
    Batcher.submit does.
    """
    n, dim = encoded[0].shape
    call.draws(n * count * dim)
    noise = await call.codec("latents", partial(posterior_noise, n, count, dim, seed=seed), light=False)
    if model.manifest.posterior.is_diagonal:
        mean, log_variance = encoded[0][:, None], encoded[1][:, None]
        draw = partial(gaussian_draws, mean, log_variance, noise)
        latents, log_density = await call.codec("latents", draw, light=False)
        if not (np.isfinite(latents).all() and np.isfinite(log_density).all()):
            raise ModelFailure(TOO_WIDE)
        return latents, log_density
    latents, log_density = await model.run("posterior", Packed(*encoded, noise.reshape(-1, dim)), call)
    return latents.reshape(n, count, dim), log_density.reshape(n, count)
