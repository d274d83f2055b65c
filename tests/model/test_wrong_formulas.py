"""Formulas as they are often printed, beside the right ones: what docs/theory.md says of the difference is so."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from model.divergences import kl_between_gaussians, kl_to_standard_normal
from model.linear_gaussian import LinearGaussian, probabilistic_pca
from model.posteriors import DiagonalGaussian, standard_normal_log_density
from tests.support.densities import log_density

PIXELS, DIMENSIONS, IMAGES = 5, 2, 8


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model() -> LinearGaussian:
    loadings, offset = normal(PIXELS, DIMENSIONS, seed=0), normal(PIXELS, seed=1)
    return LinearGaussian(loadings, offset, torch.tensor(0.5, dtype=torch.float64).log())


@pytest.fixture
def images(model: LinearGaussian) -> Tensor:
    return model.sample(IMAGES, Generator().manual_seed(2))[0]


def log_mean_exp(values: Tensor) -> Tensor:
    """Over the first axis."""
    return values.logsumexp(0) - math.log(len(values))


def loss_of_the_code(pixels: Tensor, output: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """The article's `vae_loss`, line by line."""
    reconstruction = (output - pixels).square().sum()
    kl = -0.5 * (1 + log_sigma - mean.square() - log_sigma.exp().square()).sum(-1)
    return (reconstruction + kl).mean()


# --- the loss code


def test_with_log_sigma_for_log_sigma_squared_the_optimum_is_a_variance_of_a_half() -> None:
    """And it is negative there, which no divergence is: (log 2 - 1) / 4."""
    log_sigma = torch.linspace(-3, 3, 60_001, dtype=torch.float64)[:, None]
    zero = torch.zeros_like(log_sigma)
    wrong = torch.stack([loss_of_the_code(row, row, row, each) for row, each in zip(zero, log_sigma, strict=True)])
    variance = log_sigma[wrong.argmin()].exp().square().item()
    assert variance == pytest.approx(0.5, abs=1e-3)
    assert wrong.min().item() == pytest.approx((math.log(2) - 1) / 4, abs=1e-6)
    right = kl_to_standard_normal(zero, 2 * log_sigma)
    assert log_sigma[right.argmin()].item() == pytest.approx(0, abs=1e-3)
    assert right.min() > -1e-12


def test_a_sum_over_the_batch_weighs_the_rate_by_one_over_its_size() -> None:
    pixels, output = normal(4, PIXELS, seed=0), normal(4, PIXELS, seed=1)
    mean, log_sigma = normal(4, DIMENSIONS, seed=2), normal(4, DIMENSIONS, seed=3)
    distortion = (output - pixels).square().sum(-1).mean()
    rate = loss_of_the_code(pixels, pixels, mean, log_sigma)
    for copies in (1, 2, 5):
        batch = [part.repeat(copies, 1) for part in (pixels, output, mean, log_sigma)]
        size = 4 * copies
        torch.testing.assert_close(loss_of_the_code(*batch), size * (distortion + rate / size))


def test_the_logarithm_of_a_product_of_variances_underflows() -> None:
    """In float32, at 50 dimensions and sigma = 0.1; the sum of logarithms does not."""
    log_variance = torch.full((50,), math.log(0.01))
    assert log_variance.exp().prod().log() == -math.inf
    rate = kl_to_standard_normal(torch.zeros(50), log_variance).sum().item()
    assert rate == pytest.approx(25 * (0.01 - 1 - math.log(0.01)), rel=1e-5)


# --- the bound


def test_the_logarithm_of_the_mean_is_the_evidence_less_a_renyi_divergence(
    model: LinearGaussian, images: Tensor
) -> None:
    """-log E_q[q / p(x, z)] = log p(x) - D_2(q || p(z|x)), which is below the ELBO."""
    mean, covariance = model.posterior(images)
    variance = 0.5 * covariance.diagonal()
    q = DiagonalGaussian(mean + 0.1, variance.log().expand_as(mean))
    latents = q.reparameterize(normal(200_000, IMAGES, DIMENSIONS, seed=3))
    ratio = q.log_density(latents) - model.log_likelihood(images, latents) - standard_normal_log_density(latents)
    printed = -log_mean_exp(ratio)
    # Of order 2, in closed form: both are Gaussians, and twice the posterior's covariance less that of q is one.
    mixed = 2 * covariance - variance.diag()
    shift = torch.full((DIMENSIONS,), 0.1, dtype=torch.float64)
    determinants = 0.5 * (2 * covariance.logdet() - mixed.logdet() - variance.log().sum())
    renyi = shift @ torch.linalg.solve(mixed, shift) + determinants
    torch.testing.assert_close(printed, model.log_evidence(images) - renyi, rtol=0, atol=0.01)
    assert (printed < model.elbo(images, q) - 0.02).all()


