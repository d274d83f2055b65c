"""What the server does with a VAE, each operation written once and free of any web framework.

An operation takes a Call (media types, query, body on demand) and gives an Answer (status, headers, body), in the
same order every time: the query, the model and the answer's type are checked; the body is read and decoded; the graphs
run; the answer is encoded. What is not small is read and written on codec threads. Latents are NumPy's work
(model.bundle.latents), so that a seed means the same everywhere.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.answers import LIGHT_NUMBERS, LIGHT_PIXELS, Answer, answer, fits, json_body, npy_body, picture_body, png_texts
from app.bodies import IMAGE_BODIES, LATENT_BODIES, media_type
from app.engine import Model
from app.errors import Invalid, ModelFailure
from app.exchange import Call, Operate
from app.images import LIGHT_DOCUMENT, ImageReader, read_latents, read_latents_at_once
from app.negotiation import GIF, JPEG, JSON, MULTIPART, NPY, PNG, WEBP, ZIP, choose
from app.schemas import (
    SEED_BOUND,
    DecodeQuery,
    EncodeQuery,
    InterpolateQuery,
    PictureQuery,
    ReconstructQuery,
    SampleQuery,
    TraverseQuery,
)
from app.walks import check_segments, read_points, read_traverse
from model.bundle.latents import gaussian_kl, interpolate, posterior_samples, prior_latents
from model.bundle.pixels import from_network, to_uint8
from model.bundle.runtime import Posterior

Array = NDArray[np.float32]

ENCODE_ANSWERS = (JSON, NPY)
PICTURE_ANSWERS = (PNG, JSON, NPY, WEBP, JPEG, ZIP)
FRAME_ANSWERS = (PNG, JSON, NPY, WEBP, JPEG, GIF, ZIP)
INTERPOLATE_BODIES = (JSON, MULTIPART, NPY)
TRAVERSE_BODIES = (JSON,)


async def encode(call: Call) -> Answer:
    """Images to posteriors: mean, log_variance, KL and, if asked for, samples."""
    query = call.query(EncodeQuery)
    model = call.model(query.model)
    media = choose(call.accept, ENCODE_ANSWERS, query.format)
    _check_count(call, query.samples, "?samples")
    if query.output is not None and media == JSON:
        raise Invalid.at("?output", "Chooses the array of an application/x-npy answer; JSON holds everything.")
    if query.output == "samples" and query.samples == 0:
        raise Invalid.at("?output", "Needs samples of at least 1.")
    if query.seed is not None and query.samples == 0:
        raise Invalid.at("?seed", "Needs samples of at least 1: nothing else is drawn.")
    images = await _read_images(call, model, IMAGE_BODIES, refuse=query.fit == "error")
    numbers = len(images) * model.manifest.latent.dim * (2 + query.samples)
    _check_numbers(call, numbers, media)
    posterior = await model.encode(images, call)
    seed = _seed(query.seed) if query.samples else None
    write = partial(_encoded, model, posterior, query, seed, media)
    light = numbers <= LIGHT_NUMBERS and seed is None
    return await call.codec("write", write, light=light)


async def decode(call: Call) -> Answer:
    """Latents to pictures."""
    query = call.query(DecodeQuery)
    model = call.model(query.model)
    media = _negotiate_pictures(call, query, PICTURE_ANSWERS)
    kind = media_type(call.content_type, LATENT_BODIES)
    body = await call.read()
    given = (kind, body, model.manifest.latent.dim, call.engine.settings)
    latents = call.do("read", partial(read_latents_at_once, *given))
    if latents is None:
        latents = await call.codec("read", partial(read_latents, *given), light=False)
    return await _draw(call, model, latents, _Drawing(media, query))


async def reconstruct(call: Call) -> Answer:
    """Images to their reconstructions: decode of the posterior's mean, or of a draw from it."""
    query = call.query(ReconstructQuery)
    model = call.model(query.model)
    media = _negotiate_pictures(call, query, PICTURE_ANSWERS)
    if query.seed is not None and not query.sample:
        raise Invalid.at("?seed", "Needs sample=true: nothing else is drawn.")
    images = await _read_images(call, model, IMAGE_BODIES, refuse=query.fit == "error")
    latents, log_variance = await model.encode(images, call)
    seed = None
    if query.sample:
        seed = _seed(query.seed)
        draw = partial(_draws, latents, log_variance, 1, seed)
        latents = (await call.codec("latents", draw, light=False))[:, 0]
    return await _draw(call, model, latents, _Drawing(media, query, seed=seed))


