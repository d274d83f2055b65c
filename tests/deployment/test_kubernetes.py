"""docker/kubernetes: what kustomize makes of it fits Kubernetes' schemas, and agrees with the server it runs."""

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.service import create_app
from app.settings import Settings
from model.bundle.store import open_bundle
from tests.support.kubernetes import FOLDER, Manifest, containers, in_bytes, only, rendered
from tests.support.tiny import write_tiny_bundle

ROOT = FOLDER.parents[1]
VARIANTS = ("base", "overlays/bundles", "overlays/gpu")
# The oldest that has all that is used, and the newest that the checker knows.
VERSIONS = ("1.31", kubernetes_validate.latest_version())

# What a user may write: both components, a registry, a namespace, a setting.
OWN = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: vae
resources: [../base]
components: [../components/gpu, ../components/bundles]
configMapGenerator:
  - name: latentserve-settings
    behavior: merge
    literals: [VAE_MAX_WAITING=64]
images:
  - {name: latentserve-gpu, newName: registry.example.org/latentserve-gpu, newTag: "7"}
  - {name: latentserve-bundles, newName: registry.example.org/bundles, newTag: "8"}
"""


@cache
def variant(name: str) -> list[Manifest]:
    return rendered(FOLDER / name)


def pod_of(name: str) -> Manifest:
    pod: Manifest = only(variant(name), "Deployment")["spec"]["template"]["spec"]
    return pod


def server_of(name: str) -> Manifest:
    server: Manifest = pod_of(name)["containers"][0]
    return server


def dockerfile_of(name: str) -> str:
    """What makes the server's image."""
    file = {"latentserve": "Dockerfile", "latentserve-gpu": "gpu.Dockerfile"}[
        server_of(name)["image"].partition(":")[0]
    ]
    return (ROOT / "docker" / file).read_text(encoding="utf-8")


