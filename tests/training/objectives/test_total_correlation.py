"""The rate in three parts: weights of a batch, what they add up to, and what they estimate."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from model.posteriors import DiagonalGaussian, standard_normal_log_density
from tests.support.linear import LATENTS, LinearVAE
from training.objectives.elbo import UNWEIGHTED
from training.objectives.total_correlation import BetaTC, decompose, stratified_weights

# Three posteriors in the plane: correlated as a mixture, and each with some information.
MIXTURE = DiagonalGaussian(
    torch.tensor([[-1.2, -0.9], [1.0, 1.1], [0.1, 0.6]]).double(),
    torch.tensor([[-1.5, -1.0], [-0.8, -1.8], [-1.2, -1.2]]).double(),
)


def some_posteriors(count: int, dimensions: int = 3) -> tuple[DiagonalGaussian, Tensor]:
    """And a latent of each, in float64."""
    generator = Generator().manual_seed(0)
    mean, log_variance, noise = torch.randn(3, count, dimensions, generator=generator).double()
    posterior = DiagonalGaussian(mean, 0.5 * log_variance - 1)
    return posterior, posterior.reparameterize(noise)


class TestWeights:
    @pytest.mark.parametrize(("batch", "population"), [(2, 2), (2, 3), (5, 9), (9, 10), (10, 10), (64, 50_000)])
    def test_every_row_is_a_distribution_with_its_own_image_as_one_of_all(self, batch: int, population: int) -> None:
        weights = stratified_weights(batch, population)
        assert weights.shape == (batch, batch)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(batch).double())
        torch.testing.assert_close(weights.diagonal(), torch.full((batch,), 1 / population).double())

    def test_they_are_those_of_the_paper(self) -> None:
        """1 / N for its own, (N - M) / (N M) for one other, 1 / M for the M - 1 that are left."""
        n, m = 20, 4
        for row in stratified_weights(m + 1, n):
            expected = sorted([1 / n, (n - m) / (n * m), *[1 / m] * (m - 1)])
            assert sorted(row.tolist()) == pytest.approx(expected)

    def test_the_estimate_is_unbiased_over_all_batches(self) -> None:
        """q(z) of one latent, from every ordered batch of its image and 2 of the 5 others."""
        posterior, latent = some_posteriors(6)
        densities = posterior.log_density(latent[:1].unsqueeze(1)).exp()[0]  # of latent 0 in each posterior
        estimates = [
            (stratified_weights(3, 6)[0] * densities[[0, *others]]).sum()
            for others in itertools.permutations(range(1, 6), 2)
        ]
        torch.testing.assert_close(torch.stack(estimates).mean(), densities.mean())

    def test_all_images_are_the_mixture_itself(self) -> None:
        assert set(stratified_weights(7, 7).flatten().tolist()) == {1 / 7}

    @pytest.mark.parametrize(("batch", "population"), [(1, 10), (11, 10), (1, 1)])
    def test_a_batch_that_says_nothing_of_others_is_refused(self, batch: int, population: int) -> None:
        with pytest.raises(ValueError, match="2 or more, and no more than there are"):
            stratified_weights(batch, population)


class TestDecomposition:
    @pytest.mark.parametrize("population", [6, 7, 1000])
    def test_the_parts_add_up_to_the_estimated_rate(self, population: int) -> None:
        """log q(z|x) - log p(z), whatever the batch says of the rest."""
        posterior, latent = some_posteriors(6)
        total = sum(decompose(posterior, latent, population))
        rate = (posterior.log_density(latent) - standard_normal_log_density(latent)).mean()
        torch.testing.assert_close(total, rate)

    def test_of_all_images_they_are_the_exact_values_in_expectation(self) -> None:
        """Held against integrals over a grid, and their sum against the rate in closed form, within four standard
        errors."""
        noise = torch.randn(2000, 3, 2, generator=Generator().manual_seed(1)).double()
        found = torch.stack([torch.stack(decompose(MIXTURE, MIXTURE.reparameterize(each), 3)) for each in noise])
        exact = integrals(MIXTURE)
        assert exact.sum().item() == pytest.approx(MIXTURE.kl().sum(1).mean().item(), rel=1e-6)
        errors = found.std(0) / len(noise) ** 0.5
        assert ((found.mean(0) - exact).abs() < 4 * errors).all()
        assert (errors < 0.1 * exact).all()  # and that says something

    def test_posteriors_that_are_all_the_same_tell_nothing_and_are_independent(self) -> None:
        posterior = DiagonalGaussian(torch.full((8, 3), 0.7).double(), torch.full((8, 3), -0.4).double())
        latent = posterior.reparameterize(torch.randn(8, 3, generator=Generator().manual_seed(2)).double())
        for population in (8, 500):
            information, correlation, divergence = decompose(posterior, latent, population)
            assert information.item() == pytest.approx(0, abs=1e-12)
            assert correlation.item() == pytest.approx(0, abs=1e-12)
            rate = (posterior.log_density(latent) - standard_normal_log_density(latent)).mean()
            torch.testing.assert_close(divergence, rate)


def integrals(mixture: DiagonalGaussian) -> Tensor:
    """Information, total correlation and dimension-wise KL of a mixture in the plane, by sums over a grid."""
    axis = torch.linspace(-7, 7, 561, dtype=torch.float64)
    step = (axis[1] - axis[0]).item()
    along = torch.exp(
        -0.5
        * (
            (axis[:, None, None] - mixture.mean).square() * (-mixture.log_variance).exp()
            + mixture.log_variance
            + math.log(2 * math.pi)
        )
    )  # (A, N, D): the density of each posterior along each axis
    conditional = along[:, None, :, 0] * along[None, :, :, 1]  # (A, A, N)
    joint, first, second = conditional.mean(2), along[..., 0].mean(1), along[..., 1].mean(1)
    product = first[:, None] * second[None, :]
    information = (conditional * (conditional / joint[..., None]).log()).sum((0, 1)).mean() * step**2
    correlation = (joint * (joint / product).log()).sum() * step**2
    prior = torch.exp(-0.5 * (axis.square() + math.log(2 * math.pi)))
    divergence = sum(((each * (each / prior).log()).sum() * step for each in (first, second)), torch.zeros(()).double())
    return torch.stack([information, correlation, divergence])


class TestObjective:
    @pytest.fixture
    def vae(self) -> LinearVAE:
        return LinearVAE()

    @pytest.fixture
    def images(self, vae: LinearVAE) -> Tensor:
        images = vae.draw_images(6, seed=0)
        vae.set_posterior(images, shift=0.3)
        return images

    def test_it_is_the_weighted_sum_of_its_parts(self, vae: LinearVAE, images: Tensor) -> None:
        loss = BetaTC(0.5, 6.0, 2.0, 1000).loss(vae, images, Generator().manual_seed(1), autocast=False)
        parts = loss.parts
        expected = (
            parts["distortion"]
            + 0.5 * parts["index_code_information"]
            + 6 * parts["total_correlation"]
            + 2 * parts["dimension_wise_kl"]
        )
        torch.testing.assert_close(loss.objective.detach(), expected)
        plain = UNWEIGHTED.loss(vae, images, Generator().manual_seed(1), autocast=False).parts
        for name, part in plain.items():
            torch.testing.assert_close(parts[name], part)

    def test_with_weights_of_one_it_is_the_elbo_with_an_estimated_rate(self, vae: LinearVAE, images: Tensor) -> None:
        loss = BetaTC(1.0, 1.0, 1.0, 1000).loss(vae, images, Generator().manual_seed(1), autocast=False)
        noise = torch.randn(6, LATENTS, generator=Generator().manual_seed(1))
        posterior = vae.posterior(images)
        latent = posterior.reparameterize(noise)
        rate = posterior.log_density(latent) - standard_normal_log_density(latent)
        distortion = -vae.likelihood.log_prob(vae.decode(latent), images)
        torch.testing.assert_close(loss.objective, (distortion + rate).mean())

    def test_every_parameter_of_the_posterior_has_a_gradient(self, vae: LinearVAE, images: Tensor) -> None:
        loss = BetaTC(1.0, 6.0, 1.0, 1000).loss(vae, images, Generator().manual_seed(1), autocast=False).objective
        for gradient in torch.autograd.grad(loss, [vae.mean, vae.log_variance]):
            assert (gradient != 0).all()
            assert gradient.isfinite().all()
