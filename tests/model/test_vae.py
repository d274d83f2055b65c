"""The VAE: its ELBO is a bound made of two sums, and noise is an argument."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor, nn

from model.posteriors import DiagonalGaussian, soft_bound
from model.vae import ELBO, VAE, Architecture
from tests.support.densities import log_density

MLP = {"kind": "mlp", "hidden": [12]}
NETWORKS = [
    MLP,
    {"kind": "conv", "channels": 8, "hidden": 12},
    {"kind": "gated-conv", "channels": 4, "features": 12},
    {"kind": "resnet", "channels": 8, "multipliers": [1, 2], "blocks": 1},
]
BERNOULLI = {"family": "bernoulli"}
GAUSSIAN = {"family": "gaussian"}
FIXED = {"family": "gaussian", "scale": 0.1}
LIKELIHOODS = [
    BERNOULLI,
    GAUSSIAN,
    FIXED,
    {"family": "continuous-bernoulli"},
    {"family": "discretized-logistic"},
    {"family": "discretized-logistic", "scale_per": "pixel"},
    {"family": "categorical"},
]
EVERY = pytest.mark.parametrize(
    ("network", "likelihood"),
    [(network, likelihood) for network in NETWORKS for likelihood in LIKELIHOODS],
    ids=lambda part: part.get("kind") or " ".join(map(str, part.values())),
)
Document = dict[str, Any]


def build(network: Document = MLP, likelihood: Document = BERNOULLI, shape: tuple[int, int, int] = (1, 12, 8)) -> VAE:
    document = {"latent_dim": 3, "network": network, "likelihood": likelihood}
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    return VAE(Architecture.model_validate(document), shape)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@EVERY
class TestEvery:
    def test_the_elbo_is_its_two_definitions(
        self, network: Document, likelihood: Document, generator: Generator
    ) -> None:
        vae = build(network, likelihood)
        images, noise = torch.rand(5, 1, 12, 8, generator=generator), torch.randn(5, 3, generator=generator)
        elbo = vae.elbo(images, noise)
        mean, raw = vae.encoder(images).chunk(2, dim=1)
        variance = soft_bound(raw).exp()
        parameters = vae.decoder(mean + variance.sqrt() * noise)
        assert elbo.distortion.shape == elbo.rate.shape == (5,)
        torch.testing.assert_close(elbo.distortion, -vae.likelihood.log_prob(parameters, images))
        torch.testing.assert_close(elbo.rate, 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1))
        torch.testing.assert_close(elbo.negative, elbo.distortion + elbo.rate)

    def test_every_parameter_has_a_gradient(
        self, network: Document, likelihood: Document, generator: Generator
    ) -> None:
        vae = build(network, likelihood)
        images, noise = torch.rand(5, 1, 12, 8, generator=generator), torch.randn(5, 3, generator=generator)
        torch.autograd.backward(vae.elbo(images, noise).negative.sum())
        assert list(vae.named_parameters())
        for name, parameter in vae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.count_nonzero() > 0, name

    def test_autocast_leaves_densities_in_float32(
        self, network: Document, likelihood: Document, generator: Generator
    ) -> None:
        vae = build(network, likelihood)
        images, noise = torch.rand(5, 1, 12, 8, generator=generator), torch.randn(5, 3, generator=generator)
        rounded, exact = vae.elbo(images, noise, autocast=True), vae.elbo(images, noise)
        assert rounded.distortion.dtype == rounded.rate.dtype == torch.float32
        assert not torch.equal(rounded.distortion, exact.distortion)  # the networks did run in bfloat16
        torch.testing.assert_close(rounded.distortion, exact.distortion, rtol=0.1, atol=1.0)

    def test_what_is_served_is_the_likelihoods_mean(
        self, network: Document, likelihood: Document, generator: Generator
    ) -> None:
        vae = build(network, likelihood)
        latents = torch.randn(4, vae.latent_dim, generator=generator)
        images = vae.mean_image(latents)
        assert images.shape == (4, 1, 12, 8)
        torch.testing.assert_close(images, vae.likelihood.mean(vae.decode(latents)))
        assert images.min() >= 0
        assert images.max() <= 1

    def test_nothing_is_random_but_the_noise(
        self, network: Document, likelihood: Document, generator: Generator
    ) -> None:
        vae = build(network, likelihood)
        images, noise = torch.rand(5, 1, 12, 8, generator=generator), torch.randn(5, 3, generator=generator)
        state = torch.random.get_rng_state()
        first, second = vae.elbo(images, noise), vae.elbo(images, noise)
        assert torch.equal(first.negative, second.negative)
        assert torch.equal(torch.random.get_rng_state(), state)


class Constant(nn.Module):
    """A decoder that ignores its latents."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.parameters_of_pixels = torch.full(shape, 0.7)

    def forward(self, latents: Tensor) -> Tensor:
        return self.parameters_of_pixels.expand(len(latents), *self.parameters_of_pixels.shape)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_distortion_is_a_sum_over_pixels_and_rate_a_sum_over_dimensions(
    likelihood: Document, generator: Generator
) -> None:
    """Twice the pixels cost twice the nats; with a mean over pixels the distortion would not move."""

    def elbo(shape: tuple[int, int, int], images: Tensor) -> ELBO:
        vae = build(MLP, likelihood, shape)
        vae.decoder = Constant((vae.architecture.likelihood.channels(shape[0]), *shape[1:]))
        return vae.elbo(images, torch.zeros(2, 3))

    images = torch.rand(2, 1, 8, 8, generator=generator)
    once, twice = elbo((1, 8, 8), images), elbo((1, 16, 8), torch.cat([images, images], 2))
    torch.testing.assert_close(twice.distortion, 2 * once.distortion)

    vae = build(MLP, likelihood, (1, 8, 8))
    posterior = vae.posterior(images)
    assert isinstance(posterior, DiagonalGaussian)
    torch.testing.assert_close(vae.elbo(images, torch.zeros(2, 3)).rate, posterior.kl().sum(1))


