"""torch.distributions with the types that it leaves out, and whether draws are of a distribution."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution


def log_density(distribution: Distribution, values: Tensor) -> Tensor:
    """``distribution.log_prob(values)``."""
    function: Callable[[Tensor], Tensor] = distribution.log_prob
    return function(values)


def within_four_errors(samples: Tensor, expected: Tensor) -> None:
    """Assert that the mean of samples ``(N, ...)`` is within four standard errors of what it should be."""
    error = samples.double().std(0) / math.sqrt(len(samples))
    assert ((samples.double().mean(0) - expected).abs() <= 4 * error + 1e-9).all()
