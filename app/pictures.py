"""The plans of operations that answer with pictures: latents of any origin, decoded and drawn."""

from functools import partial
from typing import ClassVar

import numpy as np
import orjson
from numpy.typing import NDArray

from app.answers import LIGHT_NUMBERS, LIGHT_PIXELS, Answer, answer, fits, json_body, npy_body, picture_body, png_texts
from app.decimals import unit_json
from app.draws import centers, drawn
from app.engine import Model, Stage
from app.errors import Invalid
from app.exchange import Call
from app.images import LIGHT_DOCUMENT, Reading, read_latents, read_latents_at_once
from app.limits import check_numbers
from app.naming import named, seed_header, seed_of
from app.negotiation import JSON, NPY, PNG, ZIP, choose
from app.outputs import Outputs, Rows
from app.plans import Given, Plan, Stages
from app.schemas import InterpolateQuery, PictureQuery, SampleQuery
from app.walks import check_segments, read_points, read_traverse
from model.bundle.latents import interpolate
from model.bundle.manifest import Role
from model.bundle.pixels import from_network, to_uint8

Array = NDArray[np.float32]

DECIMALS_FROM = 256
"""So many numbers are written faster by `decimals` than by orjson."""


class Drawing:
    """How decoded pictures are answered: as ``media``, in order if they are ``frames``."""

    def __init__(
        self, call: Call, model: Model, query: PictureQuery, offered: tuple[str, ...], *,
        frames: bool = False, tell_latents: bool = False,
    ) -> None:  # fmt: skip
        """Raises NotAcceptable or Invalid for what is not offered."""
        self.model, self.limits = model, call.engine.settings
        self._media = choose(call.accept, offered, query.format)
        self._as_floats = query.dtype == "float32"
        self._frames, self._tell_latents = frames, tell_latents
        self._image = model.manifest.image
        self._pixels = self._image.height * self._image.width * self._image.channels
        if query.dtype is not None and self._media not in (JSON, NPY):
            raise Invalid.at("?dtype", "Chooses the numbers of application/x-npy and application/json answers only.")

    def check(self, count: int) -> None:
        """Raises Invalid if so many pictures are more than the answer may or can hold."""
        media = self._media
        if media == NPY or self._as_floats:
            check_numbers(self.limits, count * self._pixels, media)
        if not fits(count, self._image.height, self._image.width, media, frames=self._frames):
            raise Invalid(f"So many pictures do not fit into one of type {media}; ask for {ZIP}, or for less.")

    def is_light(self, count: int) -> bool:
        """Are so many drawn faster than a thread could take them up?"""
        numbers = count * self._pixels
        if self._media == PNG:
            return numbers <= LIGHT_PIXELS
        return (self._media == NPY or (self._media == JSON and self._as_floats)) and numbers <= LIGHT_NUMBERS

    def write(self, given: Given, outputs: Outputs) -> Answer:
        """The answer with what the decoder made of the latents ``given``."""
        media, headers = self._media, seed_header(given.seed)
        if not self._as_floats:
            levels = outputs.of(_levels)
            if media == NPY:
                return answer(NPY, npy_body(levels), headers)
            if media != JSON:
                return answer(media, picture_body(levels, media, frames=self._frames), headers)
            pictures: dict[str, object] = {"images": png_texts(levels)}
        elif media == NPY:
            return answer(NPY, npy_body(from_network(outputs[0])), headers)
        else:
            pictures = {"pixels": _numbers(from_network(outputs[0]))}
        document = named(self.model, given.seed) | pictures
        if self._tell_latents:
            document["latents"] = np.ascontiguousarray(given.rows)
        return answer(JSON, json_body(document), headers)


class Draw(Stages):
    """Latents of some origin, decoded and drawn."""

    def __init__(self, drawing: Drawing, *graphs: Role, express: bool = True) -> None:
        super().__init__(drawing.model, *graphs, express=express)
        self.drawing, self.limits = drawing, drawing.limits
        self.dim = drawing.model.manifest.latent.dim

    def given(self, rows: Rows, seed: int | None = None) -> Given:
        """What was read, if there is room for its pictures in the answer. Raises Invalid."""
        self.drawing.check(len(rows))
        return Given(rows, seed)

    def is_light(self, count: int) -> bool:
        return self.drawing.is_light(count)

    def write(self, given: Given, outputs: Outputs) -> Answer:
        return self.drawing.write(given, outputs)


class Decode(Draw):
    """The latents of the body, which is of type ``kind``."""

    def __init__(self, drawing: Drawing, kind: str) -> None:
        super().__init__(drawing, "decoder")
        self._kind = kind

    def at_once(self, body: bytes) -> Given | None:
        latents = read_latents_at_once(self._kind, body, self.dim, self.limits)
        return None if latents is None else self.given(latents)

    def read(self, body: bytes) -> Given:
        return self.given(read_latents(self._kind, body, self.dim, self.limits))


