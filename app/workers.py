"""Several server processes behind one port: their parent, which accepts every connection and serves none.

A socket that several processes accept from is emptied by whoever wakes up first, and connections that are kept for long
then lie unevenly for as long. Here the parent alone accepts (`reception`), and workers are told of each connection
(`seat`). A worker is a fork of the parent, which has loaded the code and no bundle, and runs no thread and no event
loop: it starts quickly, and what it does not write to is in memory once for all of them.
"""

import gc
import logging
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from app.errors import ConfigurationError
from app.listening import bound, listen, url
from app.reception import AGAIN, Reception, Worker
from app.seat import Seat
from app.settings import Settings
from model.bundle.onnx_runtime import onnx_runtime

logger = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT)
_STEADY_SECONDS = 10.0  # a worker that lived for so long is replaced at once
_PAUSES = (0.5, 30.0)  # seconds until another is: doubled each time, up to the latter


def check_workers(settings: Settings) -> None:
    """Raises ConfigurationError where more than one process is wanted and processes cannot be forked."""
    if settings.workers > 1 and not hasattr(os, "fork"):
        raise ConfigurationError("more than one worker needs a system that can fork, as Linux and macOS can")


def take_seat(settings: Settings) -> Seat:
    """Become the parent of so many workers. Returns in each worker, with its seat, and never in the parent.

    The parent ends in SystemExit when its workers have ended: with status 0 if it was told to, and with a worker's if
    that could not start, which has then said why. Raises ConfigurationError, or OSError if the address cannot be had.
    """
    check_workers(settings)
    parent = _Parent(settings)
    try:
        end = parent.run()
    except BaseException:
        parent.clean_up()
        raise
    if isinstance(end, Seat):
        return end
    parent.clean_up()
    sys.exit(end)


