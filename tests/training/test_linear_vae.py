"""A linear VAE that is trained as any other arrives where the solution is known: at probabilistic PCA."""

import pytest
import torch
from torch import Generator, nn

from model.linear_gaussian import LinearGaussian, maximum_log_likelihood, probabilistic_pca
from model.posteriors.gaussian import DiagonalGaussian
from model.vae import VAE
from tests.support.solved import PIXELS, SHAPE, LinearDecoder, Unsquashed, build
from training.config import OptimizationConfig
from training.objective import training_loss
from training.optimization import build_average, build_optimizer, learning_rate

LATENTS, IMAGES, STEPS = 3, 200, 3000


def linear_vae(generator: Generator) -> VAE:
    """Linear from images to mean and log_variance, and from latents to images, with a scale that is learned."""
    vae = build()
    vae.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * LATENTS))
    vae.decoder = LinearDecoder(0.1 * torch.randn(PIXELS, LATENTS, generator=generator), torch.zeros(PIXELS), SHAPE)
    vae.likelihood = Unsquashed()
    return vae


def test_training_arrives_at_probabilistic_pca() -> None:
    """The bound of the best model is its evidence: its posteriors are diagonal, for its loadings are orthogonal."""
    random = Generator().manual_seed(3)
    loadings, offset = torch.randn(PIXELS, LATENTS, generator=random), torch.randn(PIXELS, generator=random)
    flat, _ = LinearGaussian(loadings, offset, torch.tensor(0.0)).sample(IMAGES, random)
    images = torch.unflatten(flat, 1, SHAPE)
    torch.manual_seed(0)
    vae = linear_vae(random)
    config = OptimizationConfig(epochs=STEPS, learning_rate=0.03, ema_decay=0.99)
    optimizer, average = build_optimizer(vae, config), build_average(vae, config)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, STEPS)
        loss = training_loss(vae, images, "none", random, autocast=False)
        optimizer.zero_grad()
        torch.autograd.backward(loss.objective)
        optimizer.step()
        average.update_parameters(vae)
    best = probabilistic_pca(flat.double(), LATENTS)
    trained = average.module
    assert isinstance(trained, VAE)
    decoder, likelihood = trained.decoder, trained.likelihood
    assert isinstance(decoder, LinearDecoder)
    assert isinstance(likelihood, Unsquashed)
    with torch.no_grad():
        scale = likelihood.scale()
        found = LinearGaussian(decoder.loadings, decoder.offset, 2 * scale.log())
        q = trained.posterior(images)
        assert isinstance(q, DiagonalGaussian)
        elbo = found.elbo(flat, q).mean().item()
    evidence = maximum_log_likelihood(flat.double(), LATENTS).item()
    assert evidence - 0.01 < elbo < evidence
    assert scale.square().item() == pytest.approx(best.log_variance.exp().item(), rel=0.02)
    product = best.loadings @ best.loadings.T  # the loadings themselves are known but for signs and order
    assert (found.loadings @ found.loadings.T - product).norm() < 0.05 * product.norm()
    assert (found.offset - best.offset).abs().max() < 0.05
