"""The plan of an operation that answers with scores: how well the model explains images."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.answers import Answer, answer, json_body
from app.draws import drawn
from app.errors import ModelFailure
from app.exchange import Call
from app.graphs import Packed
from app.images import Fitted, Reading
from app.limits import check_drawn
from app.naming import named, seed_header, seed_of
from app.negotiation import JSON
from app.outputs import Outputs
from app.plans import Plan
from app.schemas import ScoreQuery
from model.bundle.latents import gaussian_kl
from model.bundle.scores import Scores, bits_per_dim, estimate, has_likelihood, observed, percentile

Array = NDArray[np.float32]


class Score(Plan):
    """Images to ELBO, importance-weighted likelihood and percentile, by k draws from each posterior."""

    def __init__(self, reading: Reading, query: ScoreQuery) -> None:
        self._reading, self._model, self._query = reading, reading.model, query

    async def run(self, call: Call) -> Answer:
        model, k, seed = self._model, self._query.k, seed_of(self._query.seed)
        body = await call.read()
        images = await call.codec("read", partial(self._read, body, seed), light=False)
        encoded = await model.run("encoder", images, call)
        latents, log_density = await drawn(model, encoded, k, seed, call)
        (found,) = await model.run("likelihood", Packed(latents.reshape(-1, latents.shape[2]), images), call)
        log_likelihood = found.reshape(len(images), k)
        write = partial(self._write, encoded, latents, log_density, log_likelihood, seed)
        return await call.codec("write", write, light=False)

    def _read(self, body: bytes, seed: int) -> Fitted:
        """The images of a body as the likelihood describes them, (N, H, W, C)."""
        images: Fitted = self._reading.read(body)
        check_drawn(self._reading.limits, len(images), self._query.k, self._model.manifest.latent.dim)
        return observed(images, self._model.manifest.likelihood, seed=seed)

    def _write(self, encoded: Outputs, latents: Array, log_density: Array, log_likelihood: Array, seed: int) -> Answer:
        manifest, bundle = self._model.manifest, self._model.bundle
        scores = estimate(
            log_likelihood.astype(np.float64),
            bundle.prior.log_density(latents),
            log_density.astype(np.float64),
            gaussian_kl(encoded[0], encoded[1]) if manifest.is_product else None,
        )
        if not all(np.isfinite(part).all() for part in scores):
            raise ModelFailure("The model gives these images no finite score.")
        document = named(self._model, seed) | {"k": self._query.k, "scores": self._entries(scores)}
        return answer(JSON, json_body(document), seed_header(seed))

    def _entries(self, scores: Scores) -> list[dict[str, object]]:
        manifest, reference = self._model.manifest, self._model.bundle.validation_scores
        proper = has_likelihood(manifest.likelihood)
        bits = bits_per_dim(scores.log_likelihood, manifest)
        ranks = None if reference is None else percentile(scores.elbo, reference)
        entries: list[dict[str, object]] = []
        for index in range(len(scores.elbo)):
            entry: dict[str, object] = {
                "elbo": float(scores.elbo[index]),
                "log_likelihood": float(scores.log_likelihood[index]) if proper else None,
                "effective_sample_size": float(scores.effective_sample_size[index]) if proper else None,
                "reliable": bool(scores.reliable[index]) if proper else None,
                "kl": float(scores.kl[index]),
                "distortion": float(scores.distortion[index]),
            }
            if bits is not None:
                entry["bits_per_dim"] = float(bits[index])
            entries.append(entry | {"percentile": None if ranks is None else float(ranks[index])})
        return entries