def settings_of(manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the server in the pod would read them; a misspelled one is an error."""
    for name, value in only(manifests, "ConfigMap")["data"].items():
        assert name.removeprefix("VAE_").lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_object_fits_the_schemas(name: str, version: str) -> None:
    for manifest in variant(name):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_checker_refuses_a_field_that_is_not_there() -> None:
    manifest = yaml.safe_load((FOLDER / "base" / "deployment.yaml").read_text(encoding="utf-8"))
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_no_file_is_left_out() -> None:
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        known = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
        named = {
            *known.get("resources", []),
            *(patch["path"] for patch in known.get("patches", [])),
            *(file for generator in known.get("configMapGenerator", []) for file in generator.get("envs", [])),
        }
        there = {file.name for file in kustomization.parent.iterdir() if file.is_file()}
        assert there - {"kustomization.yaml", "Dockerfile"} == {file for file in named if "/" not in file}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_settings_are_the_servers_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(variant(name), monkeypatch)
    assert settings.host == "0.0.0.0"
    assert [port["containerPort"] for port in server_of(name)["ports"]] == [settings.port]
    (source,) = server_of(name)["envFrom"]
    assert source["configMapRef"]["name"] == only(variant(name), "ConfigMap")["metadata"]["name"]
    assert [item["name"] for item in server_of(name)["env"]] == ["VAE_API_KEYS"]


@pytest.mark.parametrize("name", VARIANTS)
def test_there_is_time_to_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(variant(name), monkeypatch)
    assert pod_of(name)["terminationGracePeriodSeconds"] > settings.drain_delay + settings.drain_seconds
    ready = server_of(name)["readinessProbe"]
    assert settings.drain_delay > ready["periodSeconds"] * ready["failureThreshold"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bodies_that_are_held_fit_into_the_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(variant(name), monkeypatch)
    limit = in_bytes(server_of(name)["resources"]["limits"]["memory"])
    assert settings.max_waiting * settings.max_body_bytes <= limit / 2


@pytest.mark.parametrize("name", VARIANTS)
def test_the_probes_ask_routes_of_the_server(name: str) -> None:
    routes = set(create_app(Settings()).site().openapi()["paths"])
    server = server_of(name)
    probes = {kind: server[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",  # never /readyz: an overloaded or draining pod must not be restarted
    }
    assert {probe["path"] for probe in probes.values()} <= routes
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_the_ports_are_one() -> None:
    (port,) = server_of("base")["ports"]
    (service_port,) = only(variant("base"), "Service")["spec"]["ports"]
    (rule,) = only(variant("base"), "NetworkPolicy")["spec"]["ingress"]
    notes = only(variant("base"), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert service_port["targetPort"] == rule["ports"][0]["port"] == port["name"]
    assert notes["prometheus.io/port"] == str(port["containerPort"])
    assert notes["prometheus.io/path"] in create_app(Settings()).site().openapi()["paths"]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_belongs_together_finds_itself(name: str) -> None:
    deployment = only(variant(name), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    pod = pod_of(name)
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        only(variant(name), "Service")["spec"]["selector"],
        only(variant(name), "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(variant(name), "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod["topologySpreadConstraints"]),
    ]
    assert selectors == [labels] * len(selectors)
    assert pod["serviceAccountName"] == only(variant(name), "ServiceAccount")["metadata"]["name"]


def test_the_number_of_replicas_has_one_owner() -> None:
    scaler = only(variant("base"), "HorizontalPodAutoscaler")["spec"]
    deployment = only(variant("base"), "Deployment")
    assert scaler["scaleTargetRef"] == {key: deployment[key] for key in ("apiVersion", "kind")} | {
        "name": deployment["metadata"]["name"]
    }
    assert "replicas" not in deployment["spec"]
    # A node can be emptied without an interruption, and at all.
    budget = only(variant("base"), "PodDisruptionBudget")["spec"]
    assert 0 < budget["maxUnavailable"] < scaler["minReplicas"] < scaler["maxReplicas"]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variable_of_the_clusters_is_taken_for_a_setting(name: str) -> None:
    assert pod_of(name)["enableServiceLinks"] is False
    assert only(variant(name), "Service")["metadata"]["name"] != "vae"  # other pods of the namespace have links


@pytest.mark.parametrize("name", VARIANTS)
def test_no_container_may_more_than_it_must(name: str) -> None:
    """What the "restricted" pod security standard asks for, and a root that cannot be written."""
    pod = pod_of(name)
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile_of(name), re.M)
    assert user is not None
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user[1]),
        "runAsGroup": int(user[2]),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in containers(only(variant(name), "Deployment")):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert pod["automountServiceAccountToken"] is False
    assert only(variant(name), "ServiceAccount")["automountServiceAccountToken"] is False


def test_keys_may_come_from_a_secret() -> None:
    (keys,) = server_of("base")["env"]
    assert keys["valueFrom"]["secretKeyRef"] == {"name": "latentserve-api-keys", "key": "keys", "optional": True}


def test_the_images_have_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert server_of("base")["image"] == f"latentserve:{version}"
    assert server_of("overlays/gpu")["image"] == f"latentserve-gpu:{version}"


def test_a_changed_setting_rolls_the_pods(tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDER / "base", tmp_path / "base")
    (copy / "settings.env").write_text("VAE_HOST=0.0.0.0\nVAE_MAX_WAITING=7\n", encoding="utf-8")
    changed = rendered(copy)
    name = only(changed, "ConfigMap")["metadata"]["name"]
    assert name != only(variant("base"), "ConfigMap")["metadata"]["name"]
    server = only(changed, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert server["envFrom"] == [{"configMapRef": {"name": name}}]


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(variant("overlays/gpu"), monkeypatch)
    assert (settings.provider, settings.require_provider) == ("cuda", True)
    spec = only(variant("overlays/gpu"), "Deployment")["spec"]
    assert server_of("overlays/gpu")["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # No card is free for a pod more than there was, and the load of the CPU decides nothing.
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert spec["replicas"] > 1
    assert "HorizontalPodAutoscaler" not in {manifest["kind"] for manifest in variant("overlays/gpu")}
    # What CUDA compiles has a place where it can be written.
    places = [mount["mountPath"] for mount in server_of("overlays/gpu")["volumeMounts"]]
    cache = re.search(r"CUDA_CACHE_PATH=(\S+)", dockerfile_of("overlays/gpu"))
    assert cache is not None
    assert any(cache[1].startswith(place + "/") for place in places)


def test_own_bundles_come_from_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, server = pod_of("overlays/bundles"), server_of("overlays/bundles")
    (init,) = pod["initContainers"]
    folder = settings_of(variant("overlays/bundles"), monkeypatch).models_folder
    (mount,) = (mount for mount in server["volumeMounts"] if mount["name"] == "bundles")
    assert mount == {"name": "bundles", "mountPath": str(folder), "readOnly": True}
    (into,) = init["volumeMounts"]
    assert into["name"] == mount["name"]
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "bundles"}
    # The command itself, with the folders of this test: what it copies is a bundle still.
    write_tiny_bundle(tmp_path / "image" / "tiny")
    (tmp_path / "copy").mkdir()
    places = {"/bundles/.": f"{tmp_path}/image/.", into["mountPath"]: f"{tmp_path}/copy"}
    subprocess.run([places.get(word, word) for word in init["command"]], check=True, timeout=60)
    assert open_bundle(tmp_path / "copy" / "tiny").name == "tiny"


def test_an_overlay_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kustomization.yaml").write_text(OWN, encoding="utf-8")
    own = rendered(tmp_path / "own")
    for manifest in own:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    assert {manifest["metadata"]["namespace"] for manifest in own} == {"vae"}
    assert [container["image"] for container in containers(only(own, "Deployment"))] == [
        "registry.example.org/latentserve-gpu:7",
        "registry.example.org/bundles:8",
    ]
    settings = settings_of(own, monkeypatch)
    found: dict[str, Any] = settings.model_dump(include={"provider", "models_folder", "max_waiting", "drain_delay"})
    assert found == {"provider": "cuda", "models_folder": Path("/bundles"), "max_waiting": 64, "drain_delay": 5}


def test_the_overlay_that_the_guide_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"> (deploy/kustomization\.yaml) <<'END'\n(.*?)^END$", guide, re.M | re.S)
    shutil.copytree(FOLDER, tmp_path / "docker" / "kubernetes")
    (tmp_path / "deploy").mkdir()
    (tmp_path / shown[0]).write_text(shown[1], encoding="utf-8")
    own = rendered(tmp_path / "deploy")
    for manifest in own:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    settings_of(own, monkeypatch)
    (container,) = containers(only(own, "Deployment"))
    assert f"-t {container['image']} ." in guide
    keys = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert f"create secret generic {keys['name']} --from-literal={keys['key']}=" in guide
