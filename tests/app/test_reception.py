"""Who gets the next connection."""

import selectors
import socket
from collections.abc import Iterator

import pytest

from app.reception import Reception, Worker
from app.seat import CLOSED, STARTED, WARM


class Desk:
    """A reception on a free port, workers whose other ends are here, and clients."""

    def __init__(self, *said: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.workers: list[Worker] = []
        self.ends: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.selector = selectors.PollSelector()
        self.reception = Reception([self.listener], self.workers, self.selector)
        self.reception.is_open = True
        for each in said:
            self.add(each)

    def add(self, said: bytes) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.workers.append(Worker(len(self.workers), 0, ours))
        self.ends.append(theirs)
        if said:
            self.say(len(self.workers) - 1, said)

    def say(self, index: int, said: bytes) -> None:
        self.ends[index].sendall(said)
        self.workers[index].hear()

    def welcome(self, count: int = 1) -> list[int]:
        """Let clients come, one after the other; how many connections each worker then has."""
        for _ in range(count):
            self.clients.append(socket.create_connection(self.listener.getsockname(), timeout=10))
            self.turn()
        return [worker.connections for worker in self.workers]

    def turn(self) -> None:
        self.reception.heed()
        self.reception.accept({key.fileobj for key, _ in self.selector.select(0)})

    def close(self) -> None:
        self.reception.close()
        self.selector.close()
        for each in (*self.ends, *self.clients, *(worker.channel for worker in self.workers)):
            each.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(STARTED + WARM, STARTED + WARM, STARTED + WARM)
    made.reception.complete = True
    yield made
    made.close()


def test_connections_lie_evenly(desk: Desk) -> None:
    assert desk.welcome(9) == [3, 3, 3]
    assert desk.welcome(2) == [4, 4, 3], "round robin among equals"


def test_who_has_the_fewest_gets_the_next(desk: Desk) -> None:
    desk.welcome(9)
    desk.say(1, CLOSED * 2)
    assert desk.welcome(2) == [3, 3, 3]
    desk.say(2, CLOSED)
    assert desk.welcome() == [3, 3, 3]


def test_none_for_the_dead(desk: Desk) -> None:
    desk.ends[0].close()
    assert desk.welcome(4) == [0, 2, 2], "found out by giving"
    desk.ends[1].close()
    desk.workers[1].hear()
    assert desk.workers[1].gone
    assert desk.welcome(4) == [0, 2, 6]


def test_a_full_channel_is_passed_over_and_what_none_can_take_waits(desk: Desk) -> None:
    for worker in desk.workers:
        worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    counted = desk.welcome(100)
    assert sum(counted) < 100
    assert desk.reception.again_at()
    assert not desk.selector.get_map(), "nothing is accepted that none can take, and nothing spins"
    took = 0
    while took < 100:
        for end in desk.ends:
            end.setblocking(False)
            try:
                while files := socket.recv_fds(end, 1, 1)[1]:
                    socket.close(files[0])
                    took += 1
            except BlockingIOError:
                pass
        desk.turn()
    assert sum(worker.connections for worker in desk.workers) == 100


def test_none_for_who_has_not_started() -> None:
    desk = Desk(b"", STARTED)
    assert desk.welcome(2) == [0, 2]
    desk.close()


def test_no_worker_no_client_is_accepted() -> None:
    desk = Desk(b"")
    assert desk.welcome(3) == [0]
    assert not desk.selector.get_map()
    desk.say(0, STARTED)
    desk.turn()
    desk.turn()
    assert desk.workers[0].connections == 3, "they waited"
    desk.close()


def test_a_server_is_ready_when_all_of_it_is_and_from_then_on_whoever_is_not_is_left_out() -> None:
    desk = Desk(STARTED + WARM, STARTED)
    assert desk.welcome(3) == [0, 3]
    desk.reception.complete = True
    assert desk.welcome(5) == [5, 3]
    desk.ends[0].close()
    desk.workers[0].hear()
    assert desk.welcome() == [5, 4], "better than none"
    desk.close()
