"""beta along a run: a function of the step, from 0 to 1, where the settings say."""

import pytest

from training.objectives.schedule import height
from training.objectives.settings import Constant, Cyclical, Schedule, Warmup

TOTAL, PER_EPOCH = 100, 10


def heights(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [height(schedule, step, total_steps=total, steps_per_epoch=PER_EPOCH) for step in range(total)]


def test_a_constant_is_one() -> None:
    assert set(heights(Constant(kind="constant"))) == {1.0}


@pytest.mark.parametrize("epochs", [0.5, 1.0, 3.0])
def test_a_warm_up_rises_in_a_line_over_its_epochs_and_stays(epochs: float) -> None:
    steps = int(epochs * PER_EPOCH)
    found = heights(Warmup(kind="warmup", over_epochs=epochs))
    assert found[:steps] == pytest.approx([step / steps for step in range(steps)])
    assert set(found[steps:]) == {1.0}


@pytest.mark.parametrize(("cycles", "rising"), [(1, 0.5), (4, 0.5), (5, 1.0), (10, 0.2)])
def test_every_cycle_is_the_same_and_rises_in_its_first_share(cycles: int, rising: float) -> None:
    """Fu et al. (2019): tau = (t mod T/M) / (T/M), beta = min(1, tau / R)."""
    found = heights(Cyclical(kind="cyclical", cycles=cycles, rising=rising))
    period = TOTAL // cycles
    expected = [min(1.0, step / period / rising) for step in range(period)]
    assert found == pytest.approx(expected * cycles)


def test_cycles_that_do_not_divide_the_run_are_rounded_up() -> None:
    """Their ceil(T / M): 34 steps of 100 in 3 cycles, the last one cut short."""
    found = heights(Cyclical(kind="cyclical", cycles=3))
    assert [step for step, value in enumerate(found) if value == 0] == [0, 34, 68]
    assert max(found) == 1


def test_one_cycle_is_a_warm_up() -> None:
    assert heights(Cyclical(kind="cyclical", cycles=1, rising=0.3)) == pytest.approx(
        heights(Warmup(kind="warmup", over_epochs=3))
    )
