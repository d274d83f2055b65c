"""Memory goes back where the C library can return it, and nothing happens where it cannot."""

import ctypes

import pytest

from app.memory import trim


def test_the_library_of_the_process_is_asked_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, int]] = []

    class Library:
        def __init__(self, name: object) -> None:
            self.name = name

        def malloc_trim(self, keep: int) -> int:
            asked.append((self.name, keep))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert trim() is True
    assert asked == [(None, 0)]


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_have_nothing_to_call(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert trim() is False