async def sample(call: Call) -> Answer:
    """Pictures of latents drawn from the prior."""
    query = call.query(SampleQuery)
    model = call.model(query.model)
    media = _negotiate_pictures(call, query, PICTURE_ANSWERS)
    _check_count(call, query.n, "?n")
    await call.read()  # nothing to read, but from here on a client that goes away is noticed
    seed = _seed(query.seed)
    dim = model.manifest.latent.dim
    make = partial(prior_latents, query.n, dim, seed=seed, temperature=query.temperature)
    latents = await _make(call, query.n * dim, make)
    return await _draw(call, model, latents, _Drawing(media, query, seed=seed, tell_latents=True))


async def interpolate_points(call: Call) -> Answer:
    """Frames on the way from point to point, a point being a latent or a picture's mean."""
    query = call.query(InterpolateQuery)
    model = call.model(query.model)
    media = _negotiate_pictures(call, query, FRAME_ANSWERS)
    kind = media_type(call.content_type, INTERPOLATE_BODIES)
    steps, path = query.steps or 8, query.path or "slerp"
    if kind == JSON:
        if query.steps is not None or query.path is not None:
            raise Invalid.at("?steps", "steps and path belong into the JSON body.")
        body = await call.read()
        reader = ImageReader(model.manifest.image, call.engine.settings, refuse=query.fit == "error")
        read = partial(read_points, body, reader, model.manifest.latent.dim, call.engine.settings)
        points = await call.codec("read", read, light=False)
        steps, path = points.steps, points.path
        latents = points.latents
        if len(points.images):
            latents[points.where] = (await model.encode(points.images, call)).mean
    else:
        _check_count(call, steps, "?steps")
        images = await _read_images(call, model, INTERPOLATE_BODIES, refuse=query.fit == "error")
        check_segments(call.engine.settings, len(images), steps, "?steps")
        latents = (await model.encode(images, call)).mean
    frames = await _make(call, len(latents) * steps * latents.shape[1], partial(interpolate, latents, steps, path))
    if not np.isfinite(frames).all():
        raise Invalid.at("/points" if kind == JSON else "", "The path between the points leaves the range of float32.")
    return await _draw(call, model, frames, _Drawing(media, query, frames=True, tell_latents=True))


async def traverse_dimension(call: Call) -> Answer:
    """Frames along one latent dimension."""
    query = call.query(TraverseQuery)
    model = call.model(query.model)
    media = _negotiate_pictures(call, query, FRAME_ANSWERS)
    media_type(call.content_type, TRAVERSE_BODIES)
    body = await call.read()
    read = partial(read_traverse, body, model.manifest.latent.dim, call.engine.settings)
    frames = await call.codec("read", read, light=len(body) <= LIGHT_DOCUMENT)
    return await _draw(call, model, frames, _Drawing(media, query, frames=True, tell_latents=True))


OPERATIONS: Mapping[tuple[str, str], Operate] = {
    ("POST", "/encode"): encode,
    ("POST", "/decode"): decode,
    ("POST", "/reconstruct"): reconstruct,
    ("GET", "/sample"): sample,
    ("POST", "/interpolate"): interpolate_points,
    ("POST", "/traverse"): traverse_dimension,
}
"""By method and path."""


# What operations share


async def _read_images(call: Call, model: Model, taken: tuple[str, ...], *, refuse: bool) -> Array:
    kind = media_type(call.content_type, taken)
    body = await call.read()
    reader = ImageReader(model.manifest.image, call.engine.settings, refuse=refuse)
    images = call.do("read", partial(reader.at_once, kind, body))
    if images is not None:
        return images
    return await call.codec("read", partial(reader.of_body, kind, call.content_type or "", body), light=False)


