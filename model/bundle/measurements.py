"""What was measured of a model, and how: metrics.json, the manifest and the model card hold these."""

from typing import Literal

from pydantic import Field

from model.bundle.frozen import Count, Frozen

# An image of a smaller effective sample size than this has a bound that a handful of latents make: of weights with a
# variance, L_k lies about 1 / (2 ESS) nats below log p(x) (Nowozin, 2018), and these may well have none.
FEW = 10


class Estimate(Frozen):
    """A mean over images with its 95% confidence interval."""

    value: float
    low: float
    high: float


class EffectiveSampleSize(Frozen):
    """(sum w)^2 / sum w^2 of the k importance weights of an image, over the images."""

    mean: float
    minimum: float
    few: float | None = Field(
        default=None, ge=0, le=1, description="share of the images where it is below 10: there the bound is loose"
    )


class Bound(Frozen):
    """A point of the curve of importance-weighted bounds."""

    importance_samples: int = Field(ge=1, description="k")
    negative: Estimate = Field(description="-L_k, nats per image")


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


class AnnealingProtocol(Protocol):
    """How test images were annealed; k is that of the L_k beside it."""

    chains: int = Field(ge=1, description="of each image")
    temperatures: int = Field(ge=2)
    leapfrog_steps: int = Field(ge=1, description="gradients a move of Hamiltonian Monte Carlo")
    initial: Literal["prior", "posterior"] = Field(description="where chains start")
    simulated_images: int = Field(ge=2, description="that the model made, for the gap")
    simulated_initial: Literal["prior", "posterior"] = Field(description="where the chains of the gap start")


class Annealing(Frozen):
    """log p(x) by annealed importance sampling (Neal, 2001; Wu et al., 2017), on some of the test images."""

    negative_log_likelihood: Estimate = Field(description="in expectation at least -log p(x), nats per image")
    bits_per_dim: Estimate | None = Field(default=None, description="only where pixels are discrete")
    difference: Estimate = Field(
        description="log p(x) by annealing less L_k of the same images, nats per image: above 0, annealing is tighter"
    )
    effective_sample_size: EffectiveSampleSize = Field(description="of the weights of the chains")
    acceptance_rate: float = Field(ge=0, le=1, description="of the moves, mean over images; 0.65 is aimed at")
    gap: Estimate = Field(
        description="upper less lower bound of log p(x) of images that the model made: how far off annealing may be"
    )
    protocol: AnnealingProtocol


class GapsProtocol(Protocol):
    """How the posteriors of test images were optimized."""

    steps: int = Field(ge=2, description="of Adam, for each image and family")
    latents: int = Field(ge=1, description="of each image at each step")
    learning_rate: float = Field(gt=0, description="at the start of each half of the steps; it falls to 0 on a cosine")
    reference: Literal["annealing", "bound", "optimized-bound"] = Field(
        description="the tightest lower bound of log p(x): annealing, or L_k from the encoder's posterior, or L_k from "
        "the optimized one"
    )


class InferenceGaps(Frozen):
    """What the posterior lacks, and why (Cremer, Li and Duvenaud, 2018). Nats per image, on some of the test images."""

    negative_log_likelihood: Estimate = Field(description="the reference that the gaps are from")
    total: Estimate = Field(description="log p(x) less the ELBO of the encoder's posterior: the sum of the next two")
    approximation: Estimate = Field(description="log p(x) less the ELBO of the best posterior of the family")
    amortization: Estimate = Field(description="the ELBO of the best posterior less that of the encoder's")
    diagonal: Estimate | None = Field(
        default=None, description="log p(x) less the ELBO of the best diagonal Gaussian; null where that is the family"
    )
    gain: Estimate | None = Field(
        default=None, description="diagonal less approximation: what the family is better by, on this decoder"
    )
    last_half: Estimate = Field(
        description="what the second half of the steps gained: near 0, the optimization has converged"
    )
    protocol: GapsProtocol


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
    bounds: tuple[Bound, ...] = Field(
        default=(), description="-L_1 to -L_k from the same weights, all of them used at every k"
    )
    active_units: Count = Field(description="latent dimensions whose mean varies by more than 0.01 (Burda et al. 2015)")
    kl_per_dimension: tuple[float, ...] = Field(
        description="nats, mean over images, one per latent dimension; none where the posterior is no product over them"
    )
    reconstruction_error: Estimate = Field(description="mean squared error per pixel of decode(mean), on [0, 1] pixels")
    bits_per_dim: Estimate | None = Field(default=None, description="only where pixels are discrete")
    annealing: Annealing | None = Field(default=None, description="log p(x) by annealed importance sampling")
    gaps: InferenceGaps | None = Field(default=None, description="what the posterior lacks")
    protocol: Protocol
