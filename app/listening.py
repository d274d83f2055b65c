"""Sockets for a host and a port: bound first, so that an address that cannot be had ends the start; listening later."""

import errno
import os
import socket

BACKLOG = 2048  # as uvicorn's


def bound(host: str, port: int) -> list[socket.socket]:
    """A socket for every address that the name stands for, all with one port; until they listen, clients are refused.

    Raises OSError with ADDRESS:PORT as its file name if there is none, or if one is already in use.
    """
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    own_port = port
    try:
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            try:
                each = socket.socket(family, kind, protocol)
            except OSError as error:  # a protocol that the machine does not speak
                failures.append(error)
                continue
            try:
                _bind(each, (address[0], own_port, *address[2:]))
            except OSError as error:
                each.close()
                failures.append(error)
            else:
                sockets.append(each)
                own_port = own_port or each.getsockname()[1]
    except OSError as error:  # a name that is none
        failures.append(error)
    taken = next((failure for failure in failures if failure.errno == errno.EADDRINUSE), None)
    if taken is not None or not sockets:
        for each in sockets:
            each.close()
        raise _named(taken or failures[0], host, port)
    return sockets


def listen(sockets: list[socket.socket], host: str, port: int) -> None:
    """Let clients in. Raises OSError with ADDRESS:PORT as its file name: another may have bound it, and been faster."""
    try:
        for each in sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
    except OSError as error:
        raise _named(error, host, port) from None


def url(listener: socket.socket) -> str:
    """Where clients find it.

    >>> with socket.create_server(("127.0.0.1", 0)) as listener:
    ...     url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    True
    """
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(each: socket.socket, address: tuple[object, ...]) -> None:
    if os.name == "posix":  # as asyncio does: an address that was just left may be taken again
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if each.family == socket.AF_INET6:  # the other protocol's addresses are sockets of their own
        each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    each.bind(address)


def _named(error: OSError, host: str, port: int) -> OSError:
    return OSError(error.errno, error.strerror, f"{host}:{port}")
