"""docker/*.py: what runs while an image is built, and what asks a container how it is."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deployment.test_images import DOCKER, ROOT


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As the image runs it: isolated, and without site-packages."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("VAE_")}
    return subprocess.run(
        [sys.executable, "-I", "-S", str(DOCKER / f"{name}.py"), *arguments],
        cwd=ROOT,
        env=ours | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port of 127.0.0.1 that gives one answer, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(30)


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}", False),
        (b"SSH-2.0-200\r\n", False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", ""])
def test_healthcheck(host: str, answer: bytes, healthy: bool) -> None:
    with answering(answer) as (port, asked):
        done = script("healthcheck", VAE_HOST=host, VAE_PORT=str(port))
    assert (done.returncode == 0) == healthy, done.stderr
    assert asked[0].startswith(b"GET /readyz HTTP/1.0\r\n")


def test_healthcheck_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert script("healthcheck", VAE_PORT=str(port)).returncode != 0


def test_requirements() -> None:
    plain, traced = (script("requirements", *extras).stdout.split("\n") for extras in ([], ["telemetry"]))
    assert any(line.startswith("onnxruntime>=") for line in plain)  # gpu.Dockerfile puts another in its place
    assert not any(line.startswith(("torch", "scipy", "pytest")) for line in plain)
    assert set(plain) < set(traced)
    assert script("requirements", "telemetri").returncode != 0


def test_slim(tmp_path: Path) -> None:
    for name in ("google/protobuf/x.py", "numpy/lib/tests/x.py", "numpy/lib/x.py", "numpy/lib/x.pyi", "rich/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = script("slim", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.py*")) == [
        "numpy/lib/x.py",
        "rich/x.py",
    ]
    assert "slim: pygments matches nothing\n" in done.stderr


def test_slim_leaves_what_traces_need(tmp_path: Path) -> None:
    for name in ("google/protobuf/x.py", "opentelemetry/exporter/x.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert script("slim", str(tmp_path)).returncode == 0
    assert (tmp_path / "google/protobuf/x.py").exists()