class _Parent:
    def __init__(self, settings: Settings) -> None:
        self._settings, self._pid = settings, os.getpid()
        self._listeners = bound(settings.host, settings.port)
        self._folder = Path(tempfile.mkdtemp(prefix="vae-"))  # for this user only
        self._workers: list[Worker] = []
        self._due = {0: 0.0}  # when to start a worker, by its index; the others follow when the first has started
        self._pauses = [0.0] * settings.workers
        self._ending, self._status = False, 0
        self._asked: int | None = None  # the signal
        self._leave_at: float | None = None
        self._wake, self._waker = socket.socketpair()
        # Of poll, which is no object of the kernel's: such a one would be shared with every fork.
        self._selector = selectors.PollSelector()
        self._reception = Reception(self._listeners, self._workers, self._selector)

    def run(self) -> Seat | int:
        """The seat, in a worker. In the parent, when all is over, its exit status."""
        self._await_signals()
        if os.environ.get("ORT_DISABLE_TELEMETRY") != "0":  # then it starts a thread, and would in each fork
            onnx_runtime()
        gc.collect()
        gc.freeze()  # a collection in a worker leaves alone what it shares
        while True:
            if (seat := self._start_due()) is not None:
                return seat
            self._leave()
            if self._ending and not self._workers:
                return self._status
            self._reception.heed()
            ready = {key.fileobj for key, _ in self._selector.select(self._timeout())}
            # What workers say comes first: who has how many, and who is no longer there.
            for worker in [each for each in self._workers if each.channel in ready]:
                self._hear(worker)
            if self._wake in ready:
                self._wake.recv(4096)
                self._reap()
            self._reception.accept(ready)

    def clean_up(self) -> None:
        """Leave no process and no file behind."""
        if os.getpid() == self._pid:
            self._kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _timeout(self) -> float | None:
        """Seconds until something is to be done though nothing happens."""
        times = [*self._due.values(), *self._reception.again_at()]
        now = time.monotonic()
        if self._leave_at is not None and not self._ending:
            times += [self._leave_at, *(now + AGAIN for worker in self._workers if not worker.told)]
        return max(0.0, min(times) - now) if times else None

    # Starting

    def _start_due(self) -> Seat | None:
        now = time.monotonic()
        for index in [index for index, due in self._due.items() if due <= now]:
            del self._due[index]
            if (seat := self._start(index)) is not None:
                return seat
        return None

    def _start(self, index: int) -> Seat | None:
        """In the new process, its seat."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until a worker ignores them
        try:
            if (pid := os.fork()) == 0:
                ours.close()
                self._forget()
                return Seat(index, self._settings.workers, self._folder, theirs)
        except OSError as error:
            ours.close()
            if not self._reception.is_open:
                raise
            logger.error("worker %d cannot be started: %s", index, error.strerror)
            self._due[index] = time.monotonic() + self._pause(index, 0)
        else:
            self._workers.append(Worker(index, pid, ours))
            self._selector.register(ours, selectors.EVENT_READ)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return None

    def _forget(self) -> None:
        """In a worker: what is the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        self._reception.forget()
        for each in (self._wake, self._waker, *(worker.channel for worker in self._workers)):
            each.close()

    def _hear(self, worker: Worker) -> None:
        worker.hear()
        if worker.gone:
            self._selector.unregister(worker.channel)
        if not (self._reception.is_open or self._ending):
            self._go_on_starting()
        if not self._reception.complete and sum(each.warm for each in self._workers) == self._settings.workers:
            self._reception.complete = True
            logger.info("all %d workers are ready", self._settings.workers)

    def _go_on_starting(self) -> None:
        """The first worker finds out whether it can be done; then come the others, and then clients."""
        started, wanted = sum(worker.started for worker in self._workers), self._settings.workers
        if started == wanted:
            listen(self._listeners, self._settings.host, self._settings.port)
            self._reception.is_open = True
            logger.info("running on %s with %d workers (Press CTRL+C to quit)", url(self._listeners[0]), wanted)
        elif started == len(self._workers) == 1:
            self._due = dict.fromkeys(range(1, wanted), 0.0)

    # Replacing

    def _reap(self) -> None:
        for worker in list(self._workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._workers.remove(worker)
                if worker.channel in self._selector.get_map():
                    self._selector.unregister(worker.channel)
                worker.channel.close()
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        who = f"worker {worker.index} (process {worker.pid})"
        how = f"was killed by {_name(-code)}" if code < 0 else f"ended with status {code}"
        status = 128 - code if code < 0 else code
        if self._ending or self._leave_at is not None:
            if worker.started and status and not self._status:
                logger.warning("%s %s before it had finished", who, how)
                self._status = status
        elif self._reception.is_open:
            pause = self._pause(worker.index, time.monotonic() - worker.began)
            self._due[worker.index] = time.monotonic() + pause
            logger.warning("%s %s; it is replaced %s", who, how, f"in {pause:g} seconds" if pause else "now")
        else:
            if code < 0:  # otherwise it has said why
                logger.error("%s %s before it could serve", who, how)
            self._end(status or 1)

    def _pause(self, index: int, lived: float) -> float:
        """Seconds until a worker that lived for so long is replaced."""
        least, most = _PAUSES
        self._pauses[index] = 0.0 if lived >= _STEADY_SECONDS else min(most, max(least, 2 * self._pauses[index]))
        return self._pauses[index]

    # Ending

    def _await_signals(self) -> None:
        for each in (self._wake, self._waker):
            each.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # heard through the socket
        for number in _ENDING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._asked is not None:  # whoever asks twice does not want to wait for anything
            self.clean_up()
            os._exit(128 + number)
        self._asked = number

    def _leave(self) -> None:
        """What a signal asks for: not ready at once; after ``drain_delay`` no more clients, and workers finish."""
        if self._asked is None or self._ending:
            return
        if not self._reception.is_open:
            self._end(128 + self._asked)
            return
        if self._leave_at is None:
            logger.info("draining: what runs is finished, and then the server ends; a second signal ends it at once")
            self._leave_at = time.monotonic() + self._settings.drain_delay
            self._due.clear()
        for worker in self._workers:
            if not worker.told and worker.started:
                worker.tell_to_leave()
            elif not worker.told:  # it has no connections
                os.kill(worker.pid, signal.SIGKILL)
                worker.told = True
        if time.monotonic() >= self._leave_at:
            self._ending = True
            self._reception.close()
            for worker in self._workers:
                worker.send_off()

    def _end(self, status: int) -> None:
        """All of it, at once."""
        self._ending, self._status = True, status
        self._due.clear()
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
