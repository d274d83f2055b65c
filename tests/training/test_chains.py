"""Chains of whole models: moments where the true posterior is known, and what says that they can be believed."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from model.vae import VAE, Architecture
from tests.support.solved import LATENTS, SHAPE, LinearVAE, build
from training.chains import ChainSettings, PosteriorChains, sample_posteriors
from training.simulate import simulate


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def within_errors(samples: Tensor, expected: Tensor) -> Tensor:
    """Whether the mean over chains ``(S, ...)``, which are independent, is within four standard errors."""
    error = samples.std(0) / math.sqrt(len(samples))
    return (samples.mean(0) - expected).abs() < 4 * error


def products(latents: Tensor, mean: Tensor) -> Tensor:
    """The entries of (z - mean)(z - mean)^T ``(..., D, D)``, whose expectation is the covariance."""
    centered = latents - mean
    return centered.unsqueeze(-1) * centered.unsqueeze(-2)


@pytest.mark.parametrize("posterior", ["diagonal", "full", "planar"])
def test_moments_are_those_of_the_true_posterior(posterior: str, generator: Generator) -> None:
    """Mean, variances and correlations, which q has not: started from a posterior that is off by a standard deviation
    or more."""
    linear = LinearVAE(shift=0.5, posterior=posterior)
    images, _ = simulate(linear.vae, 12, generator)
    found = sample_posteriors(linear.vae, images, generator, ChainSettings(chains=200, warmup=60, iterations=40))
    latents = found.latents.double()
    assert latents.shape == (40, 200, 12, LATENTS)
    mean, covariance = linear.exact.posterior(images.flatten(1).double())
    scales = covariance.diagonal().sqrt()
    assert (covariance / scales.outer(scales)).triu(1).abs().max() > 0.3
    assert within_errors(latents.mean(0), mean).all()
    assert within_errors(products(latents, mean).mean(0), covariance.expand(12, -1, -1)).all()
    # And what chains start from would not pass.
    with torch.no_grad():
        start = linear.vae.posterior(images).draw(torch.randn(200, 12, LATENTS, generator=generator)).latent.double()
    assert not within_errors(start, mean).all()
    assert not within_errors(products(start, start.mean(0)), covariance.expand(12, -1, -1)).all()


def test_chains_of_a_round_posterior_agree(generator: Generator) -> None:
    linear = LinearVAE()
    images, _ = simulate(linear.vae, 10, generator)
    found = sample_posteriors(linear.vae, images, generator, ChainSettings(iterations=500))
    assert found.r_hat.shape == found.effective_sample_size.shape == (10, LATENTS)
    assert (found.r_hat - 1).abs().max() < 0.03
    assert found.effective_sample_size.min() > 200
    torch.testing.assert_close(found.acceptance_rate, torch.full((10,), 0.65), rtol=0, atol=0.15)
    assert (found.step_size > 0.1).all()


class Mirrored(nn.Module):
    """A decoder that does not see the signs of latents: p(z|x) has modes that chains do not travel between."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(4 * latents.abs())
        return decoded


