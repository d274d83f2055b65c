"""torch.distributions with the types that it leaves out."""

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution


def log_density(distribution: Distribution, values: Tensor) -> Tensor:
    """``distribution.log_prob(values)``."""
    function: Callable[[Tensor], Tensor] = distribution.log_prob
    return function(values)
