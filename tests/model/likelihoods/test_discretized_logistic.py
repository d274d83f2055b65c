"""The discretized logistic gives 256 levels their probabilities: those of bins of a logistic, and of its tails."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.likelihoods import DiscretizedLogistic
from model.likelihoods.discretized_logistic import SMALLEST_SCALE

SCALES = [0.06, 0.1, 0.4]


def with_scales(scales: list[float]) -> DiscretizedLogistic:
    likelihood = DiscretizedLogistic(len(scales)).double()
    assert likelihood.log_scale is not None
    with torch.no_grad():
        likelihood.log_scale.copy_((torch.tensor(scales, dtype=torch.float64) - SMALLEST_SCALE).log().view(-1, 1, 1))
    return likelihood


def test_probabilities_are_those_of_the_bins(parameters: Tensor, images: Tensor) -> None:
    """Written out with differences, in float64, near enough to the location that these have digits left."""
    locations, levels = 0.3 + 0.4 * parameters.double().sigmoid(), (255 * images.double()).round()
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    scale = torch.tensor(SCALES, dtype=torch.float64).view(3, 1, 1)
    upper = torch.sigmoid(((levels + 0.5) / 255 - locations) / scale).where(levels < 255, torch.tensor(1.0).double())
    lower = torch.sigmoid(((levels - 0.5) / 255 - locations) / scale).where(levels > 0, torch.tensor(0.0).double())
    found = with_scales(SCALES).log_prob(2 * locations - 1, levels / 255)
    torch.testing.assert_close(found, (upper - lower).log().sum((-3, -2, -1)), rtol=1e-9, atol=1e-6)


def test_each_channel_has_its_scale() -> None:
    assert with_scales(SCALES).scales() == pytest.approx(SCALES)
    assert DiscretizedLogistic(None).scales() is None


def test_a_decoder_may_give_the_scales(parameters: Tensor, images: Tensor) -> None:
    """Behind the locations, as softly bounded logarithms of what scales begin with."""
    raw = 7 * torch.atanh(torch.tensor([0.3, -0.2, 0.1]) / 0.7).view(3, 1, 1).expand_as(parameters)
    wanted = [SMALLEST_SCALE + 0.1 * math.exp(each) for each in (3.0, -2.0, 1.0)]
    found = DiscretizedLogistic(None).log_prob(torch.cat([parameters, raw], 1), images)
    torch.testing.assert_close(found, with_scales(wanted).float().log_prob(parameters, images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("raw", [-1e4, -20.0, 20.0, 1e4])
def test_scales_from_a_decoder_stay_within_bounds(raw: float) -> None:
    parameters = torch.tensor([0.1, raw]).view(1, 2, 1, 1).requires_grad_()
    log_prob = DiscretizedLogistic(None).log_prob(parameters, torch.full((1, 1, 1, 1), 0.3))
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


def test_learned_scales_become_those_of_the_data(generator: Generator) -> None:
    true = torch.tensor([0.02, 0.06]).view(2, 1, 1)
    uniform = torch.rand(40, 2, 20, 20, generator=generator)
    images = (0.5 + true * torch.logit(uniform)).clamp(0, 1)
    likelihood = DiscretizedLogistic(2)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(-likelihood.log_prob(torch.zeros(1, 2, 20, 20), images).mean())
        optimizer.step()
    assert likelihood.scales() == pytest.approx([0.02, 0.06], rel=0.03)


def test_constant_pictures_are_certain_and_finite() -> None:
    likelihood = DiscretizedLogistic(1)
    assert likelihood.log_scale is not None
    with torch.no_grad():
        likelihood.log_scale.fill_(-1e4)
    log_prob = likelihood.log_prob(torch.full((1, 1, 2, 2), 2 * 51 / 255 - 1), torch.full((1, 1, 2, 2), 0.2))
    assert log_prob.item() == pytest.approx(0, abs=1e-6)
    assert likelihood.scales() == pytest.approx([SMALLEST_SCALE])


def test_the_mean_takes_no_more_memory_than_a_few_feature_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of it has an axis of all levels, and no level is left out."""
    sizes: list[int] = []
    sigmoid = torch.sigmoid

    def watched(values: Tensor) -> Tensor:
        sizes.append(values.numel())
        return sigmoid(values)

    monkeypatch.setattr(torch, "sigmoid", watched)
    DiscretizedLogistic(3).mean(torch.zeros(2, 3, 8, 8))
    assert max(sizes) == 17 * 2 * 3 * 8 * 8
    assert sum(sizes) == 255 * 2 * 3 * 8 * 8
