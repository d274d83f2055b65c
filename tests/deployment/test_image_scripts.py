"""docker/*.py: what runs while an image is built, and what asks a container how it is."""

import os
import runpy
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


class TestSlim:
    """On an environment with a file for each pattern; its ``strip`` writes down what it is given."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        lists = runpy.run_path(str(DOCKER / "slim.py"))
        site = tmp_path / "site-packages"
        for pattern in (*lists["UNNEEDED"], *lists["STRIPPED"]):
            write(site / pattern.replace("**", "some/where").replace("*", "x"))
        for name in ("numpy/lib/x.py", "rich/x.py"):
            write(site / name)
        write(tmp_path / "bin" / "strip", f'#!/bin/sh\necho "$@" >>{tmp_path}/stripped\n').chmod(0o755)
        return site

    @staticmethod
    def slim(site: Path) -> subprocess.CompletedProcess[str]:
        return script("slim", str(site), PATH=f"{site.parent / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def test_takes_what_is_listed(self, site: Path) -> None:
        done = self.slim(site)
        assert done.returncode == 0, done.stderr
        left = {str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()}
        assert left == {"numpy/lib/x.py", "rich/x.py", "uvloop/x.so", "httptools/parser/x.so", "PIL/x.so"}
        stripped = (site.parent / "stripped").read_text(encoding="utf-8").split()
        assert {Path(word) for word in stripped} == {Path("--strip-unneeded")} | set(site.rglob("*.so"))

    def test_says_which_pattern_matches_nothing(self, site: Path) -> None:
        (site / "pygments").unlink()
        (site / "uvloop" / "x.so").unlink()
        (site / "numpy" / "distutils").unlink()  # which NumPy has for one version of Python only
        done = self.slim(site)
        assert (done.returncode, done.stderr) == (1, "slim: nothing matches pygments, uvloop/*.so\n")

    def test_leaves_what_traces_need(self, site: Path) -> None:
        write(site / "opentelemetry" / "exporter" / "x.py")
        assert self.slim(site).returncode == 0
        assert (site / "google").exists()


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