class Wide(nn.Module):
    """N(0, 1) for every image, so that chains start everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 2 * LATENTS)


def test_chains_that_are_stuck_apart_are_found_out(generator: Generator) -> None:
    linear = LinearVAE()
    linear.vae.decoder, linear.vae.encoder = Mirrored(linear.decoder), Wide()
    with torch.no_grad():
        images = linear.vae.decode(torch.full((3, LATENTS), 1.5))
    found = sample_posteriors(linear.vae, images, generator)
    assert (found.r_hat.max(1).values > 2).all()
    assert (found.effective_sample_size.min(1).values < 20).all()


def by_importance(vae: VAE, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """E[(z, z^2)] under p(z|x) ``(2, N, D)`` from draws of the prior, and the variance of that."""
    with torch.no_grad():
        latents = vae.prior().sample(100_000, generator)
        weights = vae.likelihood.log_prob(vae.decode(latents)[:, None], images).double().softmax(0)
    powers = torch.stack([latents.double(), latents.double().square()])
    found = torch.einsum("kn,pkd->pnd", weights, powers)
    squares = torch.einsum("kn,pkd->pnd", weights.square(), powers.square())
    crossed = torch.einsum("kn,pkd->pnd", weights.square(), powers)
    # Of a ratio of means: the sum of w^2 (z - E[z])^2.
    return found, squares - 2 * found * crossed + found.square() * weights.square().sum(0)[:, None]


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("planar", {"kind": "standard-normal"}),
        ("sylvester-triangular", {"kind": "standard-normal"}),
        ("diagonal", {"kind": "vamp", "components": 5}),
    ],
)
def test_networks_flows_and_pseudo_inputs_too(posterior: str, prior: dict[str, object], generator: Generator) -> None:
    vae = build("bernoulli", posterior)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        architecture = vae.architecture.model_dump() | {"prior": prior}
        vae = VAE(Architecture.model_validate(architecture), SHAPE)
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    images, _ = simulate(vae, 4, generator)
    found = sample_posteriors(vae, images, generator, ChainSettings(chains=40, iterations=150))
    expected, variance = by_importance(vae, images, generator)
    # Means of chains are independent of each other.
    means = torch.stack([found.latents.double(), found.latents.double().square()]).mean(1)
    error = (means.var(1) / means.shape[1] + variance).sqrt()
    assert ((means.mean(1) - expected).abs() < 4 * error).all()
    assert error.max() < 0.1
    assert found.r_hat.max() < 1.05


def short(linear: LinearVAE, images: Tensor, seed: int = 1, at_a_time: int | None = None) -> PosteriorChains:
    """Few moves: rounding differs with the size of a batch, and hundreds of moves would make much of that."""
    settings = ChainSettings(chains=5, warmup=4, iterations=6)
    return sample_posteriors(linear.vae, images, Generator().manual_seed(seed), settings, at_a_time=at_a_time)


def test_an_image_is_alone_with_its_chains(generator: Generator) -> None:
    """The same noise beside another image: the same draws."""
    linear = LinearVAE()
    images, _ = simulate(linear.vae, 6, generator)
    others = images.clone()
    others[1:] = 0.3 * others[1:] + 1
    one, other = (short(linear, each) for each in (images, others))
    torch.testing.assert_close(one.latents[:, :, 0], other.latents[:, :, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.step_size[0], other.step_size[0])
    assert (one.latents[:, :, 1:] - other.latents[:, :, 1:]).abs().max() > 0.1


def test_what_is_decoded_at_a_time_is_bounded_and_changes_nothing(generator: Generator) -> None:
    whole, pieces = LinearVAE(), LinearVAE()
    images, _ = simulate(whole.vae, 6, generator)
    whole.decoder.largest_batch = 0
    expected, found = short(whole, images), short(pieces, images, at_a_time=7)
    assert whole.decoder.largest_batch == 5 * 6
    assert pieces.decoder.largest_batch == 7
    torch.testing.assert_close(expected.latents, found.latents, rtol=1e-3, atol=1e-3)


def test_seeds_decide(generator: Generator) -> None:
    linear = LinearVAE()
    images, _ = simulate(linear.vae, 3, generator)
    one, same, other = (short(linear, images, seed).latents for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_parameters_are_left_alone(generator: Generator) -> None:
    linear = LinearVAE()
    linear.decoder.offset.requires_grad_(False)
    images, _ = simulate(linear.vae, 3, generator)
    before = {name: parameter.clone() for name, parameter in linear.vae.named_parameters()}
    assert not any(part.requires_grad for part in short(linear, images))
    for name, parameter in linear.vae.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert linear.decoder.loadings.requires_grad
    assert not linear.decoder.offset.requires_grad


def test_every_move_is_heard_of(generator: Generator) -> None:
    heard: list[int] = []
    settings = ChainSettings(warmup=7, iterations=9)
    sample_posteriors(
        LinearVAE().vae, torch.zeros(2, *SHAPE), generator, settings, advance=lambda: heard.append(len(heard))
    )
    assert len(heard) == settings.moves == 16


@pytest.mark.parametrize("wrong", [{"chains": 0}, {"iterations": 3}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, int], generator: Generator) -> None:
    with pytest.raises(ValueError, match="a chain or more, of four iterations or more"):
        sample_posteriors(LinearVAE().vae, torch.zeros(1, *SHAPE), generator, ChainSettings(**wrong))
