"""The address to listen on: whether it can be had, and whether what listens there is open to strangers."""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.settings import Settings

logger = logging.getLogger(__name__)

# What Docker and Podman leave in a container.
_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
# What Kubernetes sets, and what systemd-nspawn, LXC and Podman do.
_VARIABLES = ("KUBERNETES_SERVICE_HOST", "container")


def check_address(host: str, port: int) -> None:
    """Raises OSError with ADDRESS:PORT as its file name if nothing can listen there; uvicorn would log it and exit."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        failures = [failure for each in found if (failure := _try_address(*each)) is not None]
    except OSError as error:
        failures, found = [error], []
    # A name may stand for an address of a protocol that the machine does not speak.
    if len(failures) >= max(1, len(found)) or any(failure.errno == errno.EADDRINUSE for failure in failures):
        raise OSError(failures[0].errno, failures[0].strerror, f"{host}:{port}")


def check_exposure(settings: Settings) -> None:
    """Without API keys, listen on loopback addresses only, or in a container, whose ports are opened from outside.

    Raises ConfigurationError; with ``allow_insecure``, and in a container, there is a warning in the log instead.
    """
    if not is_exposed(settings):
        return
    if in_container():
        logger.warning("no API keys: whoever reaches a port that is published for this container is served")
        return
    where = settings.host or "every address"
    if not settings.allow_insecure:
        raise ConfigurationError(
            f"{where} can be reached from other machines, and there are no API keys: set VAE_API_KEYS, or "
            "listen on 127.0.0.1, or say --allow-insecure if whoever can reach this machine may use it"
        )
    logger.warning("INSECURE: listening on %s without API keys; whoever can reach this machine may use it", where)


def is_exposed(settings: Settings) -> bool:
    """Does it listen to more than this machine, or this container, without a key? Raises OSError for a bad key file."""
    return not settings.all_api_keys() and not is_loopback(settings.host)


def is_loopback(host: str) -> bool:
    """Does every address that this name stands for lead back to this machine? A name unknown here does not.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
    except (OSError, ValueError):
        return False


def in_container(environment: Mapping[str, str] | None = None) -> bool:
    """Does this process run in a container of Docker, Podman, Kubernetes or LXC?"""
    environment = os.environ if environment is None else environment
    return any(mark.exists() for mark in _MARKS) or any(environment.get(name) for name in _VARIABLES)


def _try_address(family: int, kind: int, protocol: int, _: str, address: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # as asyncio does: an address that was just left may be taken again
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None
