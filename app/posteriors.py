"""The plans of an operation that answers with posteriors."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.answers import LIGHT_NUMBERS, Answer, answer, json_body, npy_body
from app.draws import TOO_WIDE, centers, drawn
from app.engine import Model
from app.errors import ModelFailure
from app.exchange import Call
from app.images import Reading
from app.limits import check_drawn, check_numbers
from app.naming import named, seed_header, seed_of
from app.negotiation import JSON, NPY
from app.outputs import Outputs, Rows
from app.plans import Given, Stages
from app.schemas import EncodeQuery
from model.bundle.latents import gaussian_kl, posterior_samples

Array = NDArray[np.float32]

KL_SAMPLES = 64
"""Draws that estimate a divergence without a closed form, unless more are asked for."""


class Encode(Stages):
    """Images to mean, log_variance, KL and, if asked for, samples: of diagonal Gaussians under N(0, I)."""

    def __init__(self, reading: Reading, query: EncodeQuery, media: str) -> None:
        super().__init__(reading.model, "encoder", express=self._is_express(reading.model, query))
        self._reading, self._query, self._media = reading, query, media
        self._about = about(self.model)

    @staticmethod
    def _is_express(model: Model, query: EncodeQuery) -> bool:
        return query.samples == 0

    @property
    def _row(self) -> int:
        """Numbers of an image in the answer."""
        return self.model.manifest.latent.dim * (2 + self._query.samples)

    def at_once(self, body: bytes) -> Given | None:
        images = self._reading.at_once(body)
        return None if images is None else self._given(images)

    def read(self, body: bytes) -> Given:
        return self._given(self._reading.read(body))

    def _given(self, images: Rows) -> Given:
        check_numbers(self._reading.limits, len(images) * self._row, self._media)
        return Given(images)

    def is_light(self, count: int) -> bool:
        return self._query.samples == 0 and count * self._row <= LIGHT_NUMBERS

    def write(self, given: Given, outputs: Outputs) -> Answer:
        mean, log_variance = outputs
        query, draws, seed = self._query, None, None
        if query.samples:
            seed = seed_of(query.seed)
            draws = posterior_samples(mean, log_variance, query.samples, seed=seed)
            if not np.isfinite(draws).all():
                raise ModelFailure(TOO_WIDE)
        if self._media == NPY:
            return answer(NPY, npy_body(chosen(query, mean, log_variance, mean, draws)), seed_header(seed))
        entries = _entries(mean, log_variance, outputs.of(gaussian_kl))
        if draws is not None:
            entries = [entry | {"samples": rows} for entry, rows in zip(entries, draws, strict=True)]
        document = named(self.model, seed) | self._about | {"latents": entries}
        return answer(self._media, json_body(document), seed_header(seed))


class EncodeByDraws(Encode):
    """The same for every other posterior and prior. KL is the mean over draws, and where the posterior is no diagonal
    Gaussian answers tell the latent that stands for an image."""

    @staticmethod
    def _is_express(model: Model, query: EncodeQuery) -> bool:
        return False

    @property
    def _draws(self) -> int:
        """Of each image; none where nothing is answered that needs any."""
        if self._media == JSON:
            return max(KL_SAMPLES, self._query.samples)
        return self._query.samples if self._query.output == "samples" else 0

    @property
    def _has_latent(self) -> bool:
        """Does the answer tell what stands for an image, and is that more than the mean?"""
        if self.model.manifest.posterior.is_diagonal:
            return False
        return self._media == JSON or self._query.output == "latent"

    def _given(self, images: Rows) -> Given:
        check_drawn(self._reading.limits, len(images), self._draws, self.model.manifest.latent.dim)
        return super()._given(images)._replace(seed=seed_of(self._query.seed) if self._draws else None)

    async def compute(self, call: Call, given: Given) -> Outputs:
        """mean, log_variance, what stands for an image (N, D), and where there are draws these (N, K, D), and in JSON
        KL (N,)."""
        encoded = await super().compute(call, given)
        center = await centers(self.model, encoded, call) if self._has_latent else encoded[0]
        outputs = [encoded[0], encoded[1], center]
        if given.seed is not None:
            latents, log_density = await drawn(self.model, encoded, self._draws, given.seed, call)
            outputs.append(latents)
            if self._media == JSON:
                density = partial(self.model.bundle.prior.log_density, latents)
                log_prior = await call.codec("latents", density, light=False)
                outputs.append((log_density - log_prior).mean(axis=1))
        return Outputs.whole(outputs)

    def write(self, given: Given, outputs: Outputs) -> Answer:
        mean, log_variance, center, *more = outputs
        query = self._query
        samples = more[0][:, : query.samples] if more and query.samples else None
        if self._media == NPY:
            array = chosen(query, mean, log_variance, center, samples)
            return answer(NPY, npy_body(array), seed_header(given.seed))
        entries = _entries(mean, log_variance, more[1])
        if self._has_latent:
            entries = [entry | {"latent": row} for entry, row in zip(entries, center, strict=True)]
        if samples is not None:
            entries = [
                entry | {"samples": np.ascontiguousarray(rows)} for entry, rows in zip(entries, samples, strict=True)
            ]
        document = named(self.model, given.seed) | self._about | {"kl_samples": self._draws, "latents": entries}
        return answer(self._media, json_body(document), seed_header(given.seed))


def _entries(mean: Array, log_variance: Array, divergences: NDArray[np.floating]) -> list[dict[str, object]]:
    """What JSON tells of each image. Raises ModelFailure where a divergence is no number."""
    if not np.isfinite(divergences).all():  # JSON has no infinity, and null is no number
        raise ModelFailure("The model's posterior is too wide to be compared with the prior.")
    return [{"mean": m, "log_variance": v, "kl": kl} for m, v, kl in zip(mean, log_variance, divergences, strict=True)]


def about(model: Model) -> dict[str, object]:
    """What an answer with posteriors says of their kind."""
    manifest = model.manifest
    return {"latent_dim": manifest.latent.dim, "posterior": {"family": manifest.posterior.family}}


def chosen(query: EncodeQuery, mean: Array, log_variance: Array, latent: Array, samples: Array | None) -> Array:
    """The array that is asked for."""
    if query.output == "samples" and samples is not None:
        return np.ascontiguousarray(samples)
    arrays = {
        "log_variance": log_variance,
        "latent": latent,
        "posterior": np.stack((mean, log_variance), axis=1) if query.output == "posterior" else mean,
    }
    return arrays.get(query.output or "mean", mean)
