r"""How beta changes along a run: a function of the step alone, so that a resumed run needs no state for it.

Bowman et al. (2016) and Sønderby et al. (2016) warm it up once; Fu et al. (2019) again and again, M times in T
steps, rising in the first share R of each cycle:

.. math:: \beta_t = \beta \min(1, \tau / R), \qquad \tau = \frac{t \bmod \lceil T / M \rceil}{T / M}
"""

import math

from training.objectives.settings import Constant, Cyclical, Schedule, Warmup


def height(schedule: Schedule, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
    """What beta is multiplied by at update ``step`` (from 0), between 0 and 1.

    >>> cyclical = Cyclical(kind="cyclical", cycles=2, rising=0.5)
    >>> [height(cyclical, step, total_steps=8, steps_per_epoch=1) for step in range(8)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0]
    """
    match schedule:
        case Constant():
            return 1.0
        case Warmup(over_epochs=epochs):
            return min(1.0, step / (epochs * steps_per_epoch))
        case Cyclical(cycles=cycles, rising=rising):
            period = total_steps / cycles
            return min(1.0, step % math.ceil(period) / period / rising)