def _encoded(model: Model, posterior: Posterior, query: EncodeQuery, seed: int | None, media: str) -> Answer:
    mean, log_variance = posterior
    draws = None
    if seed is not None:
        draws = _draws(mean, log_variance, query.samples, seed)
    headers = _seed_header(seed)
    if media == NPY:
        array = mean
        if query.output == "log_variance":
            array = log_variance
        elif query.output == "posterior":
            array = np.stack((mean, log_variance), axis=1)
        elif query.output == "samples" and draws is not None:
            array = draws
        return answer(NPY, npy_body(array), headers)
    divergences = gaussian_kl(mean, log_variance)
    if not np.isfinite(divergences).all():  # JSON has no infinity, and null is no number
        raise ModelFailure("The model's posterior is too wide to be compared with the prior.")
    entries = [
        {"mean": m, "log_variance": v, "kl": kl} for m, v, kl in zip(mean, log_variance, divergences, strict=True)
    ]
    if draws is not None:
        entries = [entry | {"samples": rows} for entry, rows in zip(entries, draws, strict=True)]
    manifest = model.manifest
    about = {"latent_dim": manifest.latent.dim, "posterior": manifest.posterior.model_dump()}
    document = _named(model, seed) | about | {"latents": entries}
    return answer(JSON, json_body(document), headers)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How decoded pictures are answered."""

    media: str
    query: PictureQuery
    seed: int | None = None
    frames: bool = False
    tell_latents: bool = False


async def _draw(call: Call, model: Model, latents: Array, drawing: _Drawing) -> Answer:
    """Decode latents and answer with the pictures."""
    spec = model.manifest.image
    numbers = len(latents) * spec.height * spec.width * spec.channels
    if drawing.media == NPY or drawing.query.dtype == "float32":
        _check_numbers(call, numbers, drawing.media)
    if not fits(len(latents), spec.height, spec.width, drawing.media, frames=drawing.frames):
        raise Invalid(f"So many pictures do not fit into one of type {drawing.media}; ask for {ZIP}, or for less.")
    images = await model.decode(latents, call)
    write = partial(_drawn, model, images, latents, drawing)
    light = drawing.media == NPY or (drawing.media == JSON and drawing.query.dtype == "float32")
    light = (light and numbers <= LIGHT_NUMBERS) or (drawing.media == PNG and numbers <= LIGHT_PIXELS)
    return await call.codec("write", write, light=light)


def _drawn(model: Model, images: Array, latents: Array, drawing: _Drawing) -> Answer:
    headers = _seed_header(drawing.seed)
    if drawing.query.dtype != "float32":
        levels = to_uint8(images).transpose(0, 2, 3, 1)
        if drawing.media == NPY:
            return answer(NPY, npy_body(levels), headers)
        if drawing.media != JSON:
            return answer(drawing.media, picture_body(levels, drawing.media, frames=drawing.frames), headers)
        pictures: dict[str, object] = {"images": png_texts(levels)}
    elif drawing.media == NPY:
        return answer(NPY, npy_body(from_network(images)), headers)
    else:
        pictures = {"pixels": from_network(images)}
    document = _named(model, drawing.seed) | pictures
    if drawing.tell_latents:
        document["latents"] = np.ascontiguousarray(latents)
    return answer(JSON, json_body(document), headers)


def _negotiate_pictures(call: Call, query: PictureQuery, offered: tuple[str, ...]) -> str:
    media = choose(call.accept, offered, query.format)
    if query.dtype is not None and media not in (JSON, NPY):
        raise Invalid.at("?dtype", "Chooses the numbers of application/x-npy and application/json answers only.")
    return media


def _check_count(call: Call, count: int, pointer: str) -> None:
    most = call.engine.settings.max_count
    if count > most:
        raise Invalid.at(pointer, f"Must be at most {most}.")


def _check_numbers(call: Call, numbers: int, media: str) -> None:
    limits = call.engine.settings
    if media == JSON and numbers > limits.max_json_numbers:
        most = limits.max_json_numbers
        raise Invalid(f"The answer would hold more than {most} numbers of JSON; ask for {NPY}, or for less.")
    if numbers > limits.max_npy_numbers:
        raise Invalid(f"The answer would hold more than {limits.max_npy_numbers} numbers; ask for less.")


async def _make(call: Call, numbers: int, work: Callable[[], Array]) -> Array:
    """Latents that NumPy makes: many of them on a codec thread."""
    return await call.codec("latents", work, light=numbers <= LIGHT_NUMBERS)


def _draws(mean: Array, log_variance: Array, k: int, seed: int) -> Array:
    draws = posterior_samples(mean, log_variance, k, seed=seed)
    if not np.isfinite(draws).all():
        raise ModelFailure("The model's posterior is too wide to draw from.")
    return draws


def _seed(given: int | None) -> int:
    return secrets.randbelow(SEED_BOUND) if given is None else given


def _seed_header(seed: int | None) -> dict[str, str]:
    return {} if seed is None else {"X-Seed": str(seed)}


def _named(model: Model, seed: int | None) -> dict[str, object]:
    named: dict[str, object] = {"model": model.bundle.name, "version": model.bundle.version}
    return named if seed is None else named | {"seed": seed}
