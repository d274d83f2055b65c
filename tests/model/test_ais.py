"""Annealing on a model whose evidence is known: bounds from both sides, which meet."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.ais import (
    Annealed,
    Annealing,
    AnnealingPath,
    forward_ais,
    geometric_path,
    lower_bound,
    reverse_ais,
    sigmoid_schedule,
    tune,
    upper_bound,
)
from model.linear_gaussian import LinearGaussian
from model.posteriors import DiagonalGaussian, standard_normal_log_density

DIMENSIONS, PIXELS, IMAGES = 3, 6, 32


def normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Problem:
    """Images of a linear Gaussian model, and all that is known of them."""

    def __init__(self) -> None:
        generator = Generator().manual_seed(11)
        loadings = normal(PIXELS, DIMENSIONS, generator=generator)
        variance = torch.tensor(0.3, dtype=torch.float64)
        self.model = LinearGaussian(loadings, normal(PIXELS, generator=generator), variance.log())
        self.images, self.latents = self.model.sample(IMAGES, generator)
        self.evidence = self.model.log_evidence(self.images)
        self.path = geometric_path(standard_normal_log_density, self.log_likelihood)
        self.generator = generator

    def log_likelihood(self, latents: Tensor) -> Tensor:
        return self.model.log_likelihood(self.images, latents)

    def prior(self, chains: int) -> Tensor:
        return normal(chains, IMAGES, DIMENSIONS, generator=self.generator)

    def posterior(self, chains: int) -> Tensor:
        mean, covariance = self.model.posterior(self.images)
        latents: Tensor = mean + self.prior(chains) @ torch.linalg.cholesky(covariance).T
        return latents

    def standardized(self, latents: Tensor, beta: Tensor) -> Tensor:
        """Latents of the density at this inverse temperature, where s^2 is s^2 / beta, as standard normal ones."""
        tempered = self.model._replace(log_variance=self.model.log_variance - beta.log())
        mean, covariance = tempered.posterior(self.images)
        factor, shift = torch.linalg.cholesky(covariance), (latents - mean).unsqueeze(-1)
        standard: Tensor = torch.linalg.solve_triangular(factor, shift, upper=False).squeeze(-1)
        return standard

    def annealing(self, temperatures: int, path: AnnealingPath | None = None, start: Tensor | None = None) -> Annealing:
        start = self.prior(4) if start is None else start
        schedule = sigmoid_schedule(temperatures)
        return tune(path or self.path, start, self.generator, schedule=schedule, leapfrog_steps=8)

    def forward(self, temperatures: int, chains: int = 10) -> Annealed:
        return forward_ais(self.path, self.prior(chains), self.generator, self.annealing(temperatures))

    def reverse(self, temperatures: int, start: Tensor) -> Annealed:
        return reverse_ais(self.path, start, self.generator, self.annealing(temperatures))


@pytest.fixture
def problem() -> Problem:
    return Problem()


def standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values))


def assert_standard_normal(values: Tensor) -> None:
    """Chains lag a little behind the density that changes under them, hence the tenth."""
    assert values.mean().abs() < 4 / math.sqrt(values.numel())
    assert values.square().mean().item() == pytest.approx(1, abs=0.1)


class TestSchedule:
    @pytest.mark.parametrize("temperatures", [1, 2, 7, 1000])
    def test_rises_from_zero_to_one_and_is_symmetric(self, temperatures: int) -> None:
        schedule = sigmoid_schedule(temperatures)
        assert len(schedule) == temperatures + 1
        assert schedule[0] == 0
        assert schedule[-1] == 1
        assert (schedule.diff() > 0).all()
        torch.testing.assert_close(schedule.flip(0), 1 - schedule)

    def test_steps_are_smaller_at_the_ends(self) -> None:
        steps = sigmoid_schedule(100).diff()
        assert steps[0] < 0.1 * steps[50]

    def test_no_temperature_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            sigmoid_schedule(0)

    @pytest.mark.parametrize("schedule", [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.7, 1.0]])
    def test_another_that_does_not_rise_from_zero_to_one_is_refused(self, schedule: list[float]) -> None:
        problem = Problem()
        bad = Annealing(torch.tensor(schedule), torch.ones(2, IMAGES), 1)
        for anneal in (forward_ais, reverse_ais):
            with pytest.raises(ValueError, match="rises from 0 to 1"):
                anneal(problem.path, problem.prior(1), problem.generator, bad)


class TestForward:
    def test_one_temperature_is_importance_sampling_from_the_prior(self, problem: Problem) -> None:
        start = problem.prior(20)
        annealed = forward_ais(problem.path, start, problem.generator, problem.annealing(1))
        assert torch.equal(annealed.log_weights, problem.log_likelihood(start))
        assert torch.equal(annealed.last, start)
        assert annealed.acceptance_rate.isnan().all()

    def test_weights_are_unbiased(self, problem: Problem) -> None:
        """E[w] = p(x), with few temperatures and steps of the wrong size: neither matters for the expectation."""
        schedule = sigmoid_schedule(5)
        steps = torch.full((4, IMAGES), 0.4, dtype=torch.float64)
        annealed = forward_ais(problem.path, problem.prior(2000), problem.generator, Annealing(schedule, steps, 3))
        weights = (annealed.log_weights - problem.evidence).exp()
        error = weights.std(0) / math.sqrt(len(weights))
        surprise = (weights.mean(0) - 1) / error
        assert surprise.abs().max() < 5
        assert surprise.square().mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / IMAGES))

    def test_the_bound_is_below_and_rises_to_the_evidence(self, problem: Problem) -> None:
        gaps = []
        for temperatures in (1, 10, 150):
            gap = problem.evidence - lower_bound(problem.forward(temperatures).log_weights)
            assert gap.mean() > -4 * standard_error(gap)
            gaps.append(gap.mean().item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 1
        assert abs(gaps[-1]) < 0.1

    def test_chains_end_where_the_last_move_left_them(self, problem: Problem) -> None:
        """With many temperatures, in the density at the last one before 1: nearly the posterior."""
        last = problem.forward(200, chains=40).last
        assert_standard_normal(problem.standardized(last, sigmoid_schedule(200)[-2]))

    def test_from_the_exact_posterior_every_weight_is_the_evidence(self, problem: Problem) -> None:
        """Orthogonal loadings make it a diagonal Gaussian, which then is the initial density."""
        basis, _ = torch.linalg.qr(problem.model.loadings)
        model = problem.model._replace(loadings=basis * torch.tensor([2.0, 1.0, 0.5]))
        mean, covariance = model.posterior(problem.images)
        q = DiagonalGaussian(mean, covariance.diagonal().log().expand_as(mean))

        def log_likelihood(latents: Tensor) -> Tensor:
            return model.log_likelihood(problem.images, latents)

        path = geometric_path(standard_normal_log_density, log_likelihood, q.log_density)
        start = q.reparameterize(problem.prior(3))
        annealed = forward_ais(path, start, problem.generator, problem.annealing(7, path, start))
        expected = model.log_evidence(problem.images).expand(3, -1)
        torch.testing.assert_close(annealed.log_weights, expected, rtol=0, atol=1e-9)

    def test_from_a_near_posterior_the_bound_is_tighter_than_from_the_prior(self, problem: Problem) -> None:
        mean, covariance = problem.model.posterior(problem.images)
        q = DiagonalGaussian(mean + 0.1, covariance.diagonal().log().expand_as(mean))
        path = geometric_path(standard_normal_log_density, problem.log_likelihood, q.log_density)
        start = q.reparameterize(problem.prior(10))
        annealed = forward_ais(path, start, problem.generator, problem.annealing(20, path, start[:4]))
        gap = problem.evidence - lower_bound(annealed.log_weights)
        from_prior = problem.evidence - lower_bound(problem.forward(20).log_weights)
        assert -4 * standard_error(gap) < gap.mean() < 0.5 * from_prior.mean()


class TestReverse:
    def test_the_bound_is_above_and_falls_to_the_evidence(self, problem: Problem) -> None:
        gaps = []
        for temperatures in (1, 10, 150):
            annealed = problem.reverse(temperatures, problem.posterior(10))
            gap = upper_bound(annealed.log_weights) - problem.evidence
            assert gap.mean() > -4 * standard_error(gap)
            gaps.append(gap.mean().item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 1
        assert abs(gaps[-1]) < 0.1

    def test_all_chains_may_start_at_the_latent_that_made_the_image(self, problem: Problem) -> None:
        annealed = problem.reverse(200, problem.latents.expand(10, -1, -1))
        gap = upper_bound(annealed.log_weights) - problem.evidence
        assert -4 * standard_error(gap) < gap.mean() < 0.2

    def test_chains_end_where_the_last_move_left_them(self, problem: Problem) -> None:
        """With many temperatures, in the density at the first one above 0: nearly the prior."""
        last = problem.reverse(200, problem.posterior(40)).last
        assert_standard_normal(problem.standardized(last, sigmoid_schedule(200)[1]))

    def test_its_weights_are_those_from_going_forward_times_themselves(self, problem: Problem) -> None:
        """E_forward[w g(w)] = p(x) E_reverse[g(w)] for any g (Crooks, 1999), however few temperatures there are.

        With g(w) = 1 / (1 + w / p(x)) (Bennett, 1976) both sides are bounded, so that their standard errors are to be
        trusted; 1 / w itself has tails.
        """
        annealing = problem.annealing(5)
        forward = forward_ais(problem.path, problem.prior(1000), problem.generator, annealing).log_weights
        back = reverse_ais(problem.path, problem.posterior(1000), problem.generator, annealing).log_weights
        one, other = torch.sigmoid(forward - problem.evidence), torch.sigmoid(problem.evidence - back)
        error = ((one.var(0) + other.var(0)) / 1000).sqrt()
        surprise = (one.mean(0) - other.mean(0)) / error
        assert surprise.abs().max() < 4.5
        assert surprise.square().mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / IMAGES))

    def test_with_one_temperature_it_is_the_harmonic_mean(self, problem: Problem) -> None:
        start = problem.posterior(20)
        annealed = reverse_ais(problem.path, start, problem.generator, problem.annealing(1))
        assert torch.equal(annealed.log_weights, problem.log_likelihood(start))


class TestTuning:
    def test_moves_are_accepted_about_as_often_as_is_best(self, problem: Problem) -> None:
        for temperatures in (10, 150):
            rate = problem.forward(temperatures).acceptance_rate
            assert rate.mean().item() == pytest.approx(0.65, abs=0.1), temperatures

    def test_steps_are_shorter_where_the_density_is_narrower(self, problem: Problem) -> None:
        steps = problem.annealing(200).step_sizes
        assert steps.shape == (199, IMAGES)
        assert steps[-20:].mean() < 0.8 * steps[:20].mean()

    def test_seeds_decide(self) -> None:
        first, second = (Problem().forward(10).log_weights for _ in range(2))
        assert torch.equal(first, second)


class TestBounds:
    def test_are_means_of_weights_and_of_their_inverses(self) -> None:
        log_weights = torch.tensor([[0.1, -3.0], [0.7, 2.0], [-1.0, 0.0]], dtype=torch.float64)
        torch.testing.assert_close(lower_bound(log_weights), log_weights.exp().mean(0).log())
        torch.testing.assert_close(upper_bound(log_weights), -log_weights.neg().exp().mean(0).log())
        assert (lower_bound(log_weights) >= log_weights.mean(0)).all()
        assert (upper_bound(log_weights) <= log_weights.mean(0)).all()

    def test_one_chain_has_one_bound(self) -> None:
        log_weights = torch.tensor([[-1234.5]], dtype=torch.float64)
        assert lower_bound(log_weights).item() == upper_bound(log_weights).item() == -1234.5

    def test_float32_models_have_float64_weights(self) -> None:
        def flat(latents: Tensor) -> Tensor:
            return -1000.0 - 0.0 * latents.sum(-1)

        path = geometric_path(standard_normal_log_density, flat)
        random = Generator().manual_seed(0)
        annealing = Annealing(sigmoid_schedule(500), torch.full((499, 2), 0.5), 1)
        annealed = forward_ais(path, torch.zeros(3, 2, 4), random, annealing)
        assert annealed.log_weights.dtype == torch.float64
        torch.testing.assert_close(annealed.log_weights, torch.full((3, 2), -1000.0).double(), rtol=0, atol=1e-9)
