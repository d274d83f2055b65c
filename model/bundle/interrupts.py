"""Ctrl-C while libraries are imported. This imports next to nothing, for it has to be there first."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def quick_exit() -> Iterator[None]:
    """Around imports: what Ctrl-C would raise is a traceback, or an ImportError to libraries in C that are begun."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or current_thread() is not main_thread():
        yield  # someone else's to decide
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
