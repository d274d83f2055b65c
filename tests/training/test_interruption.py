"""The first signal is a wish, the second one an order, and afterwards everything is as it was."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from training.interruption import Interruption


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C: a process that was started in the background ignores it instead."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@SIGNALS
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_the_second_signal_acts_as_ever() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:  # noqa: PT012 (two signals are the point)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        os.kill(os.getpid(), signal.SIGINT)


@SIGNALS
def test_handlers_come_back_after_an_error(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(ZeroDivisionError), Interruption():
        os.kill(os.getpid(), number // 0)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def enter() -> None:
        with Interruption() as interruption:
            seen.extend([signal.getsignal(signal.SIGTERM), interruption.requested])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before, False]