def test_the_likelihood_averaged_under_q_is_above_the_evidence(model: LinearGaussian, images: Tensor) -> None:
    """At latents of the posterior, where weights make it right."""
    mean, covariance = model.posterior(images)
    noise = normal(100_000, IMAGES, DIMENSIONS, seed=3)
    latents = mean + noise @ torch.linalg.cholesky(covariance).T
    likelihood = model.log_likelihood(images, latents)
    assert (log_mean_exp(likelihood) > model.log_evidence(images) + 0.3).all()
    density = standard_normal_log_density(noise) - 0.5 * covariance.logdet()
    weighted = log_mean_exp(likelihood + standard_normal_log_density(latents) - density)
    torch.testing.assert_close(weighted, model.log_evidence(images))


def test_an_expectation_is_dropped_where_nothing_depends_on_the_latent(model: LinearGaussian, images: Tensor) -> None:
    """There is no q in log p(x|z), and its expectation depends on q; log p(x) is the same at every latent."""
    mean, covariance = model.posterior(images)
    posterior = MultivariateNormal(mean, covariance)
    evidence, expected = [], []
    for shift in (0.0, 0.5):
        q = DiagonalGaussian(mean + shift, covariance.diagonal().log().expand_as(mean))
        latents = q.reparameterize(normal(10_000, IMAGES, DIMENSIONS, seed=3))
        likelihood = model.log_likelihood(images, latents)
        evidence.append(likelihood + standard_normal_log_density(latents) - log_density(posterior, latents))
        expected.append(likelihood.mean(0))
    for each in evidence:
        torch.testing.assert_close(each, model.log_evidence(images).expand_as(each))
    assert ((expected[0] - expected[1]).abs() > 0.2).all()


def test_a_decoder_that_ignores_its_latent_has_no_divergence_and_a_bad_evidence(images: Tensor) -> None:
    """So theta is not to be chosen by KL(q || p(z|x)); and a higher ELBO may go with a larger divergence."""
    best = probabilistic_pca(images, DIMENSIONS)
    variance = (images - images.mean(0)).square().mean()
    deaf = LinearGaussian(torch.zeros_like(best.loadings), images.mean(0), variance.log())
    prior = DiagonalGaussian(*torch.zeros(2, IMAGES, DIMENSIONS, dtype=torch.float64))
    mean, covariance = best.posterior(images)
    near = DiagonalGaussian(mean, (1.5 * covariance.diagonal()).log().expand_as(mean))
    torch.testing.assert_close(deaf.elbo(images, prior), deaf.log_evidence(images))
    gap = (best.log_evidence(images) - best.elbo(images, near)).mean()
    assert gap > 0.05
    assert best.elbo(images, near).mean() > deaf.elbo(images, prior).mean() + 0.5


def test_without_noise_almost_no_image_has_a_density(model: LinearGaussian, images: Tensor) -> None:
    """Its logarithm falls without end, but for images that the decoder makes exactly."""
    made = model.offset + normal(IMAGES, DIMENSIONS, seed=4) @ model.loadings.T
    of_others, of_made = [], []
    for scale in (1e-1, 1e-2, 1e-3):
        quiet = model._replace(log_variance=torch.tensor(2 * math.log(scale), dtype=torch.float64))
        of_others.append(quiet.log_evidence(images).max().item())
        of_made.append(quiet.log_evidence(made).min().item())
    assert of_others == sorted(of_others, reverse=True)
    assert of_others[-1] < -1000
    assert of_made == sorted(of_made)


# --- the divergence


def test_it_is_no_metric() -> None:
    """It depends on the order, and a way round may be shorter: of unit Gaussians it is half the squared distance."""

    def divergence(mean_q: float, variance_q: float, mean_p: float, variance_p: float) -> float:
        parts = (torch.tensor([mean_q]), torch.tensor([[variance_q]]), torch.tensor([mean_p]))
        return kl_between_gaussians(*parts, torch.tensor([[variance_p]])).item()

    assert divergence(0.0, 1.0, 0.0, 4.0) == pytest.approx((1 / 4 - 1 + math.log(4)) / 2)
    assert divergence(0.0, 4.0, 0.0, 1.0) == pytest.approx((4 - 1 - math.log(4)) / 2)
    there = divergence(0.0, 1.0, 2.0, 1.0)
    via, on = divergence(0.0, 1.0, 1.0, 1.0), divergence(1.0, 1.0, 2.0, 1.0)
    assert there == pytest.approx(2)
    assert via + on == pytest.approx(1)
