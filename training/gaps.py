r"""What the posterior lacks, and why: Cremer, Li and Duvenaud (2018), "Inference suboptimality in variational
autoencoders".

.. math:: \underbrace{\log p(x) - \mathcal L[q]}_{\text{total}} =
          \underbrace{\log p(x) - \mathcal L[q^*]}_{\text{approximation}} +
          \underbrace{\mathcal L[q^*] - \mathcal L[q]}_{\text{amortization}}, \qquad
          q^* = \operatorname{argmax}_{q \in \mathcal Q} \mathcal L[q]

L is the ELBO, q the encoder's posterior, and q* the best of the family for this one image. The first gap is what a
richer family could save, the second what a better encoder of the same family could.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from model.bundle.measurements import GapsProtocol, InferenceGaps
from model.divergences import LogDensity
from model.posteriors import LOG_VARIANCE_LIMIT, Posterior
from model.posteriors.families import Diagonal, Family
from model.priors import Prior
from model.vae import VAE
from training.config import RunConfig
from training.densities import differentiable_log_likelihood, draw_noise
from training.estimators import log_likelihood, mean_over_images
from training.importance import importance_weighted_bounds
from training.measured import protocol_of, require_finite
from training.streams import GAPS
from training.subset import Subset, latents_at_a_time

STEPS, LATENTS, LEARNING_RATE = 1000, 16, 0.02
# Draws that a posterior is judged by, those of a step of judging, and those whose moments a Gaussian starts from.
_JUDGING, _CHUNK, _MOMENTS = 1000, 100, 1000
# Nats that the second half of the steps may gain.
_CONVERGED = 0.1
# Just inside of the soft bound, where its inverse is finite.
_INSIDE = 1 - 1e-4

Reference = Literal["annealing", "bound", "optimized-bound"]


class _Judged(NamedTuple):
    """A posterior, by fresh draws; per image ``(N,)`` nats."""

    elbo: Tensor
    bound: Tensor
    """L_k of as many draws as there were."""


class ImageGaps(NamedTuple):
    """ELBOs and bounds of N images, ``(N,)`` nats each."""

    encoder: Tensor
    """ELBO of the encoder's posterior."""
    halfway: Tensor
    """ELBO after the first half of the steps."""
    optimized: Tensor
    """ELBO of the best posterior of the family."""
    optimized_bound: Tensor
    """L_k from that posterior: another lower bound of log p(x)."""
    diagonal: Tensor
    """ELBO of the best diagonal Gaussian; the same as ``optimized`` where that is the family."""


def optimize_images(
    model: VAE,
    images: Tensor,
    generator: Generator,
    *,
    steps: int = STEPS,
    latents: int = LATENTS,
    k: int = _JUDGING,
    at_a_time: int | None = None,
) -> ImageGaps:
    """The best posteriors of images ``(N, C, H, W)``, each by itself, and what they are better by.

    Adam moves all that the encoder says of an image, from what it says. What a family's own networks have learned stays
    (of an inverse autoregressive flow; the others have none). The best diagonal Gaussian starts from the moments of the
    encoder's draws. Steps are in two halves, each with a learning rate that falls to 0 on a cosine: what the second
    gains says whether the first had converged. All posteriors are judged by the same noise, which none of them was
    optimized on.

    Args:
        model: in evaluation mode, its parameters without gradients.
        images: as its likelihood wants them.
        generator: on the device of the images.
        steps: of Adam, two or more.
        latents: of each image at each step.
        k: draws that posteriors are judged by.
        at_a_time: how many latents are decoded at a time (absent: all). It decides how much memory that takes, and not
            which numbers come out.

    Raises:
        ValueError: less than two steps.
    """
    if steps < 2:
        raise ValueError(f"two halves take two steps or more, not {steps}")
    at_a_time = at_a_time or max(k, latents) * len(images)
    given_latents = differentiable_log_likelihood(model, images, at_a_time)
    with torch.no_grad():
        prior = model.prior(at_a_time=at_a_time)

    def log_joint(latent: Tensor) -> Tensor:
        return given_latents(latent) + prior.log_density(latent)

    def climb(family: Family, start: Tensor, many: int) -> Tensor:
        return _climb(family, start, log_joint, generator, many, latents)

    with torch.no_grad():
        raw = torch.cat([model.encoder(piece).float() for piece in torch.split(images, at_a_time)])
    first, second = steps - steps // 2, steps // 2
    halfway = climb(model.family, raw, first)
    best = climb(model.family, halfway, second)
    with torch.no_grad():
        candidates: list[Posterior] = [model.family(each) for each in (raw, halfway, best)]
        start = _from_moments(candidates[0], generator)
    if not isinstance(model.family, Diagonal):
        diagonal = Diagonal(model.latent_dim)
        candidates.append(diagonal(climb(diagonal, climb(diagonal, start, first), second)))
    judged = _judge(model, prior, candidates, images, generator, k, at_a_time)
    return ImageGaps(
        encoder=judged[0].elbo,
        halfway=judged[1].elbo,
        optimized=judged[2].elbo,
        optimized_bound=judged[2].bound,
        diagonal=judged[-1].elbo,
    )


