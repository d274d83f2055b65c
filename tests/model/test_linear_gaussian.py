"""The model that can be solved: its closed forms agree with each other, and with the textbook."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from model.divergences import kl_between_gaussians
from model.linear_gaussian import LinearGaussian, maximum_log_likelihood, probabilistic_pca
from model.posteriors import DiagonalGaussian, standard_normal_log_density
from tests.support.densities import log_density

PIXELS, DIMENSIONS, IMAGES = 7, 3, 20


def normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[0, 1, 2])
def generator(request: pytest.FixtureRequest) -> Generator:
    return Generator().manual_seed(request.param)


@pytest.fixture
def model(generator: Generator) -> LinearGaussian:
    loadings, offset = normal(PIXELS, DIMENSIONS, generator=generator), normal(PIXELS, generator=generator)
    return LinearGaussian(loadings, offset, torch.tensor(0.4, dtype=torch.float64).log())


@pytest.fixture
def images(model: LinearGaussian, generator: Generator) -> Tensor:
    return model.sample(IMAGES, generator)[0]


@pytest.fixture
def q(generator: Generator) -> DiagonalGaussian:
    return DiagonalGaussian(*normal(2, IMAGES, DIMENSIONS, generator=generator))


class TestClosedForms:
    def test_the_evidence_is_that_of_the_whole_covariance(self, model: LinearGaussian, images: Tensor) -> None:
        covariance = model.loadings @ model.loadings.T + model.log_variance.exp() * torch.eye(PIXELS)
        expected = log_density(MultivariateNormal(model.offset, covariance), images)
        torch.testing.assert_close(model.log_evidence(images), expected)

    def test_bayes_theorem(self, model: LinearGaussian, images: Tensor, generator: Generator) -> None:
        """log p(x) = log p(x|z) + log p(z) - log p(z|x), whatever z."""
        latents = normal(5, IMAGES, DIMENSIONS, generator=generator)
        mean, covariance = model.posterior(images)
        posterior = log_density(MultivariateNormal(mean, covariance), latents)
        joint = model.log_likelihood(images, latents) + standard_normal_log_density(latents)
        torch.testing.assert_close(joint - posterior, model.log_evidence(images).expand(5, -1))

    def test_the_evidence_is_the_elbo_and_the_divergence_from_the_posterior(
        self, model: LinearGaussian, images: Tensor, q: DiagonalGaussian
    ) -> None:
        mean, covariance = model.posterior(images)
        gap = kl_between_gaussians(q.mean, q.log_variance.exp().diag_embed(), mean, covariance.expand(IMAGES, -1, -1))
        assert gap.min() > 0.1
        torch.testing.assert_close(model.elbo(images, q) + gap, model.log_evidence(images), rtol=1e-12, atol=1e-11)

    def test_the_elbo_is_the_mean_of_its_samples(
        self, model: LinearGaussian, images: Tensor, q: DiagonalGaussian, generator: Generator
    ) -> None:
        latents = q.reparameterize(normal(4000, IMAGES, DIMENSIONS, generator=generator))
        samples = model.log_likelihood(images, latents) + standard_normal_log_density(latents) - q.log_density(latents)
        error = samples.std(0) / math.sqrt(len(samples))
        assert ((samples.mean(0) - model.elbo(images, q)).abs() < 4 * error).all()

    def test_samples_have_the_moments_of_the_evidence(self, model: LinearGaussian, generator: Generator) -> None:
        images, latents = model.sample(20_000, generator)
        residual = images - model.offset - latents @ model.loadings.T
        for values, expected in (
            (images, model.offset),
            (residual.square(), model.log_variance.exp().expand(PIXELS)),
            (latents.square(), torch.ones(DIMENSIONS).double()),
        ):
            error = values.std(0) / math.sqrt(len(values))
            assert ((values.mean(0) - expected).abs() < 4 * error).all()


class TestMaximum:
    @pytest.fixture
    def data(self, generator: Generator) -> Tensor:
        """200 images with a spectrum that no model of fewer dimensions fits exactly."""
        scales = torch.tensor([3.0, 2.0, 1.5, 1.0, 0.7, 0.5], dtype=torch.float64)
        basis, _ = torch.linalg.qr(normal(6, 6, generator=generator))
        images: Tensor = normal(200, 6, generator=generator) * scales @ basis.T + normal(6, generator=generator)
        return images

    @pytest.mark.parametrize("dimensions", [1, 2, 5])
    def test_its_likelihood_is_that_of_the_eigenvalues(self, dimensions: int, data: Tensor) -> None:
        found = probabilistic_pca(data, dimensions).log_evidence(data).mean()
        torch.testing.assert_close(found, maximum_log_likelihood(data, dimensions), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dimensions", [1, 2, 5])
    def test_its_gradient_is_zero(self, dimensions: int, data: Tensor) -> None:
        assert gradient(probabilistic_pca(data, dimensions), data) < 1e-12

    def test_no_neighbor_is_better(self, data: Tensor, generator: Generator) -> None:
        best = probabilistic_pca(data, 2)
        highest = best.log_evidence(data).mean()
        for distance in (1e-3, 0.1, 1.0):
            for _ in range(20):
                other = LinearGaussian(
                    *(part + distance * torch.randn(part.shape, generator=generator).double() for part in best)
                )
                assert other.log_evidence(data).mean() < highest

    def test_other_eigenvectors_are_stationary_and_worse(self, data: Tensor) -> None:
        """Tipping and Bishop (1999), appendix A: saddle points, with the noise of all that is left out."""
        centered = data - data.mean(0)
        eigenvalues, vectors = torch.linalg.eigh(centered.T @ centered / len(data))
        likelihoods = []
        for chosen in itertools.combinations(range(6), 2):
            left_out = [index for index in range(6) if index not in chosen]
            variance = eigenvalues[left_out].mean()
            excess = eigenvalues[list(chosen)] - variance
            if excess.min() < 0:  # no real loadings
                continue
            model = LinearGaussian(vectors[:, list(chosen)] * excess.sqrt(), data.mean(0), variance.log())
            assert gradient(model, data) < 1e-12
            likelihoods.append((model.log_evidence(data).mean().item(), chosen))
        assert len(likelihoods) > 1
        assert max(likelihoods)[1] == (4, 5), "eigenvalues come smallest first"

    def test_its_posterior_is_diagonal(self, data: Tensor) -> None:
        """So a diagonal Gaussian can be exact: the ELBO of the best model is its evidence."""
        model = probabilistic_pca(data, 3)
        mean, covariance = model.posterior(data)
        assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-12
        q = DiagonalGaussian(mean, covariance.diagonal().log().expand_as(mean))
        torch.testing.assert_close(model.elbo(data, q), model.log_evidence(data), rtol=1e-12, atol=1e-12)

    def test_it_finds_the_model_that_made_many_images(self, generator: Generator) -> None:
        loadings = normal(6, 2, generator=generator)
        truth = LinearGaussian(loadings, normal(6, generator=generator), torch.tensor(0.1).double().log())
        found = probabilistic_pca(truth.sample(100_000, generator)[0], 2)
        assert (found.log_variance - truth.log_variance).abs() < 0.02
        torch.testing.assert_close(found.loadings @ found.loadings.T, loadings @ loadings.T, rtol=0, atol=0.15)

    @pytest.mark.parametrize("dimensions", [0, 6, -1])
    def test_as_many_dimensions_as_pixels_are_refused(self, dimensions: int, data: Tensor) -> None:
        with pytest.raises(ValueError, match="latent dimensions"):
            probabilistic_pca(data, dimensions)

    def test_images_without_noise_have_no_maximum(self, generator: Generator) -> None:
        flat = normal(50, 2, generator=generator) @ normal(2, 6, generator=generator)
        with pytest.raises(ValueError, match="no maximum"):
            probabilistic_pca(flat, 2)


def gradient(model: LinearGaussian, images: Tensor) -> float:
    """The largest entry of the gradient of the mean log evidence with respect to all parameters."""
    leaves = LinearGaussian(*(part.detach().clone().requires_grad_() for part in model))
    parts = torch.autograd.grad(leaves.log_evidence(images).mean(), list(leaves))
    return max(part.abs().max().item() for part in parts)