def test_the_elbo_bounds_the_evidence_of_a_model_small_enough_to_integrate(generator: Generator) -> None:
    """One latent dimension: log p(x) by quadrature over the prior; -ELBO + log p(x) is KL(q || p(z|x)) >= 0."""
    torch.manual_seed(0)
    vae = VAE(Architecture.model_validate({"latent_dim": 1, "network": MLP, "likelihood": BERNOULLI}), (1, 8, 8))
    images = torch.rand(3, 1, 8, 8, generator=generator).round()
    with torch.no_grad():
        grid = torch.linspace(-8, 8, 4001)
        joint = vae.likelihood.log_prob(vae.decode(grid[:, None])[:, None], images).double()
        joint += log_density(torch.distributions.Normal(0.0, 1.0), grid).double()[:, None]
        evidence = torch.logsumexp(joint, 0) + torch.log(grid[1] - grid[0])
        noise = torch.randn(2000, 3, 1, generator=generator)
        bounds = torch.stack([vae.elbo(images, sample).negative for sample in noise]).double()
    error = bounds.std(0) / len(bounds) ** 0.5
    assert (bounds.mean(0) + 4 * error > -evidence).all()
    assert ((bounds.mean(0) + evidence) < 5).all()


@pytest.mark.parametrize(
    "change",
    [
        {"latent_dim": 0},
        {"latent_dims": 3},
        {"network": {"kind": "transformer"}},
        {"network": {"hidden": [3]}},
        {"network": MLP | {"channels": 8}},
        {"likelihood": {"family": "bernoulli", "scale": 0.1}},
    ],
)
def test_an_architecture_refuses_what_it_does_not_know(change: Document) -> None:
    document = {"latent_dim": 3, "network": MLP, "likelihood": BERNOULLI}
    Architecture.model_validate(document)
    with pytest.raises(ValidationError):
        Architecture.model_validate(document | change)