class Reconstruct(Draw):
    """What stands for each picture, or a draw from its posterior."""

    def __init__(self, drawing: Drawing, reading: Reading, *, sample: bool, seed: int | None) -> None:
        self._direct = not sample and drawing.model.manifest.posterior.is_diagonal
        super().__init__(drawing, "encoder", "decoder", express=self._direct)
        self._reading, self._sample, self._seed = reading, sample, seed

    def at_once(self, body: bytes) -> Given | None:
        images = self._reading.at_once(body)
        return None if images is None else self._with_seed(images)

    def read(self, body: bytes) -> Given:
        return self._with_seed(self._reading.read(body))

    def _with_seed(self, images: Rows) -> Given:
        return self.given(images, seed_of(self._seed) if self._sample else None)

    async def compute(self, call: Call, given: Given) -> Outputs:
        if self._direct:  # the mean, which is the encoder's first output
            return await super().compute(call, given)
        encoded = await self.model.run("encoder", given.rows, call)
        if given.seed is None:
            return await self.model.run("decoder", await centers(self.model, encoded, call), call)
        latents, _ = await drawn(self.model, encoded, 1, given.seed, call)
        return await self.model.run("decoder", latents[:, 0], call)


class Sample(Draw):
    """Latents from the prior."""

    first: ClassVar[Stage] = "latents"

    def __init__(self, drawing: Drawing, query: SampleQuery) -> None:
        super().__init__(drawing, "decoder")
        drawing.check(query.n)
        self._query = query

    def at_once(self, body: bytes) -> Given | None:
        return self.read(body) if self._query.n * self.dim <= LIGHT_NUMBERS else None

    def read(self, body: bytes) -> Given:
        seed = seed_of(self._query.seed)
        prior = self.model.bundle.prior
        return Given(prior.draw(self._query.n, seed=seed, temperature=self._query.temperature), seed)


class Traverse(Draw):
    """Frames along one dimension."""

    def at_once(self, body: bytes) -> Given | None:
        return self.read(body) if len(body) <= LIGHT_DOCUMENT else None

    def read(self, body: bytes) -> Given:
        return self.given(read_traverse(body, self.dim, self.limits))


class Interpolate(Plan):
    """Frames from point to point: a body has latents, or pictures and what stands for them, or both."""

    def __init__(self, drawing: Drawing, reading: Reading, query: InterpolateQuery) -> None:
        self._drawing, self._reading, self._model = drawing, reading, drawing.model
        self._steps, self._path = query.steps or 8, query.path or "slerp"

    async def run(self, call: Call) -> Answer:
        body = await call.read()
        steps, path, limits = self._steps, self._path, self._drawing.limits
        is_json = self._reading.kind == JSON
        if is_json:
            read = partial(read_points, body, self._reading.reader(), self._model.manifest.latent.dim, limits)
            points = await call.codec("read", read, light=False)
            steps, path, latents = points.steps, points.path, points.latents
            if len(points.images):
                latents[points.where] = await self._encode(points.images, call)
        else:
            images = call.do("read", partial(self._reading.at_once, body))
            if images is None:
                images = await call.codec("read", partial(self._reading.read, body), light=False)
            check_segments(limits, len(images), steps, "?steps")
            latents = await self._encode(images, call)
        make = partial(interpolate, latents, steps, path)
        frames = await call.codec("latents", make, light=len(latents) * steps * latents.shape[1] <= LIGHT_NUMBERS)
        if not np.isfinite(frames).all():
            raise Invalid.at("/points" if is_json else "", "The path between the points leaves the range of float32.")
        self._drawing.check(len(frames))
        pictures = await self._model.run("decoder", frames, call)
        write = partial(self._drawing.write, Given(frames), pictures)
        return await call.codec("write", write, light=self._drawing.is_light(len(frames)))

    async def _encode(self, images: Rows, call: Call) -> Array:
        return await centers(self._model, await self._model.run("encoder", images, call), call)


def _levels(images: Array) -> NDArray[np.uint8]:
    """(N, C, H, W) in [0, 1] -> (N, H, W, C) in 0..255."""
    return to_uint8(images).transpose(0, 2, 3, 1)


def _numbers(images: Array) -> object:
    """What JSON holds of images (N, H, W, C)."""
    if images.size < DECIMALS_FROM:
        return images
    try:
        return orjson.Fragment(unit_json(images))
    except ValueError:  # a decoder that leaves [0, 1] is shown as it is
        return images
