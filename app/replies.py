"""The JSON that routes give. It is only documented here, save for what is told of models: arrays are written as are."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.bundle.manifest import (
    ImageSpec,
    LatentSpec,
    LikelihoodSpec,
    PosteriorFamily,
    PosteriorSpec,
    PriorSpec,
    ScoredImages,
)
from model.bundle.measurements import Metrics

Vector = Annotated[list[float], Field(description="A latent: D numbers.")]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Operated(_Answer):
    model: str = Field(description="Name of the model that answered.")
    version: str = Field(description="Its version.")


class EncodedImage(_Answer):
    mean: Vector
    log_variance: Vector
    kl: float = Field(description="KL divergence of the posterior from the prior, in nats.")
    latent: Vector | None = Field(None, description="With a flow or a full Gaussian: what stands for the image.")
    samples: list[Vector] | None = Field(None, description="The drawn latents [K][D], if any were asked for.")


class PosteriorAnswer(_Answer):
    family: PosteriorFamily


class EncodeAnswer(_Operated):
    latent_dim: int = Field(description="D, the number of latent dimensions.")
    posterior: PosteriorAnswer = Field(description="What mean and log_variance are the parameters of.")
    kl_samples: int | None = Field(None, description="Draws of which kl is the mean; absent: it is exact.")
    latents: list[EncodedImage] = Field(description="One entry an image, in order.")
    seed: int | None = Field(None, description="The seed used, if noise was drawn.")


class ScoredImage(_Answer):
    elbo: float = Field(description="-(kl + distortion), in nats: in expectation at most log p(x).")
    log_likelihood: float | None = Field(description="The importance-weighted bound L_k, in nats; null: there is none.")
    effective_sample_size: float | None = Field(description="Of the k importance weights, between 1 and k.")
    reliable: bool | None = Field(
        description="Whether effective_sample_size is at least 2; below, one draw has more than half of the weight."
    )
    kl: float = Field(description="KL divergence of the posterior from the prior, in nats.")
    distortion: float = Field(description="-log p(x|z), the mean over the draws, in nats.")
    bits_per_dim: float | None = Field(None, description="-log2 of the likelihood a number, where pixels are discrete.")
    percentile: float | None = Field(description="Percentage of the validation images whose elbo is lower.")


class ScoreAnswer(_Operated):
    k: int = Field(description="Draws from the posterior of each image.")
    scores: list[ScoredImage] = Field(description="One entry an image, in order.")
    seed: int = Field(description="The seed used.")


class PicturesAnswer(_Operated):
    """``images``, or ``pixels`` with ?dtype=float32."""

    images: list[str] | None = Field(None, description="Base64 of PNG files.")
    pixels: list[list[list[list[float]]]] | None = Field(None, description="[N][H][W][C] in [0,1].")
    latents: list[Vector] | None = Field(
        None, description="The latents behind the pictures, unless the client gave them."
    )
    seed: int | None = Field(None, description="The seed used, if noise was drawn.")


class ModelAnswer(_Answer):
    name: str
    version: str
    created: datetime = Field(description="When the bundle was exported.")
    sha256: str = Field(description="SHA-256 of its manifest, which has those of all its files.")
    provider: str = Field(description="Where it runs: cpu or cuda.")
    precision: Literal["float32", "float16", "int8"] = Field(description="What the graphs compute in.")
    image: ImageSpec
    latent: LatentSpec
    posterior: PosteriorSpec
    prior: PriorSpec
    likelihood: LikelihoodSpec
    scores: bool = Field(description="Whether /score answers for it.")
    validation_scores: ScoredImages | None = Field(description="What percentiles of /score are of; null: it has none.")
    metrics: Metrics | None = Field(description="What was measured, with its protocol; null if nothing was.")


class ModelsAnswer(_Answer):
    default: str = Field(description="Name of the model that answers without ?model=.")
    models: list[ModelAnswer]


class HealthAnswer(_Answer):
    status: Literal["ok", "starting", "draining", "failed"]
    reason: str


class ProblemDetail(_Answer):
    pointer: str = Field(description="JSON pointer into the body (empty: all of it), or ?name of a query parameter.")
    detail: str


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: str = Field(description="URI that identifies the kind of error.")
    title: str
    status: int
    detail: str
    request_id: str = Field(description="The X-Request-ID of the answer.")
    errors: list[ProblemDetail] | None = Field(None, description="What is wrong where, for a request that was invalid.")
