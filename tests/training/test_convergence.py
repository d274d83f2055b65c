"""R-hat is what the book says, 1 where chains have mixed and large where not; sample sizes are those that are known."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from training.convergence import chain_sample_size, split_r_hat


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def autoregressive(correlation: float, *shape: int, generator: Generator) -> Tensor:
    """Stationary chains ``(M, S, ...)`` of variance 1, whose autocorrelation at lag t is the t-th power."""
    draws = normal(*shape, generator=generator)
    for index in range(1, shape[0]):
        draws[index] = correlation * draws[index - 1] + math.sqrt(1 - correlation**2) * draws[index]
    return draws


class TestRHat:
    def test_is_the_formula(self, generator: Generator) -> None:
        draws = autoregressive(0.8, 30, 3, 2, generator=generator)
        found = split_r_hat(draws)
        for number in range(2):
            halves = [draws[part, chain, number].numpy() for chain in range(3) for part in (slice(15), slice(15, 30))]
            means = np.array([half.mean() for half in halves])
            between = 15 / 5 * ((means - means.mean()) ** 2).sum()
            within = np.mean([half.var(ddof=1) for half in halves])
            assert found[number].item() == pytest.approx(math.sqrt((14 / 15 * within + between / 15) / within))

    def test_is_near_one_where_chains_have_mixed(self, generator: Generator) -> None:
        r_hat = split_r_hat(normal(1000, 4, 5, 7, generator=generator))
        assert r_hat.shape == (5, 7)
        assert (r_hat - 1).abs().max() < 0.01

    def test_is_large_where_chains_are_stuck_apart(self, generator: Generator) -> None:
        """Four chains of variance 1 whose means are 3 from each other: sqrt(1 + the variance of the halves' means)."""
        means = torch.tensor([-4.5, -1.5, 1.5, 4.5]).double()
        expected = math.sqrt(1 + means.repeat(2).var().item())
        found = split_r_hat(normal(2000, 4, generator=generator) + means)
        assert found.item() == pytest.approx(expected, rel=0.02)

    def test_a_drift_that_all_chains_share_does_not_pass(self, generator: Generator) -> None:
        """Their means agree; those of their halves do not."""
        drift = torch.linspace(-2, 2, 1000, dtype=torch.float64)[:, None]
        assert split_r_hat(normal(1000, 4, generator=generator) + drift) > 1.25

    def test_chains_that_stand_still_have_shown_nothing(self) -> None:
        assert split_r_hat(torch.zeros(10, 4, 2)).tolist() == [math.inf, math.inf]
        assert split_r_hat(torch.arange(4.0).expand(10, 4)).item() == math.inf

    def test_of_one_chain_its_halves_are_compared(self, generator: Generator) -> None:
        assert split_r_hat(normal(1000, 1, generator=generator)).item() == pytest.approx(1, abs=0.01)

    def test_the_middle_of_an_odd_number_is_left_out(self, generator: Generator) -> None:
        draws = normal(9, 2, generator=generator)
        assert torch.equal(split_r_hat(draws), split_r_hat(draws[[0, 1, 2, 3, 5, 6, 7, 8]]))

    @pytest.mark.parametrize("measure", [split_r_hat, chain_sample_size])
    def test_three_draws_are_refused(self, measure: object) -> None:
        assert callable(measure)
        with pytest.raises(ValueError, match="four or more"):
            measure(torch.zeros(3, 2))


class TestSampleSize:
    @pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, -0.3])
    def test_of_chains_whose_autocorrelation_is_known(self, correlation: float, generator: Generator) -> None:
        """The mean of an autoregressive chain is worth (1 - c) / (1 + c) of its draws."""
        draws = autoregressive(correlation, 4000, 4, 50, generator=generator)
        expected = 16_000 * (1 - correlation) / (1 + correlation)
        found = chain_sample_size(draws)
        assert found.shape == (50,)
        assert found.mean().item() == pytest.approx(expected, rel=0.08)

    def test_says_how_far_off_the_mean_is(self, generator: Generator) -> None:
        draws = autoregressive(0.8, 500, 4, 2000, generator=generator)
        expected = chain_sample_size(draws).reciprocal().mean()
        assert draws.mean((0, 1)).var().item() == pytest.approx(expected.item(), rel=0.15)

    def test_chains_that_do_not_agree_are_worth_little(self, generator: Generator) -> None:
        draws = normal(1000, 4, generator=generator)
        apart = draws + 3 * torch.arange(4).double()
        assert chain_sample_size(apart) < 20 < 2000 < chain_sample_size(draws)

    def test_draws_that_alternate_are_worth_three_at_most(self) -> None:
        draws = torch.tensor([1.0, -1.0]).repeat(50)[:, None].expand(100, 2)
        assert chain_sample_size(draws).item() == pytest.approx(3 * 200)
