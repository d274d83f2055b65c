"""Simulated images and latents belong together, and a seed decides both."""

import math

import pytest
import torch
from torch import Generator

from model.posteriors import standard_normal_log_density
from model.vae import VAE, Architecture
from tests.support.densities import within_four_errors
from training.simulate import simulate

SHAPE, LATENTS, COUNT = (2, 2, 3), 4, 20_000


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def build() -> VAE:
    settings = {
        "latent_dim": LATENTS,
        "network": {"kind": "mlp", "hidden": [8]},
        "likelihood": {"family": "bernoulli"},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(Architecture.model_validate(settings), SHAPE)


def test_latents_are_of_the_prior_and_made_the_images(generator: Generator) -> None:
    vae = build()
    images, latents = simulate(vae, COUNT, generator)
    entropy = 0.5 * LATENTS * (1 + math.log(2 * math.pi))
    within_four_errors(standard_normal_log_density(latents), torch.tensor(-entropy))
    with torch.no_grad():
        means = vae.mean_image(latents)
    # x - E[x|z] does not depend on z.
    within_four_errors((images - means) * latents[:, :1, None, None], torch.zeros(()))
    assert not images.requires_grad


def test_seeds_decide() -> None:
    vae = build()
    one, same, other = (simulate(vae, 10, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.latents, same.latents)
    assert not torch.equal(one.latents, other.latents)
