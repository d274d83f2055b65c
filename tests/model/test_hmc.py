"""The integrator keeps volume, time's arrow and, nearly, energy; the chains keep their density."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.hmc import Samples, State, adapt, evaluate, hmc, leapfrog, transition

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
ONE = torch.ones(1, dtype=torch.float64)


def correlated(points: Tensor) -> Tensor:
    """A correlated Gaussian, not normalized."""
    centered = points - MEAN
    log_density: Tensor = 17 - 0.5 * (centered @ PRECISION * centered).sum(-1)
    return log_density


def mixture(points: Tensor) -> Tensor:
    """0.3 N(-1, 0.7^2) + 0.7 N(1.5, 1): two modes, which chains can still travel between."""
    means, scales, weights = points.new_tensor([[-1.0, 1.5], [0.7, 1.0], [0.3, 0.7]])
    standardized = (points - means) / scales
    return torch.logsumexp(weights.log() - scales.log() - 0.5 * standardized.square(), -1)


def banana(points: Tensor) -> Tensor:
    """A curved density, so that the flow is not linear."""
    x, y = points.unbind(-1)
    return -0.5 * (x.square() + 4 * (y - x.square() / 2).square())


def flow(position: Tensor, velocity: Tensor, step: float, steps: int) -> tuple[State, Tensor]:
    return leapfrog([banana], ONE, evaluate([banana], position), velocity, torch.tensor(step).double(), steps)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class TestLeapfrog:
    def test_is_what_the_three_updates_say(self, generator: Generator) -> None:
        position, velocity = normal(2, 3, 4, 2, generator=generator)
        state, found = flow(position, velocity, 0.1, 3)
        for _ in range(3):
            velocity = velocity + 0.05 * evaluate([banana], position).gradients[0]
            position = position + 0.1 * velocity
            velocity = velocity + 0.05 * evaluate([banana], position).gradients[0]
        torch.testing.assert_close(state.position, position)
        torch.testing.assert_close(found, velocity)
        torch.testing.assert_close(state.values[0], banana(position))

    def test_is_reversible(self, generator: Generator) -> None:
        position, velocity = normal(2, 5, 7, 2, generator=generator)
        state, velocity_there = flow(position, velocity, 0.1, 20)
        assert (state.position - position).abs().max() > 0.5
        back, velocity_back = flow(state.position, -velocity_there, 0.1, 20)
        torch.testing.assert_close(back.position, position, rtol=0, atol=1e-11)
        torch.testing.assert_close(-velocity_back, velocity, rtol=0, atol=1e-11)

    def test_keeps_volume(self, generator: Generator) -> None:
        """The determinant of the Jacobian of (position, velocity), by central differences, all columns at once."""
        for _ in range(5):
            start = normal(4, generator=generator)
            nudge = 1e-5
            eye = torch.eye(4, dtype=torch.float64)
            moved = torch.stack([start + nudge * eye, start - nudge * eye])
            state, velocity = flow(moved[..., :2], moved[..., 2:], 0.15, 10)
            ends = torch.cat([state.position, velocity], -1)
            jacobian = (ends[0] - ends[1]).T / (2 * nudge)
            assert (jacobian - eye).abs().max() > 0.1
            assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-7)

    def test_its_energy_is_off_by_the_square_of_the_step(self, generator: Generator) -> None:
        """Over the same time, with steps half as long: a quarter."""
        position, velocity = normal(2, 200, 1, 2, generator=generator)
        start = banana(position) - 0.5 * velocity.square().sum(-1)
        errors = []
        for steps in (20, 40, 80):
            state, final = flow(position, velocity, 1 / steps, steps)
            end = banana(state.position) - 0.5 * final.square().sum(-1)
            errors.append((end - start).abs().mean().item())
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
        assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)

    def test_terms_add_up_under_their_weights(self, generator: Generator) -> None:
        position, velocity = normal(2, 3, 2, 2, generator=generator)
        step = torch.tensor(0.1).double()
        weights = torch.tensor([0.25, 2.0], dtype=torch.float64)
        apart, end = leapfrog(
            [banana, correlated], weights, evaluate([banana, correlated], position), velocity, step, 5
        )

        def whole(points: Tensor) -> Tensor:
            return 0.25 * banana(points) + 2 * correlated(points)

        together, expected = leapfrog([whole], ONE, evaluate([whole], position), velocity, step, 5)
        torch.testing.assert_close(apart.position, together.position)
        torch.testing.assert_close(end, expected)
        torch.testing.assert_close(apart.log_density(weights), together.values[0])


def within_four_errors(samples: Tensor, expected: Tensor) -> None:
    """The mean over independent samples ``(S, ...)``."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - expected).abs() < 4 * error).all(), (samples.mean(0), expected, error)


