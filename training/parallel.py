"""Independent pieces of PyTorch work side by side on a CPU's cores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_side_by_side(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """``work`` of every item, in order; on a CPU as many at a time as PyTorch has threads, each on one of them.

    Small tensors leave the threads of one operation waiting for each other; whole pieces of work need not meet.
    An accelerator gets one piece after the other. An error in ``work`` ends the iteration and what has not begun.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(work, items)
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
