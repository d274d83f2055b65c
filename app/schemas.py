"""The query strings and JSON bodies that routes take: they validate requests and document them.

Limits that are settings (256 images, ...) are checked where the settings are known, and so are not in these schemas.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, model_validator

SEED_BOUND = 2**31

Seed = Annotated[
    int | None,
    Field(ge=0, lt=SEED_BOUND, description="Seed of the noise, where some is drawn; without it one is chosen."),
]
Format = Literal["json", "npy", "png", "webp", "jpeg", "gif", "zip"]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Query(BaseModel):
    """Query parameters that every operation takes. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # validators are made when first used

    model: str | None = Field(None, description="Name of the model; without it, the default one.")


class EncodeQuery(Query):
    format: Literal["json", "npy"] | None = Field(None, description="Answer type, overriding Accept.")
    samples: int = Field(0, ge=0, description="Latents to draw from the posterior of each image.")
    seed: Seed = None
    output: Literal["mean", "log_variance", "posterior", "latent", "samples"] | None = Field(
        None,
        description="What an application/x-npy answer holds: mean [N,D] (default), log_variance [N,D], posterior "
        "[N,2,D] (mean, log_variance), latent [N,D] (what stands for an image: the mean, or what a flow makes of it) "
        "or samples [N,K,D].",
    )
    fit: Literal["model", "error"] = Field("model", description="error refuses pictures that would be resized.")


class ScoreQuery(Query):
    format: Literal["json"] | None = Field(None, description="Answer type, overriding Accept.")
    k: int = Field(64, ge=1, description="Latents to draw from the posterior of each image.")
    seed: Seed = None
    fit: Literal["model", "error"] = Field("model", description="error refuses pictures that would be resized.")


class PictureQuery(Query):
    """Query parameters of every route that answers with pictures."""

    format: Format | None = Field(None, description="Answer type, overriding Accept.")
    dtype: Literal["uint8", "float32"] | None = Field(
        None,
        description="Numbers of an array: uint8 0..255 (default) or float32 [0,1]; in JSON, float32 gives pixels.",
    )


class DecodeQuery(PictureQuery):
    pass


class ReconstructQuery(PictureQuery):
    sample: bool = Field(False, description="Draw the latent from the posterior instead of taking its mean.")
    seed: Seed = None
    fit: Literal["model", "error"] = Field("model", description="error refuses pictures that would be resized.")


class SampleQuery(PictureQuery):
    n: int = Field(16, ge=1, description="Pictures to draw.")
    seed: Seed = None
    temperature: float = Field(
        1.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Factor on the prior's standard deviation; of a mixture, on those of its components.",
    )


class InterpolateQuery(PictureQuery):
    steps: int | None = Field(None, ge=2, description="Frames from each point to the next (8); not with a JSON body.")
    path: Literal["slerp", "linear"] | None = Field(None, description="slerp unless given; not with a JSON body.")
    fit: Literal["model", "error"] = Field("model", description="error refuses pictures that would be resized.")


class TraverseQuery(PictureQuery):
    pass


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# Pictures and latents are checked as arrays (a pydantic walk would cost a Python object a number), hence `object` in
# validation; what may stand there is told to OpenAPI.
_IMAGE_SCHEMA: dict[str, JsonValue] = {
    "description": "Base64 of a picture file, or a nested list [H][W] or [H][W][C] of numbers in [0,1].",
    "anyOf": [
        {"type": "string", "contentEncoding": "base64"},
        {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}},
    ],
}
_LATENT_SCHEMA: dict[str, JsonValue] = {
    "description": "A latent: D numbers.",
    "type": "array",
    "items": {"type": "number"},
}


class ImagesBody(_Body):
    images: list[object] = Field(
        min_length=1, json_schema_extra={"items": _IMAGE_SCHEMA}, description="The pictures, at least one."
    )


class LatentsBody(_Body):
    latents: list[object] = Field(
        min_length=1, json_schema_extra={"items": _LATENT_SCHEMA}, description="The latents [N][D], at least one."
    )


class Point(_Body):
    """A point to pass through: exactly one of the two."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    latent: object = Field(None, json_schema_extra=_LATENT_SCHEMA)
    image: object = Field(None, json_schema_extra=_IMAGE_SCHEMA)

    @model_validator(mode="before")
    @classmethod
    def _has_one(cls, value: object) -> object:
        # Before its keys are looked at: each that is unknown would be an error of its own.
        if isinstance(value, dict) and len(value) != 1:
            raise ValueError("Must have either latent or image.")
        return value


class InterpolateBody(_Body):
    # The first point that is wrong is told, and no others: there may be many.
    points: Annotated[list[Point], FailFast()] = Field(
        min_length=2, description="The points to pass through, at least two."
    )
    steps: int = Field(8, ge=2, description="Frames from each point to the next, both included.")
    path: Literal["slerp", "linear"] = Field("slerp", description="Along a great circle, or straight.")


class TraverseBody(_Body):
    latent: object = Field(None, json_schema_extra=_LATENT_SCHEMA, description="Where to start (the origin).")
    dimension: int = Field(ge=0, description="Index of the latent dimension that changes.")
    low: Coordinate = Field(-3.0, description="Its first value.")
    high: Coordinate = Field(3.0, description="Its last value.")
    steps: int = Field(9, ge=2, description="Pictures, both ends included.")
