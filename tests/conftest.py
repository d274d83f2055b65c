"""What every test shares."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """A run sets how its process computes, threads and denormal numbers: for itself, and not for the tests after it."""
    torch = sys.modules.get("torch")  # which is not imported for those that do without
    if torch is None:
        yield
        return
    torch.set_flush_denormal(False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)
