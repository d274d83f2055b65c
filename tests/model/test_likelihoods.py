"""The likelihoods are torch.distributions', summed over the pixels of an image."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor, distributions

from model.likelihoods import (
    SMALLEST_SCALE,
    Bernoulli,
    BernoulliSettings,
    Gaussian,
    GaussianSettings,
    Likelihood,
    LikelihoodSettings,
    build_likelihood,
)
from tests.support.densities import log_density

SHAPE = (4, 3, 5, 7)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def parameters(generator: Generator) -> Tensor:
    return 3 * torch.randn(SHAPE, generator=generator)


@pytest.fixture
def images(generator: Generator) -> Tensor:
    return torch.rand(SHAPE, generator=generator)


def log_prob(distribution: distributions.Distribution, images: Tensor) -> Tensor:
    """By torch, summed over all pixels and channels of an image."""
    return log_density(distribution, images).sum((-3, -2, -1))


class TestBernoulli:
    def test_log_prob_is_that_of_torch_distributions(self, parameters: Tensor, images: Tensor) -> None:
        binary = images.round()
        expected = log_prob(distributions.Bernoulli(logits=parameters), binary)
        torch.testing.assert_close(Bernoulli().log_prob(parameters, binary), expected)

    @pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
    def test_is_exact_where_a_sigmoid_saturates(self, logit: float) -> None:
        logits = torch.full((1, 1, 1, 1), logit, requires_grad=True)
        matching, opposite = torch.full_like(logits, float(logit > 0)), torch.full_like(logits, float(logit < 0))
        assert Bernoulli().log_prob(logits, matching).item() == pytest.approx(0, abs=1e-30)
        assert Bernoulli().log_prob(logits, opposite).item() == pytest.approx(-abs(logit))
        (gradient,) = torch.autograd.grad(Bernoulli().log_prob(logits, opposite).sum(), logits)
        assert gradient.item() == pytest.approx(-math.copysign(1, logit))

    def test_probabilities_of_all_binary_images_sum_to_one(self, generator: Generator) -> None:
        every = torch.tensor([[i >> bit & 1 for bit in range(4)] for i in range(16)]).float().view(16, 1, 2, 2)
        logits = torch.randn(1, 1, 2, 2, generator=generator)
        assert Bernoulli().log_prob(logits, every).exp().sum().item() == pytest.approx(1, abs=1e-6)

    def test_mean_is_the_probability(self, parameters: Tensor) -> None:
        torch.testing.assert_close(Bernoulli().mean(parameters), distributions.Bernoulli(logits=parameters).mean)


class TestGaussian:
    @pytest.mark.parametrize("scale", [None, 0.01, 0.1, 2.0])
    def test_log_prob_is_that_of_torch_distributions(
        self, scale: float | None, parameters: Tensor, images: Tensor
    ) -> None:
        likelihood = Gaussian(scale)
        expected = log_prob(distributions.Normal(torch.sigmoid(parameters), likelihood.scale()), images)
        torch.testing.assert_close(likelihood.log_prob(parameters, images), expected)
        assert torch.equal(likelihood.mean(parameters), torch.sigmoid(parameters))

    def test_a_fixed_scale_is_a_constant_that_checkpoints_hold(self) -> None:
        likelihood = Gaussian(0.1)
        assert likelihood.scale().item() == pytest.approx(0.1)
        assert list(likelihood.parameters()) == []
        assert set(likelihood.state_dict()) == {"log_scale"}

    def test_a_learned_scale_becomes_the_root_mean_squared_error(self, parameters: Tensor, images: Tensor) -> None:
        """The maximum-likelihood scale in closed form, found by descending the gradient."""
        likelihood = Gaussian()
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            torch.autograd.backward(-likelihood.log_prob(parameters, images).mean())
            optimizer.step()
        error = (images - torch.sigmoid(parameters)).square().mean().sqrt()
        torch.testing.assert_close(likelihood.scale(), error, rtol=1e-3, atol=0)

    def test_a_learned_scale_does_not_collapse_on_constant_pictures(self) -> None:
        likelihood = Gaussian()
        with torch.no_grad():
            likelihood.log_scale.fill_(-1e4)
        density = likelihood.log_prob(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
        assert likelihood.scale().item() == pytest.approx(SMALLEST_SCALE)
        assert density.isfinite().all()


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), Gaussian(0.1)])
class TestAny:
    def test_sums_over_pixels_and_never_averages(
        self, likelihood: Likelihood, parameters: Tensor, images: Tensor
    ) -> None:
        """Two copies of an image side by side are twice as improbable, in the exponent."""
        once = likelihood.log_prob(parameters, images)
        for axis in (-3, -2, -1):
            twice = likelihood.log_prob(torch.cat([parameters] * 2, axis), torch.cat([images] * 2, axis))
            torch.testing.assert_close(twice, 2 * once)

    def test_broadcasts_over_samples(
        self, likelihood: Likelihood, parameters: Tensor, images: Tensor, generator: Generator
    ) -> None:
        samples = torch.randn(6, *SHAPE, generator=generator)
        densities = likelihood.log_prob(samples, images)
        assert densities.shape == (6, 4)
        torch.testing.assert_close(densities[2], likelihood.log_prob(samples[2], images))

    def test_means_lie_between_black_and_white(self, likelihood: Likelihood, parameters: Tensor) -> None:
        mean = likelihood.mean(1e4 * parameters)
        assert mean.shape == parameters.shape
        assert mean.min() >= 0
        assert mean.max() <= 1


class TestSettings:
    def test_build_what_they_say(self) -> None:
        assert isinstance(build_likelihood(BernoulliSettings(family="bernoulli")), Bernoulli)
        learned, fixed = (build_likelihood(GaussianSettings(family="gaussian", scale=scale)) for scale in (None, 0.2))
        assert isinstance(learned, Gaussian)
        assert learned.learned
        assert isinstance(fixed, Gaussian)
        assert not fixed.learned

    @pytest.mark.parametrize(
        "document",
        [
            {"family": "poisson"},
            {"family": "bernoulli", "scale": 0.1},
            {"family": "gaussian", "sigma": 0.1},
            {"family": "gaussian", "scale": 0.0},
            {"family": "gaussian", "scale": float("nan")},
            {},
        ],
    )
    def test_refuse_what_they_do_not_know(self, document: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter[LikelihoodSettings](LikelihoodSettings).validate_python(document)
