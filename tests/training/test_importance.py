"""Bounds from importance weights: right in expectation at every k, of all weights, and never overflowing."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator

from training.importance import bound_grid, effective_sample_size, importance_weighted_bounds


def normal_weights(draws: int, images: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(draws, images, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 5, 10, 4999, 5000])
def test_the_grid_rises_from_one_to_k(k: int) -> None:
    grid = bound_grid(k)
    assert grid[0] == 1
    assert grid[-1] == k
    assert list(grid) == sorted(set(grid))
    assert all(later <= 2.5 * earlier for earlier, later in pairwise(grid))


class TestBounds:
    @pytest.mark.parametrize("scale", [1.0, 100.0, 1e5])
    @pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
    def test_the_last_is_logsumexp_less_the_logarithm_of_the_count(self, scale: float, offset: float) -> None:
        log_weights = offset + normal_weights(23, 5, scale)
        last = importance_weighted_bounds(log_weights, bound_grid(23))[:, -1]
        torch.testing.assert_close(last, torch.logsumexp(log_weights, 0) - math.log(23))

    def test_the_first_is_the_mean_of_all_log_weights(self) -> None:
        log_weights = normal_weights(23, 5)
        torch.testing.assert_close(importance_weighted_bounds(log_weights, (1,))[:, 0], log_weights.mean(0))

    def test_each_is_the_mean_over_groups_of_k_and_leaves_no_whole_group_out(self) -> None:
        log_weights = normal_weights(23, 5)
        for k in (2, 5, 7):
            groups = [log_weights[start : start + k] for start in range(0, 23 - k + 1, k)]
            expected = torch.stack([torch.logsumexp(group, 0) - math.log(k) for group in groups]).mean(0)
            torch.testing.assert_close(importance_weighted_bounds(log_weights, (k,))[:, 0], expected)

    def test_they_have_the_expectation_of_a_bound_of_k_draws_and_less_variance(self) -> None:
        """Against as many independent bounds of k draws alone."""
        images, draws = 4000, 60
        found = importance_weighted_bounds(normal_weights(draws, images), (1, 2, 5, 20, 60))
        for column, k in enumerate((1, 2, 5, 20, 60)):
            alone = torch.logsumexp(normal_weights(k, images, seed=1), 0) - math.log(k)
            error = (found[:, column].var() / images + alone.var() / images).sqrt().item()
            assert found[:, column].mean().item() == pytest.approx(alone.mean().item(), abs=4 * error)
            assert found[:, column].var().item() == pytest.approx(alone.var().item() / (draws // k), rel=0.2)

    def test_groups_within_groups_rise_for_every_image(self) -> None:
        """By Jensen's inequality, where every number divides the next and the last all draws: no noise can hide it."""
        bounds = importance_weighted_bounds(normal_weights(64, 100), (1, 2, 4, 16, 64))
        assert (bounds.diff(dim=1) >= 0).all()

    @pytest.mark.parametrize(
        "values", [[-math.inf, -math.inf], [-math.inf, 0.0], [0.0, -math.inf], [math.inf, 0.0], [0.0, math.inf]]
    )
    def test_infinite_weights_are_what_logsumexp_makes_of_them(self, values: list[float]) -> None:
        log_weights = torch.tensor(values, dtype=torch.float64)[:, None]
        found = importance_weighted_bounds(log_weights, (2,))[:, 0]
        torch.testing.assert_close(found, torch.logsumexp(log_weights, 0) - math.log(2))

    def test_adds_up_what_float32_would_lose(self) -> None:
        log_weights = torch.full((100_001, 1), -17.0)  # e^-17 is below half a unit in the last place of 1
        log_weights[0] = 0
        expected = math.log((1 + 1e5 * math.exp(-17)) / 100_001)
        assert importance_weighted_bounds(log_weights, (100_001,)).item() == pytest.approx(expected, rel=1e-12)


class TestEffectiveSampleSize:
    @pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
    def test_is_one_over_the_sum_of_squared_normalized_weights(self, offset: float) -> None:
        log_weights = normal_weights(23, 5, 3.0)
        expected = 1 / torch.softmax(log_weights, 0).square().sum(0)
        torch.testing.assert_close(effective_sample_size(offset + log_weights), expected, rtol=1e-6, atol=0)

    def test_equal_weights_all_count_and_a_single_one_counts_alone(self) -> None:
        assert effective_sample_size(torch.tensor([[3.0, 800.0], [3.0, -800.0]])).tolist() == [2, 1]

    def test_without_a_positive_weight_it_is_no_number(self) -> None:
        assert effective_sample_size(torch.tensor([[-math.inf], [-math.inf]])).isnan().all()
