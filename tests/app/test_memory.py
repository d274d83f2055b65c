"""Memory goes back where the C library can return it, and nothing happens where it cannot."""

import ctypes
import sys

import pytest

from app.memory import trim


def test_what_is_free_goes_back() -> None:
    assert trim() in (True, False)
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim  # noqa: B018  (glibc has it, so that the call above was one)


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_have_nothing_to_call(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert trim() is False
