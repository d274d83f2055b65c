"""The threads that run graphs: as many as may compute at a time, shared by the graphs of all models.

Several runs on a thread each get more out of the cores than one run on several: nothing in a graph has to wait for its
slowest part. Graphs take turns, so that a busy model slows another down by its share and no more.
"""

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Protocol


class Source(Protocol):
    """Where work comes from. All but the work itself is called with `Runners.changed` held."""

    def take(self) -> Callable[[], None] | None:
        """The next piece of work, or None if nothing is left."""

    def has_more(self) -> bool:
        """Would `take` give something?"""


class Runners:
    """``offer`` a source that has work; it is asked for a piece a turn, by whichever thread is free."""

    def __init__(self, count: int) -> None:
        self.changed = Condition()
        self._sources: deque[Source] = deque()
        self._closed = False
        self._threads = [Thread(target=self._work, name=f"runner-{i}", daemon=True) for i in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, each after the piece that it works on. Blocks for as long as that takes."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def offer(self, source: Source) -> None:
        """Let a source have its turns until nothing is left. With `changed` held."""
        if source not in self._sources:
            self._sources.append(source)
        self.changed.notify()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._closed or self._sources)
                if self._closed:
                    return
                source = self._sources.popleft()
                work = source.take()
                if source.has_more():
                    self.offer(source)  # another thread may go on with it, after those that wait
            if work is not None:
                work()
