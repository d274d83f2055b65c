"""Fetch one checked file from the first mirror that has it; on failure nothing is left behind."""

import http.client
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError

from model.bundle.files import write_bytes_atomically
from training.data.dataset import Progress
from training.errors import DataError

_CHUNK = 1 << 18
_LARGEST = 1 << 28


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    check: Callable[[bytes, str], object],
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Write the first of ``urls`` that can be fetched and passes ``check(data, url)`` to ``destination``.

    It is checked in memory and appears under its name complete or not at all. ``timeout``: seconds without a byte.

    Raises:
        DataError: no mirror gave the file (the message has each one's reason), or ``destination`` cannot be written.
    """
    reasons: list[str] = []
    for url in urls:
        try:
            data = _fetch(url, destination.name, progress, timeout)
            check(data, url)
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(_reason(url, error))
            continue
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(destination, data)
        except OSError as error:
            raise DataError(f"{destination}: cannot be written: {error.strerror}") from error
        return destination
    raise DataError("; ".join(reasons) or "no mirror is known")


def _fetch(url: str, what: str, progress: Progress | None, timeout: float) -> bytes:
    with _opener().open(url, timeout=timeout) as response:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced and announced.isdecimal() else 0
        pieces: list[bytes] = []
        done = 0
        while piece := response.read(_CHUNK):
            pieces.append(piece)
            done += len(piece)
            if done > _LARGEST:
                raise DataError(f"more than {_LARGEST >> 20} MiB")
            if progress is not None:
                progress(f"downloading {what}", done, total)
    # http.client ends a piecewise read of a broken-off transfer without an error.
    if total and done != total:
        raise DataError(f"the transfer broke off after {done} of {total} bytes")
    return b"".join(pieces)


def _opener() -> request.OpenerDirector:
    """HTTP and HTTPS, with proxies and redirects; unlike ``urlopen``, it cannot be led to a ``file:`` address."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _reason(url: str, error: Exception) -> str:
    host = url.split("/")[2] if url.count("/") >= 2 else url
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    text = str(cause) or type(error).__name__
    return text if host in text else f"{host}: {text}"
