"""Work side by side: the order and the results of doing it one after the other, and nothing left behind."""

import time
from collections.abc import Iterator

import pytest
import torch

from training.parallel import map_side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_results_come_in_the_order_of_the_items() -> None:
    assert list(map_side_by_side(lambda n: n * n, range(50), CPU)) == [n * n for n in range(50)]


@pytest.mark.usefixtures("_three_threads")
def test_each_piece_has_one_thread_and_the_caller_gets_its_own_back() -> None:
    threads = list(map_side_by_side(lambda _: torch.get_num_threads(), range(9), CPU))
    assert threads == [1] * 9
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_an_error_ends_the_work_and_gives_the_threads_back() -> None:
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        time.sleep(0.01 if n else 0)  # or all would be done before the caller hears of the error
        return 1 // n

    with pytest.raises(ZeroDivisionError):
        list(map_side_by_side(work, [1, 0, *range(1, 100_000)], CPU))
    assert torch.get_num_threads() == 3
    assert len(begun) < 100_000
