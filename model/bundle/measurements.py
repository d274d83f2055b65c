"""What was measured of a model, and how: metrics.json, the manifest and the model card hold these."""

from typing import Literal

from pydantic import Field

from model.bundle.frozen import Count, Frozen


class Estimate(Frozen):
    """A mean over images with its 95% confidence interval."""

    value: float
    low: float
    high: float


class EffectiveSampleSize(Frozen):
    """(sum w)^2 / sum w^2 of the k importance weights of an image, over the images."""

    mean: float
    minimum: float


class Protocol(Frozen):
    """Under which conditions the numbers were measured; without it they mean nothing."""

    dataset: str
    split: str
    images: Count
    binarization: Literal["dynamic", "static", "none"]
    importance_samples: int | None = Field(default=None, ge=1, description="k of the L_k bound")
    seed: Count
    step: Count | None = Field(default=None, description="training step of the weights that were measured")
    git_commit: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict, description="name: version of what computed the numbers")


class Metrics(Frozen):
    """What a model measures on held-out images. Nats per image, summed over pixels and latent dimensions.

    `metrics.json`, the manifest and the model card all hold this one model.
    """

    rate: Estimate = Field(description="KL(q(z|x) || p(z)), nats per image")
    distortion: Estimate = Field(description="-E_q[log p(x|z)], nats per image")
    negative_elbo: Estimate = Field(description="rate + distortion, nats per image")
    negative_log_likelihood: Estimate | None = Field(
        default=None, description="-L_k, the importance-weighted bound (Burda et al. 2015), nats per image"
    )
    effective_sample_size: EffectiveSampleSize | None = Field(default=None, description="of the k importance weights")
    active_units: Count = Field(description="latent dimensions whose mean varies by more than 0.01 (Burda et al. 2015)")
    kl_per_dimension: tuple[float, ...] = Field(
        description="nats, mean over images, one per latent dimension; none where the posterior is no product over them"
    )
    reconstruction_error: Estimate = Field(description="mean squared error per pixel of decode(mean), on [0, 1] pixels")
    bits_per_dim: Estimate | None = Field(default=None, description="only where pixels are discrete")
    protocol: Protocol
