"""A contender's processes: started in a session of their own, found wherever they went, measured, and always ended.

Servers start helpers, and some of these leave the tree: their parent ends, or they make sessions of their own. So a
process belongs to a contender if it descends from the one that was started, is in its session, or has its mark in the
environment, and once it was seen it stays known.
"""

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dialects import Request

MARK = "LATENTSERVE_BENCH"
PROC = Path("/proc")
# What a server may see of the environment that the benchmark was started in.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


class StartFailed(Exception):
    """A server ended before it answered, or did not answer in time; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of a contender together, in MiB.

    ``pss`` counts a page that several share in parts, once in all; ``rss`` counts it for each. ``peak`` is the sum of
    what each process had at most, at any time, as ``rss``.
    """

    rss: float
    pss: float
    peak: float
    processes: int


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def ask(port: int, request: Request, timeout: float = 30) -> tuple[int, bytes]:
    """Send one request on a connection of its own: status and body. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(request.method, request.path, request.body or None, request.headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Server:
    """A process that was started, and all that it starts. Use ``started``."""

    def __init__(self, command: Sequence[str], *, environment: dict[str, str], folder: Path, log: Path) -> None:
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._known: set[tuple[int, int]] = set()
        self.log = log
        clean = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with log.open("wb") as output:
            self.began = time.perf_counter()
            self.process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=clean | environment | {MARK: self._token},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """All that belong to it and are alive."""
        found = _table()
        tree, waiting = set(), [self.process.pid]
        while waiting:
            parent = waiting.pop()
            tree.add(parent)
            waiting += [pid for pid, entry in found.items() if entry.parent == parent and pid not in tree]
        for pid, entry in found.items():
            if pid in tree or entry.session == self.process.pid or self._is_marked(pid):
                self._known.add((pid, entry.began))
        return [pid for pid, began in self._known if pid in found and found[pid].began == began]

    def _is_marked(self, pid: int) -> bool:
        try:
            return f"{MARK}={self._token}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is someone else's
            return False

    def check_alive(self) -> None:
        """Raises StartFailed if the process that was started has ended."""
        status = self.process.poll()
        if status is not None:
            raise StartFailed(f"ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, in one line."""
        text = self.log.read_text(encoding="utf-8", errors="replace").strip()
        return " | ".join(line.strip() for line in text.splitlines()[-6:])[-600:]

    def memory(self) -> Memory:
        """Now, and the peaks until now."""
        totals = {"Rss": 0, "Pss": 0, "VmHWM": 0}
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(OSError):
                for file in ("smaps_rollup", "status"):
                    for line in (PROC / str(pid) / file).read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name in totals:
                            totals[name] += int(value.split()[0])
        rss, pss, peak = (round(kib / 1024, 1) for kib in totals.values())
        return Memory(rss, pss, peak, len(pids))

    def end(self, patience: float = 10) -> None:
        """Ask it to end, wait, and kill what is left, each by its own id."""
        with contextlib.suppress(OSError):
            if self.process.poll() is None and self.pids():
                self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        deadline = time.monotonic() + 30
        while left := self.pids():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {left} cannot be ended")
            time.sleep(0.02)
        self.process.wait(30)


@contextlib.contextmanager
def started(
    command: Sequence[str], *, environment: dict[str, str], folder: Path, log: Path, patience: float = 10
) -> Iterator[Server]:
    """A server that was started; none of its processes is left afterwards, whatever happens."""
    server = Server(command, environment=environment, folder=folder, log=log)
    try:
        yield server
    finally:
        server.end(patience)


@dataclass(frozen=True, slots=True)
class _Entry:
    parent: int
    session: int
    began: int
    """Clock ticks after the machine's start: with it a process is told from a later one of the same id."""


def _table() -> dict[int, _Entry]:
    """Every process that is not yet dead."""
    found = {}
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        # The name, in parentheses, may hold anything; behind it stand state, parent, group, session, ...
        fields = text[text.rindex(")") + 2 :].split()
        if fields[0] not in "ZX":
            found[int(folder.name)] = _Entry(int(fields[1]), int(fields[3]), int(fields[19]))
    return found
