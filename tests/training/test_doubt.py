"""A bound that rests on few latents is not passed off as log p(x)."""

import pytest
import torch
from torch import Generator

from model.bundle.measurements import Annealing, AnnealingProtocol, EffectiveSampleSize, Estimate, Metrics, Protocol
from training.doubt import doubt
from training.importance import effective_sample_size, importance_weighted_bounds

NATS = Estimate(value=80.0, low=79.0, high=81.0)


def measured(few: float | None, *, likelihood: bool = True, difference: float | None = None) -> Metrics:
    protocol = Protocol(
        dataset="waves", split="test", images=100, binarization="static", importance_samples=500, seed=0
    )
    annealing = None
    if difference is not None:
        annealing = Annealing(
            negative_log_likelihood=NATS,
            difference=Estimate(value=difference, low=difference - 0.25, high=difference + 0.25),
            effective_sample_size=EffectiveSampleSize(mean=9.0, minimum=2.0),
            acceptance_rate=0.65,
            gap=NATS,
            protocol=AnnealingProtocol(
                **protocol.model_dump(), chains=16, temperatures=100, leapfrog_steps=10, initial="prior",
                simulated_images=100, simulated_initial="prior",
            ),
        )  # fmt: skip
    return Metrics(
        rate=NATS,
        distortion=NATS,
        negative_elbo=NATS,
        negative_log_likelihood=NATS if likelihood else None,
        effective_sample_size=EffectiveSampleSize(mean=30.0, minimum=1.5, few=few),
        active_units=1,
        kl_per_dimension=(1.0,),
        reconstruction_error=NATS,
        annealing=annealing,
        protocol=protocol,
    )


def test_few_effective_samples_are_told() -> None:
    warning = doubt(measured(0.41))
    assert warning is not None
    assert "below 10 for 41% of the images" in warning
    assert "L_500" in warning
    assert "vae evaluate RUN --ais" in warning


def test_what_annealing_found_of_it_is_told_in_its_place() -> None:
    warning = doubt(measured(0.41, difference=0.58))
    assert warning is not None
    assert "Annealing found +0.58 nats (+0.33 to +0.83)" in warning
    assert "--ais" not in warning


@pytest.mark.parametrize("metrics", [measured(0.05), measured(None), measured(0.9, likelihood=False)])
def test_a_twentieth_of_the_images_what_was_not_measured_and_no_likelihood_are_no_reason(metrics: Metrics) -> None:
    assert doubt(metrics) is None


def test_the_bound_lies_below_by_half_of_one_over_the_effective_sample_size() -> None:
    """On log-normal weights of mean 1, whose variance is known: e^(s^2) - 1."""
    scale, k, images = 0.5, 20, 200_000
    log_weights = scale * torch.randn(k, images, generator=Generator().manual_seed(0), dtype=torch.float64)
    bounds = importance_weighted_bounds(log_weights - 0.5 * scale**2, (k,))
    predicted = 0.5 * (1 / effective_sample_size(log_weights) - 1 / k)
    assert -bounds.mean().item() == pytest.approx(predicted.mean().item(), rel=0.2)
    assert -bounds.mean().item() == pytest.approx((torch.tensor(scale**2).exp().item() - 1) / (2 * k), rel=0.2)
