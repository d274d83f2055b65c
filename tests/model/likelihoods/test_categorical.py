"""The categorical is torch.distributions', for every value of an image its own."""

import torch
from torch import Generator, distributions

from model.likelihoods import Categorical
from tests.support.densities import log_density


def test_log_prob_is_that_of_torch_distributions(generator: Generator) -> None:
    """The logits of the first channel come first."""
    logits = torch.randn(4, 3, 256, 5, 7, generator=generator)
    levels = torch.randint(0, 256, (4, 3, 5, 7), generator=generator)
    expected = log_density(distributions.Categorical(logits=logits.movedim(2, -1)), levels).sum((-3, -2, -1))
    torch.testing.assert_close(Categorical().log_prob(logits.flatten(1, 2), levels / 255), expected)


def test_of_all_distributions_with_a_mean_it_begins_with_that_of_most_entropy() -> None:
    """Whose logits are a straight line."""
    logits = Categorical().parameters_for(torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1)).view(3, 256)
    steps = logits.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-5)
    assert steps[0, 0] < 0
    assert abs(steps[1, 0]) < 1e-4
    assert steps[2, 0] > 0
