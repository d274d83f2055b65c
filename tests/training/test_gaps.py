"""Gaps of inference on a model whose evidence and posteriors are known: nothing is left to the eye."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.posteriors import DiagonalGaussian
from tests.support.solved import LATENTS, LinearVAE, build
from training.gaps import ImageGaps, optimize_images
from training.simulate import simulate

STEPS = 400


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def optimized(linear: LinearVAE, generator: Generator, count: int = 8) -> tuple[Tensor, ImageGaps]:
    """Images of the model, and what was found of them."""
    images, _ = simulate(linear.vae, count, generator)
    linear.vae.requires_grad_(False)
    return images, optimize_images(linear.vae, images, generator, steps=STEPS, k=2000)


def diagonal_gap(linear: LinearVAE) -> float:
    """KL of the nearest diagonal Gaussian from the true posterior, the same for every image, in closed form.

    Its precisions are the diagonal of the true precision (Bishop, 2006, section 10.1.2), so that
    KL = 1/2 (sum_d log precision_dd - log det precision).
    """
    _, covariance = linear.exact.posterior(torch.zeros(1, linear.exact.loadings.shape[0], dtype=torch.float64))
    precision = torch.linalg.inv(covariance)
    return 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))


def test_a_full_gaussian_has_no_approximation_gap_where_posteriors_are_gaussian(generator: Generator) -> None:
    linear = LinearVAE(shift=0.3, posterior="full")
    images, found = optimized(linear, generator)
    gap = linear.evidence(images) - found.optimized
    assert gap.abs().max() < 0.02
    # Where q is the posterior, all weights are p(x), and every bound is exact.
    torch.testing.assert_close(found.optimized_bound, linear.evidence(images), rtol=0, atol=0.01)


@pytest.mark.parametrize("posterior", ["diagonal", "full", "iaf"])
def test_of_a_diagonal_gaussian_it_is_the_divergence_in_closed_form(posterior: str, generator: Generator) -> None:
    """Whatever the family of the model; and no family that holds the diagonal ones is worse."""
    linear = LinearVAE(shift=0.3, posterior=posterior)
    expected = diagonal_gap(linear)
    assert expected > 0.5
    images, found = optimized(linear, generator)
    gap = linear.evidence(images) - found.diagonal
    assert gap.mean().item() == pytest.approx(expected, abs=0.05)
    assert (found.optimized - found.diagonal).mean() > -0.05
    if posterior == "diagonal":
        assert torch.equal(found.optimized, found.diagonal)


def test_the_amortization_gap_is_what_the_encoder_is_off_by(generator: Generator) -> None:
    linear = LinearVAE(shift=0.3)
    images, found = optimized(linear, generator)
    pixels = images.flatten(1).double()
    mean, covariance = linear.exact.posterior(pixels)
    encoder = DiagonalGaussian(mean + 0.3, covariance.diagonal().log().expand_as(mean))
    best = DiagonalGaussian(mean, -torch.linalg.inv(covariance).diagonal().log().expand_as(mean))
    expected = linear.exact.elbo(pixels, best) - linear.exact.elbo(pixels, encoder)
    torch.testing.assert_close(found.optimized - found.encoder, expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close((found.optimized - found.encoder).mean(), expected.mean(), rtol=0.05, atol=0.05)


def test_more_steps_are_better_and_the_second_half_says_when_it_is_enough(generator: Generator) -> None:
    linear = LinearVAE(shift=0.7)
    linear.vae.requires_grad_(False)
    images, _ = simulate(linear.vae, 6, generator)
    few, many = (optimize_images(linear.vae, images, generator, steps=steps, k=500) for steps in (10, 600))
    assert (many.optimized > few.optimized + 1).all()
    assert (few.optimized - few.halfway).mean() > 0.5
    assert (many.optimized - many.halfway).mean().abs() < 0.05


@pytest.mark.parametrize("at_a_time", [1, 7])
def test_what_is_decoded_at_a_time_is_bounded_and_changes_nothing(at_a_time: int) -> None:
    found = []
    for limit in (None, at_a_time):
        linear = LinearVAE()
        linear.vae.requires_grad_(False)
        images, _ = simulate(linear.vae, 3, Generator().manual_seed(1))
        linear.decoder.largest_batch = 0
        found.append(
            optimize_images(linear.vae, images, Generator().manual_seed(2), steps=6, latents=4, k=30, at_a_time=limit)
        )
        assert linear.decoder.largest_batch <= (limit or math.inf)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_networks_and_binary_pixels_too(generator: Generator) -> None:
    vae = build("bernoulli", "sylvester-householder").requires_grad_(False)
    images, _ = simulate(vae, 5, generator)
    found = optimize_images(vae, images, generator, steps=100, k=500)
    assert (found.optimized > found.encoder - 0.05).all()
    assert (found.optimized_bound >= found.optimized - 1e-9).all()
    assert all(part.shape == (5,) and not part.requires_grad for part in found)


def test_parameters_are_left_alone(generator: Generator) -> None:
    vae = build("bernoulli", "iaf").requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    optimize_images(vae, torch.zeros(2, *vae.shape), generator, steps=4, latents=2, k=10)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert vae.latent_dim == LATENTS


def test_one_step_has_no_halves(generator: Generator) -> None:
    with pytest.raises(ValueError, match="two steps"):
        optimize_images(build(), torch.zeros(1, 1, 2, 3), generator, steps=1)
