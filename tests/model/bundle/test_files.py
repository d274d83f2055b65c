"""A file is there whole, or as it was."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from model.bundle.files import sha256_of, write_bytes_atomically, write_text_atomically


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for data in (b"", b"one", b"two" * 100_000):
        write_bytes_atomically(path, data)
        assert path.read_bytes() == data
        assert sha256_of(path) == hashlib.sha256(data).hexdigest()
    write_text_atomically(path, "σ²\n")
    assert path.read_bytes() == "σ²\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """The server often runs as another user than the training did."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_bytes_atomically(tmp_path / "atomic", b"")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
