"""Many clients at once, each with a request always on its way, and what became of every request."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import httpx


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send."""

    method: str
    path: str
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it began and ended (``time.monotonic``), and its answer or the lack of one."""

    request_id: str
    began: float
    ended: float
    status: int | None
    """None: the connection was refused or closed, and not a byte of an answer came."""
    body: bytes
    broken: bool
    """An answer began and did not come to its end."""

    @property
    def problem(self) -> str | None:
        """The last word of the problem's type, where the answer is one."""
        try:
            return str(json.loads(self.body)["type"]).rpartition(":")[2] if self.status != 200 else None
        except ValueError:
            return None


class Load:
    """Threads that ask in turn, one after the other: half keep their connection, half take a new one each time.

    A thread ends with the first request that gets no answer at all, or when ``stop`` is called.
    """

    def __init__(self, url: str, asks: Sequence[Ask], *, threads: int) -> None:
        self.outcomes: list[Outcome] = []
        self._in_flight: set[str] = set()
        self._url, self._asks = url, asks
        self._stopping = threading.Event()
        self._numbers = count()
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; wait for those that are on their way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self._threads), "a request neither ended nor timed out"

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        """Until something holds that the outcomes tell."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def in_flight(self) -> frozenset[str]:
        """Requests that were begun and have not ended."""
        return frozenset(self._in_flight)

    def _work(self, number: int) -> None:
        keep = number % 2 == 0
        limits = httpx.Limits(max_keepalive_connections=1 if keep else 0)
        with httpx.Client(base_url=self._url, timeout=60, limits=limits) as client:
            for turn in count(number):
                outcome = self._ask(client, self._asks[turn % len(self._asks)])
                self.outcomes.append(outcome)
                if outcome.status is None or self._stopping.is_set():
                    return

    def _ask(self, client: httpx.Client, ask: Ask) -> Outcome:
        request_id = f"load-{next(self._numbers)}"
        headers = {"x-request-id": request_id} | ask.headers
        status, body, broken, began = None, b"", False, time.monotonic()
        self._in_flight.add(request_id)
        try:
            with client.stream(ask.method, ask.path, content=ask.content, headers=headers) as response:
                status, broken = response.status_code, True
                body, broken = response.read(), False
        except (httpx.NetworkError, httpx.ProtocolError):  # not a timeout: that ends the thread, and fails the test
            pass
        finally:
            self._in_flight.discard(request_id)
        return Outcome(request_id, began, time.monotonic(), status, body, broken)