def products(points: Tensor) -> Tensor:
    """The entries of (z - mean)(z - mean)^T, whose expectation is the covariance."""
    centered = points - MEAN
    return centered.unsqueeze(-1) * centered.unsqueeze(-2)


class TestStationary:
    """Chains are independent of each other: their last states are, too."""

    def test_moments_of_a_correlated_gaussian(self, generator: Generator) -> None:
        start = 3 * normal(4000, 1, 2, generator=generator)
        last = hmc(correlated, start, generator, step_size=0.5, leapfrog_steps=5, iterations=20, warmup=60).last[:, 0]
        within_four_errors(last, MEAN)
        within_four_errors(products(last), COVARIANCE)

    def test_moments_of_a_mixture(self, generator: Generator) -> None:
        start = normal(4000, 1, 1, generator=generator)
        last = hmc(mixture, start, generator, step_size=1.0, leapfrog_steps=4, iterations=100, warmup=20).last[:, 0]
        within_four_errors(last, torch.tensor([0.3 * -1 + 0.7 * 1.5]))
        within_four_errors(last.square(), torch.tensor([0.3 * (1 + 0.49) + 0.7 * (2.25 + 1)]))
        # And the share of the lower mode, which moments alone would not tell.
        below = 0.3 * phi(1.0 / 0.7) + 0.7 * phi(-1.5)
        within_four_errors((last < 0).double(), torch.tensor([below]))

    def test_an_exact_sample_stays_one(self, generator: Generator) -> None:
        """With a step so long that a third is rejected: without the correction, the variance would be wrong."""
        factor = torch.linalg.cholesky(COVARIANCE)
        start = MEAN + normal(20_000, 1, 2, generator=generator) @ factor.T
        result = hmc(correlated, start, generator, step_size=0.85, leapfrog_steps=3, iterations=4)
        assert 0.4 < result.acceptance_rate.mean() < 0.9
        assert (result.last != start).any(-1).double().mean() > 0.8
        within_four_errors(result.last[:, 0], MEAN)
        within_four_errors(products(result.last[:, 0]), COVARIANCE)

    def test_one_long_chain_has_the_moments_too(self, generator: Generator) -> None:
        result = hmc(
            correlated, MEAN.expand(1, 50, 2), generator, step_size=0.5, leapfrog_steps=4, iterations=400, warmup=50
        )
        within_four_errors(result.samples[:, 0].mean(0), MEAN)

    def test_each_image_has_its_own_density(self, generator: Generator) -> None:
        centers = torch.tensor([[0.0], [5.0], [-3.0]], dtype=torch.float64)

        def around(points: Tensor) -> Tensor:
            return -0.5 * (points - centers).square().sum(-1)

        start = torch.zeros(2000, 3, 1, dtype=torch.float64)
        last = hmc(around, start, generator, step_size=0.5, leapfrog_steps=4, iterations=30, warmup=30).last
        within_four_errors(last, centers)


def phi(value: float) -> float:
    """The standard normal's distribution function."""
    return 0.5 * math.erfc(-value / math.sqrt(2))


class TestStepSize:
    def scaled(self, points: Tensor) -> Tensor:
        """Three images whose posteriors have scales a hundredfold apart."""
        scales = points.new_tensor([0.1, 1.0, 10.0])[:, None]
        return -0.5 * (points / scales).square().sum(-1)

    def run(self, generator: Generator, target: float = 0.65) -> Samples:
        start = torch.zeros(50, 3, 20, dtype=torch.float64)
        return hmc(
            self.scaled, start, generator, step_size=1.0, leapfrog_steps=5, iterations=100, warmup=200,
            target_acceptance=target,
        )  # fmt: skip

    @pytest.mark.parametrize("target", [0.5, 0.65, 0.9])
    def test_every_image_reaches_the_target(self, target: float, generator: Generator) -> None:
        rate = self.run(generator, target).acceptance_rate.mean(0)
        torch.testing.assert_close(rate, torch.full_like(rate, target), rtol=0, atol=0.06)

    def test_is_proportional_to_the_scale(self, generator: Generator) -> None:
        step = self.run(generator).step_size
        torch.testing.assert_close(step / step[1], torch.tensor([0.1, 1.0, 10.0]).double(), rtol=0.1, atol=0)

    def test_without_warm_up_it_stays(self, generator: Generator) -> None:
        result = hmc(self.scaled, torch.zeros(2, 3, 4), generator, step_size=0.03, leapfrog_steps=2, iterations=3)
        assert torch.equal(result.step_size, torch.full((3,), 0.03))

    def test_moves_up_where_too_much_is_accepted(self) -> None:
        step = adapt(torch.ones(3), torch.tensor([[1.0, 0.65, 0.0]]), 0.5)
        assert step[0] > 1 > step[2]
        assert step[1].item() == pytest.approx(1)


