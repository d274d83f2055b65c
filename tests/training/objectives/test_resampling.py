"""Choosing m of k weighted latents: always m, no latent twice, and all weights kept on average."""

import itertools

import pytest
import torch
from torch import Generator, Tensor

from training.objectives.resampling import inclusion, resample

K, IMAGES = 50, 400


def weights_of(spread: float) -> Tensor:
    """Normalized weights whose logarithms have a standard deviation of ``spread`` nats: from all alike to one alone."""
    logs = spread * torch.randn(K, IMAGES, generator=Generator().manual_seed(0))
    return logs.softmax(0)


def offsets(count: int) -> Tensor:
    """Evenly along [0, 1), so that a mean over them is an integral."""
    return (torch.arange(count) + 0.5) / count


@pytest.mark.parametrize("m", [1, 8, K - 1])
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 5.0, 30.0, 300.0])
class TestAnyWeights:
    def test_probabilities_add_up_to_m_and_none_is_above_1(self, spread: float, m: int) -> None:
        probability = inclusion(weights_of(spread), m)
        assert probability.min() > 0
        assert probability.max() <= 1
        torch.testing.assert_close(probability.sum(0), torch.full((IMAGES,), float(m), dtype=torch.float64))

    def test_there_are_m_and_none_twice(self, spread: float, m: int) -> None:
        for offset in (0.0, 0.3, 0.999999):
            index = resample(weights_of(spread), m, torch.full((IMAGES,), offset)).indices
            assert index.shape == (m, IMAGES)
            assert (index.diff(dim=0) > 0).all()
            assert index.max() < K

    def test_what_is_heavy_keeps_its_weight_and_what_is_chosen_of_the_light_weighs_the_same(
        self, spread: float, m: int
    ) -> None:
        weights = weights_of(spread)
        chosen = resample(weights, m, torch.rand(IMAGES, generator=Generator().manual_seed(1)))
        old = weights.gather(0, chosen.indices)
        sure = inclusion(weights, m).gather(0, chosen.indices) == 1
        assert (chosen.weights[sure] == old[sure]).all()
        assert chosen.weights.isfinite().all()
        for image in range(0, IMAGES, 40):
            light = chosen.weights[:, image][~sure[:, image] & (old[:, image] > 1e-12)]
            assert torch.allclose(light, light.mean(), rtol=1e-4)


def test_all_weights_are_kept_on_average() -> None:
    weights = weights_of(2.0)[:, :1].double()
    offset = offsets(100_000).double()
    chosen = resample(weights.expand(-1, len(offset)), 8, offset)
    found = torch.zeros(K, len(offset), dtype=torch.float64).scatter(0, chosen.indices, chosen.weights)
    torch.testing.assert_close(found.mean(1), weights[:, 0], atol=2e-5, rtol=0)
    torch.testing.assert_close((found > 0).double().mean(1), inclusion(weights, 8)[:, 0], atol=2e-5, rtol=0)


def test_no_other_probabilities_change_the_weights_by_less() -> None:
    """The expected squared change of a weight is w^2 (1/pi - 1): moving probability from any latent to any other, as
    far as 0 and 1 allow, makes the sum no smaller."""
    weights = torch.tensor([[0.5], [0.2], [0.12], [0.1], [0.05], [0.03]], dtype=torch.float64)
    best = inclusion(weights, 3)[:, 0]
    squares = weights[:, 0].square()
    least = (squares * (1 / best - 1)).sum()
    moved = 0
    for giver, taker in itertools.permutations(range(len(best)), 2):
        other = best.clone()
        other[giver] -= 1e-3
        other[taker] += 1e-3
        if other.max() <= 1:
            assert (squares * (1 / other - 1)).sum() > least
            moved += 1
    assert moved == 25  # the heaviest cannot be given more


def test_weights_that_rounding_made_0_are_chosen_only_to_fill_up_and_weigh_nothing() -> None:
    weights = torch.zeros(6, 1)
    weights[2], weights[4] = 0.75, 0.25
    chosen = resample(weights, 4, torch.tensor([0.5]))
    found = torch.zeros(6, 1).scatter(0, chosen.indices, chosen.weights)
    assert found.tolist() == weights.tolist()
