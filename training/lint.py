"""What a run is about to minimize, in words, and what of it is allowed and may still not be meant.

Said before training. A line that begins with "warning:" names something that has made numbers wrong, or incomparable,
elsewhere; nothing here changes a run or refuses one. docs/theory.md derives what the lines on noise say.
"""

import math
from collections.abc import Iterator

import numpy as np

from model.likelihoods import BernoulliSettings, GaussianSettings
from model.priors import VampSettings
from training.config import RunConfig
from training.data.dataset import Dataset, pieces
from training.data.seen import SeenImages
from training.objectives.settings import (
    AutoencoderSettings,
    BetaTCSettings,
    Cyclical,
    ElboSettings,
    IwaeSettings,
    Warmup,
)
from training.objectives.words import chooses, minimizes
from training.words import count

_LEVELS = 256
# How near a weight must be to one that only averages would explain.
_NEAR = 0.01


def lint(config: RunConfig) -> list[str]:
    """What the configuration alone tells: what is minimized, what validation judges by, what the noise of the pixels
    makes of beta; then warnings."""
    lines = [f"objective: minimizes {minimizes(config.objective)}", f"validation: {_judgement(config)}"]
    lines += _prior(config)
    warnings = (_grey, _averaged, _free_bits, _one_sided, _schedule, _gradient, _no_likelihood)
    return [*lines, *_noise(config), *(f"warning: {text}" for warning in warnings for text in warning(config))]


def lint_data(config: RunConfig, training: Dataset, validation: Dataset, tests: SeenImages) -> list[str]:
    """What the images tell beside it, as warnings.

    Args:
        tests: the test images; none, where they were not looked at.
    """
    warnings = (
        *_leak(validation, tests, "what chooses the weights must not measure them"),
        *_leak(training, tests, "what is measured there was trained on"),
        *_binary(config, training),
        *_free_beside_the_mean_image(config, training),
        *_components(config, training),
    )
    return [f"warning: {text}" for text in warnings]


# --- what is minimized


def _judgement(config: RunConfig) -> str:
    name = chooses(config.objective)
    if name == "-ELBO":
        return "-ELBO at beta = 1 is reported, and the weights where it is lowest are kept"
    kept = f"the weights where {name} is lowest are kept"
    if isinstance(config.objective, AutoencoderSettings):
        return kept
    return f"{kept}; -ELBO at beta = 1 is reported beside it, and may get worse meanwhile"


def _prior(config: RunConfig) -> Iterator[str]:
    match config.model.prior:
        case VampSettings(components=components):
            yield (
                f"prior: the mean of the posteriors of {count(components, 'pseudo-input')}, which are encoded with "
                "every batch; the rate is estimated from the latents that are drawn"
            )


def _rate_weights(config: RunConfig) -> dict[str, float]:
    """What a nat of rate weighs against one of distortion, or a nat of each of its parts where these weigh differently;
    by name, and nothing where rate or distortion does not count."""
    match config.objective:
        case ElboSettings(beta=beta, distortion_weight=weight) if beta > 0 and weight > 0:
            return {"beta / distortion_weight": beta / weight}
        case IwaeSettings():
            return {"beta / distortion_weight": 1.0}
        case BetaTCSettings(alpha=alpha, beta=beta, gamma=gamma) if alpha == beta == gamma > 0:
            return {"beta": beta}
        case BetaTCSettings(alpha=alpha, beta=beta, gamma=gamma) if alpha + beta + gamma > 0:
            return {"alpha": alpha, "beta": beta, "gamma": gamma}
        case _:
            return {}


def _noise(config: RunConfig) -> Iterator[str]:
    """What the noise of the pixels makes of beta."""
    weights = _rate_weights(config)
    if len(weights) > 1:
        yield f"noise: {_noise_of_parts(config, weights)}"
        return
    for weight in weights.values():
        yield from _noise_of_the_whole(config, weight)


