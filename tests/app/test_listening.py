"""Sockets that are bound, and only then listen."""

import errno
import socket
import sys

import pytest

from app.listening import bound, listen, url


def test_clients_are_refused_until_it_listens() -> None:
    (each,) = bound("127.0.0.1", 0)
    with each:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(each.getsockname(), timeout=10)
        listen([each], "127.0.0.1", 0)
        socket.create_connection(each.getsockname(), timeout=10).close()
        assert url(each) == f"http://127.0.0.1:{each.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not there by itself")
def test_all_addresses_of_a_name_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sockets = bound("both", 0)
    assert len(sockets) == 2
    assert len({each.getsockname()[1] for each in sockets}) == 1
    for each in sockets:
        each.close()


def test_what_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            bound("127.0.0.1", port)
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, f"127.0.0.1:{port}")
    with pytest.raises(OSError) as caught:
        bound("192.0.2.1", 1)
    assert caught.value.filename == "192.0.2.1:1"
    with pytest.raises(OSError) as caught:
        bound("no such name", 1)
    assert caught.value.filename == "no such name:1"


def test_another_may_be_faster() -> None:
    (first,) = bound("127.0.0.1", 0)
    port = first.getsockname()[1]
    try:
        (second,) = bound("127.0.0.1", port)
    except OSError:
        pytest.skip("two sockets cannot be bound to one address here")
    with first, second:
        listen([first], "127.0.0.1", port)
        with pytest.raises(OSError) as caught:
            listen([second], "127.0.0.1", port)
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, f"127.0.0.1:{port}")
