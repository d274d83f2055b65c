"""Docker and Compose as their users have them: the commands, bounded in time, and what the engine knows."""

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import lack, needs

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim-bookworm"

# As .ci/engine has it: Debian's client belongs to Debian's engine.
_PATH = os.pathsep.join(("/usr/bin", os.environ.get("PATH", os.defpath)))


def _environment(**variables: str) -> dict[str, str]:
    """Ours without what would change compose.yaml's meaning, and with those given."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("VAE_", "COMPOSE_", "GRAFANA_"))}
    return ours | {"PATH": _PATH} | variables


def run(*command: str, timeout: float = 120, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository's root, with its output; an AssertionError tells all of it if it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=_environment(**variables),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def docker(*arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``docker ...``"""
    return run("docker", *arguments, timeout=timeout, check=check)


def require_engine() -> None:
    """Skip the test, or fail it, where no engine answers or the base image is missing."""
    needs("docker")
    if docker("info", timeout=30, check=False).returncode != 0:
        lack("no Docker engine answers (make test-docker starts one)")
    if docker("image", "inspect", BASE, timeout=30, check=False).returncode != 0:
        lack(f"there is no image {BASE} (make test-docker gets one)")


def compose_command() -> list[str]:
    """Compose 1.29, or the one that came after it, whichever is there; without any, the test cannot run."""
    if shutil.which("docker-compose", path=_PATH):
        return ["docker-compose"]
    if docker("compose", "version", timeout=30, check=False).returncode == 0:
        return ["docker", "compose"]
    lack("docker-compose is not installed")
    return []


def inspected(name: str, *, kind: str = "container") -> Any:
    """What the engine knows about a container or an image."""
    return json.loads(docker(kind, "inspect", name).stdout)[0]


def size(image: str) -> int:
    """Bytes of an image's files, those of its base included: of every layer, unpacked.

    What ``docker image inspect`` calls ``Size`` is that too in most engines. Where containerd keeps the images, it also
    counts them packed.
    """
    return sum(int(layer) for layer in docker("history", "--human=false", "--format={{.Size}}", image).stdout.split())


def dangling() -> set[str]:
    """Images without a name, as builds leave them."""
    return set(docker("image", "ls", "--quiet", "--no-trunc", "--filter", "dangling=true").stdout.split())


class Project:
    """compose.yaml under a name of its own, published on a free port of 127.0.0.1."""

    def __init__(self, folder: Path = ROOT, image: str = "", **variables: str) -> None:
        self.name = f"latentserve-test-{secrets.token_hex(4)}"
        self.image = image or f"{self.name}:test"
        self._variables = {"VAE_IMAGE": self.image, "VAE_PUBLISH_PORT": "0"} | variables
        file = str(ROOT / "compose.yaml")
        self._command = [*compose_command(), "-f", file, "--project-directory", str(folder), "-p", self.name]

    def compose(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker-compose ...``, or ``docker compose ...`` where that is what there is."""
        return run(*self._command, *arguments, timeout=timeout, check=check, **self._variables)

    @property
    def container(self) -> str:
        """The id of the server's container, running or not."""
        of = [f"--filter=label=com.docker.compose.{label}" for label in (f"project={self.name}", "service=vae")]
        return docker("container", "ls", "--all", "--quiet", *of).stdout.split()[0]

    @property
    def address(self) -> str:
        """Where the server is published, as HOST:PORT."""
        return self.compose("port", "vae", "8000").stdout.strip()

    def wait_until_healthy(self, seconds: float = 180) -> None:
        """Until the image's HEALTHCHECK is content."""
        deadline = time.monotonic() + seconds
        while (state := inspected(self.container)["State"])["Health"]["Status"] != "healthy":
            if state["Status"] != "running" or state["Health"]["Status"] == "unhealthy" or time.monotonic() > deadline:
                logs = docker("logs", self.container, check=False)
                raise AssertionError(f"{json.dumps(state, indent=1)}\n{logs.stdout}\n{logs.stderr}")
            time.sleep(0.25)


@contextmanager
def up(project: Project) -> Iterator[Project]:
    """The project, running and healthy; it is gone afterwards, with its volumes and networks."""
    try:
        project.compose("up", "-d", timeout=300)
        project.wait_until_healthy()
        yield project
    finally:
        project.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


@contextmanager
def built(project: Project) -> Iterator[None]:
    """Build the project's image; afterwards it is gone, with the images of its build."""
    before, log = dangling(), ""
    try:
        done = project.compose("build", timeout=1500, check=False)
        log = done.stdout + done.stderr
        assert done.returncode == 0, log
        yield
    finally:
        docker("image", "rm", "--force", project.image, check=False)
        steps = tuple(re.findall(r"^ ---> ([0-9a-f]{12})$", log, re.MULTILINE))  # others may build at the same time
        left = [each for each in dangling() - before if each.removeprefix("sha256:").startswith(steps)]
        if steps and left:
            docker("image", "rm", "--force", *left, check=False)