def _noise_of_the_whole(config: RunConfig, weight: float) -> Iterator[str]:
    match config.model.likelihood:
        case GaussianSettings(scale=None):
            yield (
                "noise: the scale is learned, and becomes the root mean squared error: one nat of rate must save "
                f"{weight:g} {'nat' if weight == 1 else 'nats'} of a calibrated distortion"
            )
        case GaussianSettings(scale=float(scale)):
            effective = scale**2 * weight
            same = "" if weight == 1 else f"; the same weights minimize -ELBO with scale = {scale * weight**0.5:.4g}"
            yield (
                f"noise: a fixed scale of {scale:g} makes beta {effective:.4g} beside unit variance, and "
                f"{2 * effective:.4g} beside a plain sum of squared errors{same}"
            )
        case likelihood if weight != 1:
            yield (
                f"noise: one nat of rate must save {weight:g} nats of distortion, as if each pixel counted "
                f"{1 / weight:.4g} times: no {likelihood.family} likelihood has that for its -ELBO"
            )


def _noise_of_parts(config: RunConfig, weights: dict[str, float]) -> str:
    def times(factor: float) -> str:
        return ", ".join(f"{name} {factor * weight:.4g}" for name, weight in weights.items())

    save = f"a nat of each part of the rate must save as many nats as its weight says ({times(1)})"
    match config.model.likelihood:
        case GaussianSettings(scale=None):
            return f"the scale is learned, and becomes the root mean squared error: {save} of a calibrated distortion"
        case GaussianSettings(scale=float(scale)):
            return (
                f"a fixed scale of {scale:g} makes the weights {times(scale**2)} beside unit variance, and "
                f"{times(2 * scale**2)} beside a plain sum of squared errors"
            )
        case likelihood:
            return f"{save} of distortion: no {likelihood.family} likelihood has that for its -ELBO"


# --- what may not be meant


def _grey(config: RunConfig) -> Iterator[str]:
    if isinstance(config.model.likelihood, BernoulliSettings) and config.data.binarization == "none":
        yield (
            "grey or colour values under a Bernoulli: -ELBO is what is minimized, and bounds no likelihood; "
            "a gaussian likelihood, or data.binarization = 'dynamic', would give one"
        )


def _averaged(config: RunConfig) -> Iterator[str]:
    """Weights that an average in the place of a sum would explain. A mean over P pixels divides by P."""
    weights, pixels, dimensions = _rate_weights(config), math.prod(config.image.shape), config.model.latent_dim
    match config.model.likelihood:
        case GaussianSettings(scale=float(scale)):
            weights |= {f"2 scale^2 {name}": 2 * scale**2 * weight for name, weight in weights.items()}
    shares = {
        "C*H*W": (pixels, "what averaging the distortion over pixels and summing the rate would do"),
        "C*H*W / D": (pixels / dimensions, "what averaging the distortion over pixels and the rate over D would do"),
        "1 / (C*H*W)": (1 / pixels, "for a loss whose distortion is averaged over pixels; here it is a sum"),
        "D / (C*H*W)": (dimensions / pixels, "for a loss whose terms are both averaged; here they are sums"),
    }
    for name, value in weights.items():
        for share, (expected, meaning) in shares.items():
            if abs(value / expected - 1) <= _NEAR < abs(value - 1):
                yield f"{name} = {value:.4g} is {share}: this is {meaning}"


def _free_bits(config: RunConfig) -> Iterator[str]:
    """Against what pixels can hold at all; the data tell more."""
    levels = 2 if config.data.binarization != "none" else _LEVELS
    yield from _free_above(config, math.prod(config.image.shape) * math.log(levels), "that the pixels can hold")


def _free(config: RunConfig) -> float:
    """Nats of a dimension that cost nothing."""
    return config.objective.free_bits if isinstance(config.objective, ElboSettings) else 0.0


def _free_above(config: RunConfig, most: float, what: str) -> Iterator[str]:
    free, dimensions = _free(config), config.model.latent_dim
    if free * dimensions > most:
        yield (
            f"objective.free_bits = {free:g} in each of {count(dimensions, 'dimension')} is above any rate that pays: "
            f"{free * dimensions:.4g} nats, of {most:.4g} {what}; no rate has a price"
        )