def measure_gaps(
    model: VAE,
    subset: Subset,
    config: RunConfig,
    bound: Tensor,
    annealed: Tensor | None,
    *,
    k: int,
    step: int,
    steps: int,
    advance: Callable[[int], object],
) -> InferenceGaps:
    """The gaps of the images of a subset. log p(x) is the tightest bound that is at hand: the largest on average.

    Args:
        bound: L_k of each image, ``(N,)`` nats, from the encoder's posterior.
        annealed: log p(x) of each image by annealing, ``(N,)`` nats, where it was measured.
        k: of that bound, and of the draws that posteriors are judged by.
        step: of the weights.
        steps: of Adam.
        advance: hears of every piece of images that is done.

    Raises:
        NonFiniteMetric: the model gives NaN or infinity.
    """
    at_a_time = latents_at_a_time(model, subset.device, gradients=True)

    def work(images: Tensor, generator: Generator, index: int) -> ImageGaps:
        return optimize_images(model, images, generator, steps=steps, k=k, at_a_time=at_a_time)

    parts = list(subset.map(work, advance, GAPS))
    found = ImageGaps(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))
    require_finite({f"ELBO ({name})": values for name, values in found._asdict().items()})
    bounds: dict[Reference, Tensor] = {"bound": bound, "optimized-bound": found.optimized_bound}
    if annealed is not None:
        bounds["annealing"] = annealed
    reference = max(bounds, key=lambda name: bounds[name].mean().item())
    evidence = bounds[reference]
    richer = not isinstance(model.family, Diagonal)
    protocol = protocol_of(subset.dataset, config, step, importance_samples=k)
    return InferenceGaps(
        negative_log_likelihood=mean_over_images(-evidence),
        total=mean_over_images(evidence - found.encoder),
        approximation=mean_over_images(evidence - found.optimized),
        amortization=mean_over_images(found.optimized - found.encoder),
        diagonal=mean_over_images(evidence - found.diagonal) if richer else None,
        gain=mean_over_images(found.optimized - found.diagonal) if richer else None,
        last_half=mean_over_images(found.optimized - found.halfway),
        protocol=GapsProtocol(
            **protocol.model_dump(), steps=steps, latents=LATENTS, learning_rate=LEARNING_RATE, reference=reference
        ),
    )


def converged(gaps: InferenceGaps) -> bool:
    """Whether the second half of the steps gained less than a tenth of a nat."""
    return gaps.last_half.value < _CONVERGED


def _climb(
    family: Family, start: Tensor, log_joint: LogDensity, generator: Generator, steps: int, latents: int
) -> Tensor:
    """What Adam makes of a family's raw parameters ``(N, P)`` in so many steps up the ELBO of each image."""
    with torch.enable_grad():
        raw = start.clone().requires_grad_()
        adam = torch.optim.Adam([raw], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for _ in range(steps):
            posterior = family(raw)
            latent, log_density = posterior.draw(draw_noise(posterior, latents, generator))
            # Images share no parameters: the gradient of the sum is that of each.
            raw.grad = torch.autograd.grad((log_density - log_joint(latent)).mean(0).sum(), raw)[0]
            adam.step()
            schedule.step()
    return raw.detach()


@torch.inference_mode()
def _judge(
    model: VAE,
    prior: Prior,
    posteriors: Sequence[Posterior],
    images: Tensor,
    generator: Generator,
    k: int,
    at_a_time: int,
) -> list[_Judged]:
    """Each posterior by the same k draws of noise."""
    kept: list[list[Tensor]] = [[] for _ in posteriors]
    for done in range(0, k, _CHUNK):
        noise = draw_noise(posteriors[0], min(_CHUNK, k - done), generator)
        for weights, posterior in zip(kept, posteriors, strict=True):
            latent, log_density = posterior.draw(noise)
            log_ratio = prior.log_density(latent) - log_density
            weights.append(log_likelihood(model, images, latent, at_a_time) + log_ratio)
    judged = []
    for weights in kept:
        # Where q is the true posterior all weights are the same: no closed form of a part of them would be as exact.
        elbo, bound = importance_weighted_bounds(torch.cat(weights), (1, k)).unbind(1)
        judged.append(_Judged(elbo, bound))
    return judged


def _from_moments(posterior: Posterior, generator: Generator) -> Tensor:
    """Raw parameters ``(N, 2 D)`` of the diagonal Gaussian with the mean and variance of a posterior's draws."""
    latent, _ = posterior.draw(draw_noise(posterior, _MOMENTS, generator))
    bounded = (latent.var(0).log() / LOG_VARIANCE_LIMIT).clamp(-_INSIDE, _INSIDE)
    return torch.cat([latent.mean(0), LOG_VARIANCE_LIMIT * torch.atanh(bounded)], 1)
