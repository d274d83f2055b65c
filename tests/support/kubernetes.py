"""docker/kubernetes as a cluster would get it: rendered by the real kustomize, which kubectl has built in."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.programs import lack, needs

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "kubernetes"
Manifest = dict[str, Any]
_OLDEST = 5  # of kustomize: it knows `labels`, `components`, and patches of every form


def rendered(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k folder` would send. Kustomize must have nothing to warn of."""
    done = _run(_kubectl(), "kustomize", str(folder))
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """The one manifest of a kind."""
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def containers(deployment: Manifest) -> list[Manifest]:
    """Those that serve and those that prepare."""
    pod = deployment["spec"]["template"]["spec"]
    return [*pod["containers"], *pod.get("initContainers", [])]


def in_bytes(quantity: str) -> int:
    """
    >>> in_bytes("512Mi"), in_bytes("2Gi")
    (536870912, 2147483648)
    """
    return int(quantity[:-2]) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


def _kubectl() -> str:
    kubectl = needs("kubectl")
    try:
        version = json.loads(_run(kubectl, "version", "--client", "-o", "json").stdout).get("kustomizeVersion", "v0")
    except ValueError:
        version = "v0"
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST:
        lack(f"kubectl is too old; its kustomize must be v{_OLDEST} or newer")
    return kubectl


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # No configuration of a user's, so that no cluster is ever asked anything.
    environment = os.environ | {"KUBECONFIG": os.devnull}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