def _one_sided(config: RunConfig) -> Iterator[str]:
    match config.objective:
        case ElboSettings(beta=0):
            yield (
                "objective.beta = 0: only the distortion is minimized; latents will not be like draws from the prior, "
                "samples not like images, and bounds on the likelihood loose"
            )
        case ElboSettings(distortion_weight=0):
            yield "objective.distortion_weight = 0: the decoder is not trained, and the posterior becomes the prior"


def _schedule(config: RunConfig) -> Iterator[str]:
    if not isinstance(config.objective, ElboSettings):
        return
    beta, run = config.objective.beta, config.optimization
    patience = (run.early_stopping or 0) * config.schedule.validate_every
    match config.objective.schedule:
        case Warmup(over_epochs=epochs):
            if epochs >= run.epochs:
                yield f"the warm-up of beta takes {epochs:g} epochs and the run {run.epochs}: it never is {beta:g}"
            if 0 < patience < epochs:
                yield (
                    f"early stopping waits for {count(patience, 'epoch')}, the warm-up of beta takes {epochs:g}: it "
                    "may end the run within"
                )
        case Cyclical(cycles=cycles):
            if cycles > run.epochs:
                yield f"{cycles} cycles of beta in {count(run.epochs, 'epoch')}: each is shorter than an epoch"
            if patience:
                yield "early stopping may end the run within a cycle: -ELBO gets worse where beta falls to 0"


def _gradient(config: RunConfig) -> Iterator[str]:
    match config.objective:
        case IwaeSettings(samples=samples, gradient="stl") if samples > 1:
            yield (
                f"objective.gradient = 'stl' is biased for {samples} samples: on average it is not the gradient of the "
                "bound; that of 'dreg' is"
            )
    match config.objective:
        case IwaeSettings(samples=samples, gradient_samples=int(some)) if 3 * some >= 2 * samples:
            yield (
                f"objective.gradient_samples = {some} saves nothing: those that are chosen are decoded twice, and cost "
                f"less than a gradient through all {samples} if they are fewer than two thirds of them"
            )


def _no_likelihood(config: RunConfig) -> Iterator[str]:
    if isinstance(config.objective, AutoencoderSettings):
        yield (
            "an autoencoder has no likelihood and no prior: evaluation measures its reconstruction error and nothing "
            "else, by no importance samples; samples come from latents that it never saw, and its log_variance is not "
            "trained"
        )


# --- what the images tell


def _leak(dataset: Dataset, tests: SeenImages, why: str) -> Iterator[str]:
    shared = tests.shared(dataset)
    if shared:
        split = {"train": "training"}.get(dataset.split, dataset.split)
        images = count(len(dataset), f"{split} image")
        verb = "is" if shared == 1 else "are"
        yield f"{shared:,} of {images} {verb} among the test images, pixel for pixel: {why}"


def _binary(config: RunConfig, training: Dataset) -> Iterator[str]:
    """Of grey values was warned before the images were there; these are none."""
    if any(_grey(config)) and not any(np.any((part != 0) & (part != 255)) for part in pieces(training.images)):
        yield "all pixels are 0 or 255: data.binarization = 'static' says so, and what is measured is then a likelihood"


def _components(config: RunConfig, training: Dataset) -> Iterator[str]:
    match config.model.prior:
        case VampSettings(components=components) if components >= len(training):
            yield (
                f"model.prior.components = {components} for {count(len(training), 'training image')}: a prior with a "
                "component for each can learn them by heart"
            )


def _free_beside_the_mean_image(config: RunConfig, training: Dataset) -> Iterator[str]:
    """No rate above what a decoder without latents pays for an image can pay, where distortion is never below 0."""
    if _free(config) > 0 and config.data.binarization != "none" and not any(_free_bits(config)):
        mean = np.clip(training.mean_image(), 1e-12, 1 - 1e-12)
        entropy = -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean))
        yield from _free_above(config, float(entropy.sum()), "that the mean image costs without latents")
