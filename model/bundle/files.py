"""Files that are either there whole or not at all: temporary name, fsync, rename, fsync of the folder."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path


def expand_home(path: Path) -> Path:
    """`~` at the beginning is the home folder, of the user that it names or of this one; as it is where there is none.

    A shell does this for what it sees as a path of its own: not in a file, nor after `=`.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file that after a crash holds either what it held before or all of `data`.

    Raises OSError where the disk does; the temporary file is then gone and the old file untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # "x" rather than tempfile: the permissions follow the umask, so that a server of another user may read.
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for text, as UTF-8."""
    write_bytes_atomically(path, text.encode())


def sync(path: Path) -> None:
    """fsync a file or, where the system can open folders, a folder: a rename is durable only with its folder."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
