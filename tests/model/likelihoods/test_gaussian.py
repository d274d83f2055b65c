"""The Gaussian is torch.distributions', summed over the pixels of an image; its scale is the best one."""

import pytest
import torch
from torch import Tensor, distributions

from model.likelihoods import SMALLEST_SCALE, Gaussian
from tests.support.densities import log_density


@pytest.mark.parametrize("scale", [None, 0.01, 0.1, 2.0])
def test_log_prob_is_that_of_torch_distributions(scale: float | None, parameters: Tensor, images: Tensor) -> None:
    likelihood = Gaussian(scale)
    expected = log_density(distributions.Normal(torch.sigmoid(parameters), likelihood.scale()), images)
    torch.testing.assert_close(likelihood.log_prob(parameters, images), expected.sum((-3, -2, -1)))
    assert torch.equal(likelihood.mean(parameters), torch.sigmoid(parameters))


def test_a_fixed_scale_is_a_constant_that_checkpoints_hold() -> None:
    likelihood = Gaussian(0.1)
    assert likelihood.scale().item() == pytest.approx(0.1)
    assert list(likelihood.parameters()) == []
    assert set(likelihood.state_dict()) == {"log_scale"}


def test_a_learned_scale_becomes_the_root_mean_squared_error(parameters: Tensor, images: Tensor) -> None:
    """The maximum-likelihood scale in closed form, found by descending the gradient."""
    likelihood = Gaussian()
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(-likelihood.log_prob(parameters, images).mean())
        optimizer.step()
    error = (images - torch.sigmoid(parameters)).square().mean().sqrt()
    torch.testing.assert_close(likelihood.scale(), error, rtol=1e-3, atol=0)


def test_a_learned_scale_does_not_collapse_on_constant_pictures() -> None:
    likelihood = Gaussian()
    with torch.no_grad():
        likelihood.log_scale.fill_(-1e4)
    density = likelihood.log_prob(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    assert likelihood.scale().item() == pytest.approx(SMALLEST_SCALE)
    assert density.isfinite().all()
