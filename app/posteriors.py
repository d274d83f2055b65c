"""The plan of an operation that answers with posteriors."""

import numpy as np
from numpy.typing import NDArray

from app.answers import LIGHT_NUMBERS, Answer, answer, json_body, npy_body
from app.errors import ModelFailure
from app.images import Reading
from app.limits import check_numbers
from app.naming import named, seed_header, seed_of
from app.negotiation import NPY
from app.outputs import Outputs, Rows
from app.plans import Given, Stages
from app.schemas import EncodeQuery
from model.bundle.latents import gaussian_kl, posterior_samples

Array = NDArray[np.float32]


class Encode(Stages):
    """Images to mean, log_variance, KL and, if asked for, samples."""

    def __init__(self, reading: Reading, query: EncodeQuery, media: str) -> None:
        super().__init__(reading.model, "encoder", express=query.samples == 0)
        self._reading, self._query, self._media = reading, query, media
        self._row = self.model.manifest.latent.dim * (2 + query.samples)  # numbers of an image in the answer
        self._about = {
            "latent_dim": self.model.manifest.latent.dim,
            "posterior": self.model.manifest.posterior.model_dump(),
        }

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
            draws = draw(mean, log_variance, query.samples, seed)
        if self._media == NPY:
            array = mean
            if query.output == "log_variance":
                array = log_variance
            elif query.output == "posterior":
                array = np.stack((mean, log_variance), axis=1)
            elif query.output == "samples" and draws is not None:
                array = draws
            return answer(NPY, npy_body(array), seed_header(seed))
        divergences = outputs.of(gaussian_kl)
        if not np.isfinite(divergences).all():  # JSON has no infinity, and null is no number
            raise ModelFailure("The model's posterior is too wide to be compared with the prior.")
        entries = [
            {"mean": m, "log_variance": v, "kl": kl} for m, v, kl in zip(mean, log_variance, divergences, strict=True)
        ]
        if draws is not None:
            entries = [entry | {"samples": rows} for entry, rows in zip(entries, draws, strict=True)]
        document = named(self.model, seed) | self._about | {"latents": entries}
        return answer(self._media, json_body(document), seed_header(seed))


def draw(mean: Array, log_variance: Array, count: int, seed: int) -> Array:
    """``count`` latents from each posterior: (N, count, D). Raises ModelFailure where one is too wide for that."""
    draws = posterior_samples(mean, log_variance, count, seed=seed)
    if not np.isfinite(draws).all():
        raise ModelFailure("The model's posterior is too wide to draw from.")
    return draws
