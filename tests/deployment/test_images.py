"""What compose.yaml and the Dockerfiles say, held against the settings and the files they name; no engine is needed."""

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.support.docker import compose_command, run
from tests.support.programs import lack, needs
from tests.support.repository import tracked

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*Dockerfile"))
STATED_MEGABYTES = 115
"""What docker/Dockerfile adds to its base, as docs/deployment.md states it; test_compose.py measures it."""
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("vae", "vae-gpu")


def plain(value: object) -> str:
    """A value as it is when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def instructions(file: Path) -> list[tuple[str, str]]:
    """Every instruction of a Dockerfile with its arguments, each on one line."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def arguments(file: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(file) if instruction == name]


def in_context(path: Path) -> bool:
    """Does .dockerignore let a build see it? The last line that matches it, or a folder around it, decides."""
    seen = True
    around = [path, *path.parents]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            if any(fnmatch(str(each), pattern) or ("**" in line and fnmatch(each.name, pattern)) for each in around):
                seen = line.startswith("!")
    return seen


def test_the_services() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {
        "vae": None,
        "vae-gpu": ["gpu"],
        "train": ["train"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
        "edge": ["edge"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert all(re.fullmatch(r"/tmp:size=\d+[mg]", each) for each in service["tmpfs"])  # noqa: S108
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "devices"}
    assert re.fullmatch(r"\d+[mg]", plain(service["mem_limit"]))
    assert 0 < service["pids_limit"] <= 1024
    assert service["restart"] == ("no" if name == "train" else "unless-stopped")
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert re.fullmatch(r"\d+s", plain(service["stop_grace_period"]))


@pytest.mark.parametrize("name", SERVERS)
def test_the_grace_is_longer_than_the_drain(name: str) -> None:
    grace = float(plain(SERVICES[name]["stop_grace_period"]).removesuffix("s"))
    assert grace >= Settings().drain_delay + Settings().drain_seconds + 5


@pytest.mark.parametrize("name", SERVICES)
def test_it_is_published_on_loopback_only(name: str) -> None:
    assert name == "train" or SERVICES[name]["ports"]
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", plain(port)), port


def test_the_port_is_the_readmes() -> None:
    assert plain(SERVICES["vae"]["ports"][0]) == f"127.0.0.1:{Settings().port}:{Settings().port}"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    """A folder that did not would be made by the engine, and be root's. Only training writes into them."""
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = plain(volume).split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ([] if name == "train" else ["ro"]), volume
            assert tracked(source), f"{source} is not in a fresh clone"
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVERS)
def test_every_setting_is_passed_on(name: str) -> None:
    """Under its own name, most without a default. Some are the image's own affair."""
    passed = SERVICES[name]["environment"]
    for variable, value in passed.items():
        assert value is None or re.fullmatch(rf"\$\{{{variable}:-\w+\}}", value), variable
    assert plain(passed["VAE_ACCESS_LOG"]) == "true"  # the image's, which Compose 1.29 would take away
    own = {"host", "port", "provider", "require_provider", "allow_insecure"}
    settings = {PREFIX + field.upper() for field in Settings.model_fields if field not in own}
    assert {variable for variable in passed if variable.startswith(PREFIX)} == settings


def test_variables_of_the_file_are_explained_and_no_settings() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(\w+)", text))
    passed = set(SERVICES["vae"]["environment"])
    assert used & {PREFIX + field.upper() for field in Settings.model_fields} <= passed
    explained = text.partition("# Variables of this file itself:")[2].partition("\n#\n")[0]
    assert used - passed == set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", explained))


def test_images_are_pinned() -> None:
    images = {name: plain(service["image"]) for name, service in SERVICES.items()}
    assert images["vae"] == f"latentserve:{VERSION}"
    assert images["vae-gpu"] == f"latentserve-gpu:{VERSION}"
    assert images["train"] == f"latentserve-training:{VERSION}"
    assert all(re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\S*", image) for image in images.values())


def test_the_gpu_is_reserved_and_takes_the_servers_name() -> None:
    service = SERVICES["vae-gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert service["networks"]["default"]["aliases"] == ["vae"]  # what the edge and Prometheus ask


def test_compose_understands_the_file() -> None:
    needs("docker")
    run(*compose_command(), "config", "--quiet", timeout=60)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
class TestADockerfile:
    def test_it_needs_no_frontend_of_its_own(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert "syntax=" not in text
        assert "--mount" not in text  # nor BuildKit
        assert "ADD" not in dict(instructions(file))

    def test_its_base_is_pinned(self, file: Path) -> None:
        bases = [base.split()[0] for base in arguments(file, "FROM")]
        stages = [base.split()[-1] for base in arguments(file, "FROM") if " AS " in base]
        given = [value.partition("=")[2] for value in arguments(file, "ARG") if value.startswith("BASE=")]
        named = [base for base in bases if base not in stages and not base.startswith("$")] + given
        assert len(named) == 1
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\S+", named[0])

    def test_it_ends_as_a_user_without_rights(self, file: Path) -> None:
        assert arguments(file, "USER") == ["10001:10001"]
        assert "sudo" not in file.read_text(encoding="utf-8")

    def test_no_shell_stands_before_the_server(self, file: Path) -> None:
        assert arguments(file, "ENTRYPOINT") == ['["vae"]']
        assert arguments(file, "STOPSIGNAL") == ["SIGTERM"]
        assert all(each.startswith("[") for each in arguments(file, "CMD"))
        assert all("CMD [" in each for each in arguments(file, "HEALTHCHECK"))

    def test_what_is_copied_exists_and_may_be_seen(self, file: Path) -> None:
        for copied in arguments(file, "COPY"):
            words = shlex.split(copied)
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in file.read_text("utf-8")
                continue
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                assert in_context(Path(source)), source

    def test_what_builds_the_package_is_pinned(self, file: Path) -> None:
        """An isolated build would take the newest, whatever constraints.txt says."""
        (build,) = (step for step in arguments(file, "RUN") if re.search(r"install .* \.$", step))
        assert "--no-build-isolation" in build
        assert any("-c constraints.txt hatchling" in step for step in arguments(file, "RUN"))
        assert re.search(r"^hatchling==\d", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)

    def test_its_version_is_the_projects(self, file: Path) -> None:
        stated = [value for value in arguments(file, "ARG") if value.startswith("VERSION=")]
        assert stated in ([], [f"VERSION={VERSION}"])
        assert 'org.opencontainers.image.title="latentserve' in " ".join(arguments(file, "LABEL"))


def test_the_servers_images_hold_only_the_server() -> None:
    for name in ("Dockerfile", "gpu.Dockerfile"):
        copied = " ".join(arguments(DOCKER / name, "COPY"))
        assert "training" not in copied
        assert not re.search(r"\bmodel (?!/)", copied.replace("model/", "")), copied
        assert arguments(DOCKER / name, "HEALTHCHECK")
        assert "VAE_HOST=0.0.0.0" in " ".join(arguments(DOCKER / name, "ENV"))


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("app/main.py", True),
        ("model/pretrained/mnist/manifest.json", True),
        ("docker/slim.py", True),
        ("app/__pycache__/main.cpython-311.pyc", False),
        ("tests/test_docs.py", False),
        (".git/config", False),
        (".env", False),
        (".venv-dev/bin/python", False),
        ("data/mnist/train-images-idx3-ubyte.gz", False),
        ("runs/mnist/checkpoint.safetensors", False),
        ("bundles/mine/manifest.json", False),
        ("docker/edge/tls/tls.key", False),
        ("secrets/api-keys", False),
    ],
)
def test_what_a_build_may_see(path: str, seen: bool) -> None:
    assert in_context(Path(path)) == seen


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        (".env", True),
        ("vae.env", True),
        ("deploy/.env", True),
        ("compose.override.yaml", True),
        ("secrets/api-keys", True),
        ("secrets/scrape-key", True),
        ("docker/edge/tls/tls.key", True),
        ("docker/edge/tls/tls.crt", True),
        ("docker/edge/tls/tls.conf", True),
        ("docker/edge/tls/tls.conf.example", False),
        ("docker/kubernetes/base/settings.env", False),
        ("docker/prometheus/scrape-key", False),
        ("secrets/.gitkeep", False),
        ("compose.yaml", False),
    ],
)
def test_what_git_may_see(path: str, ignored: bool) -> None:
    """Settings of one machine and keys are in no commit, as long as they lie where the guide puts them."""
    needs("git")
    if run("git", "rev-parse", "--git-dir", check=False).returncode != 0:
        lack("this is no clone")
    assert (run("git", "check-ignore", "--no-index", "--quiet", path, check=False).returncode == 0) == ignored


def test_the_size_is_the_documents() -> None:
    assert f"{STATED_MEGABYTES} MB" in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