class TestMove:
    def test_what_ends_in_nan_or_nowhere_is_rejected(self, generator: Generator) -> None:
        def walled(points: Tensor) -> Tensor:
            value = -0.5 * points.square().sum(-1)
            return torch.where(points[..., 0] > 0, torch.nan, value)

        def cut(points: Tensor) -> Tensor:
            value = -0.5 * points.square().sum(-1)
            return torch.where(points[..., 0] > 0, -torch.inf, value)

        for density in (walled, cut):
            start = -normal(500, 1, 2, generator=generator).abs()
            result = hmc(density, start, generator, step_size=0.5, leapfrog_steps=3, iterations=5)
            assert (result.last[..., 0] <= 0).all()
            assert result.acceptance_rate.isfinite().all()
            assert (result.last != start).any()

    def test_rejected_chains_keep_all_that_is_known_of_them(self, generator: Generator) -> None:
        state = evaluate([mixture], normal(300, 1, 1, generator=generator))
        moved, acceptance = transition([mixture], ONE, state, generator, torch.full((1,), 2.5).double(), 3)
        stayed = (moved.position == state.position).all(-1)
        assert 0 < stayed.sum() < 300
        assert acceptance.min() >= 0
        assert acceptance.max() <= 1
        again = evaluate([mixture], moved.position)
        for known, expected in zip(moved, again, strict=True):
            torch.testing.assert_close(known, expected)

    def test_no_graph_is_left(self, generator: Generator) -> None:
        weight = torch.nn.Parameter(torch.ones(()))

        def scaled(points: Tensor) -> Tensor:
            return -weight * points.square().sum(-1)

        result = hmc(scaled, torch.zeros(2, 1, 1), generator, step_size=0.5, leapfrog_steps=3, iterations=2)
        assert not any(tensor.requires_grad for tensor in result)
        assert weight.grad is None

    def test_seeds_decide(self) -> None:
        def run(seed: int) -> Tensor:
            start = torch.zeros(3, 2, 2, dtype=torch.float64)
            random = Generator().manual_seed(seed)
            return hmc(banana, start, random, step_size=0.3, leapfrog_steps=3, iterations=4, warmup=2).samples

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))


class TestSamples:
    def test_every_move_is_heard_of(self, generator: Generator) -> None:
        heard: list[None] = []
        hmc(
            banana, torch.zeros(1, 1, 2), generator, step_size=0.1, leapfrog_steps=1, iterations=4, warmup=3, thin=2,
            advance=lambda: heard.append(None),
        )  # fmt: skip
        assert len(heard) == 7

    def test_are_thinned_and_end_where_the_chains_stand(self) -> None:
        def run(thin: int) -> Samples:
            start = torch.zeros(3, 2, 2, dtype=torch.float64)
            random = Generator().manual_seed(3)
            return hmc(banana, start, random, step_size=0.3, leapfrog_steps=3, iterations=12, warmup=2, thin=thin)

        every, third = run(1), run(3)
        assert every.samples.shape == (12, 3, 2, 2)
        assert every.acceptance_rate.shape == (3, 2)
        assert torch.equal(every.samples[2::3], third.samples)
        assert torch.equal(every.samples[-1], every.last)

    @pytest.mark.parametrize("wrong", [{"step_size": 0.0}, {"leapfrog_steps": 0}, {"iterations": 0}, {"warmup": -1}])
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, float], generator: Generator) -> None:
        settings = {"step_size": 0.1, "leapfrog_steps": 1, "iterations": 1, "warmup": 0} | wrong
        with pytest.raises(ValueError, match="must be positive"):
            hmc(banana, torch.zeros(1, 1, 2), generator, **settings)  # type: ignore[arg-type]

    def test_a_start_without_chains_is_refused(self, generator: Generator) -> None:
        with pytest.raises(ValueError, match="chains, images, dimensions"):
            hmc(banana, torch.zeros(1, 2), generator, step_size=0.1, leapfrog_steps=1, iterations=1)
