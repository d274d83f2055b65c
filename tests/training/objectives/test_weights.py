"""Log importance weights are what they are called, of every image and latent, and let the right gradients through."""

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal

from model.vae import VAE
from tests.support.densities import log_density
from tests.support.digits import digits_config
from tests.support.linear import LATENTS, SCALE, LinearVAE
from training.objectives.weights import log_weights


@pytest.fixture
def vae() -> LinearVAE:
    return LinearVAE()


@pytest.fixture
def images(vae: LinearVAE) -> Tensor:
    images = vae.draw_images(5, seed=0)
    vae.set_posterior(images, shift=0.3, widening=0.4)
    return images


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(3, 5, LATENTS, generator=Generator().manual_seed(1)).double()


def test_they_are_joint_density_over_posterior_density(vae: LinearVAE, images: Tensor, noise: Tensor) -> None:
    weights = log_weights(vae, images, noise)
    sigma = (0.5 * vae.log_variance).exp()
    latents = vae.mean + sigma * noise
    torch.testing.assert_close(weights.latents, latents)
    likelihood = log_density(Independent(Normal(vae.decode(latents), SCALE), 3), images)
    prior = log_density(Independent(Normal(torch.zeros_like(latents), 1.0), 1), latents)
    posterior = log_density(Independent(Normal(vae.mean, sigma), 1), latents)
    torch.testing.assert_close(weights.log_likelihood, likelihood)
    torch.testing.assert_close(weights.log_ratio, prior - posterior)
    torch.testing.assert_close(weights.total, likelihood + prior - posterior)


def test_their_mean_is_minus_distortion_minus_rate(vae: LinearVAE, images: Tensor) -> None:
    noise = torch.randn(20_000, 5, LATENTS, generator=Generator().manual_seed(2)).double()
    with torch.no_grad():
        values = log_weights(vae, images, noise).total
        exact = vae.exact_elbo(images, vae.posterior(images))
    error = values.std(0) / len(noise) ** 0.5
    assert ((values.mean(0) - exact).abs() < 4 * error).all()


def test_frozen_weights_have_the_same_values_and_no_score(vae: LinearVAE, images: Tensor, noise: Tensor) -> None:
    """d log w / d phi through the latent alone, at fixed parameters of q."""
    frozen, whole = log_weights(vae, images, noise, frozen=True), log_weights(vae, images, noise)
    torch.testing.assert_close(frozen.total, whole.total)
    (ours,) = torch.autograd.grad(frozen.total.sum(), vae.mean)
    (slope,) = torch.autograd.grad(log_weights(vae, images, noise, frozen=True).total.sum(), vae.mean)
    latents = whole.latents.detach().requires_grad_()
    constant = vae.posterior(images).log_density(latents)
    joint = vae.likelihood.log_prob(vae.decode(latents), images) - 0.5 * latents.square().sum(-1)
    (by_hand,) = torch.autograd.grad((joint - constant).sum(), latents)
    torch.testing.assert_close(ours, by_hand.sum(0))  # d z / d mean is 1
    torch.testing.assert_close(slope, ours)


@pytest.mark.parametrize("autocast", [False, True])
def test_images_and_latents_of_a_real_model_keep_their_places(autocast: bool) -> None:
    """Latent i of image j has the weight that it has alone."""
    torch.manual_seed(0)
    config = digits_config()
    model = VAE(config.model, config.image.shape).requires_grad_(False)
    generator = Generator().manual_seed(3)
    images = torch.bernoulli(torch.rand(4, 1, 8, 8, generator=generator), generator=generator)
    noise = torch.randn(3, 4, 3, generator=generator)
    together = log_weights(model, images, noise, autocast=autocast).total
    assert together.shape == (3, 4)
    assert together.dtype == torch.float32
    alone = [
        [log_weights(model, images[j : j + 1], noise[i : i + 1, j : j + 1]).total for j in range(4)] for i in range(3)
    ]
    expected = torch.tensor([[value.item() for value in row] for row in alone])
    torch.testing.assert_close(together, expected, rtol=0.1 if autocast else 1e-5, atol=1.0 if autocast else 1e-4)
