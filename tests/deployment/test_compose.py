"""`docker-compose up`: the image is built, started by compose.yaml, used, looked into, and ended under load.

It needs a Docker engine and minutes: `make test-docker`. tests/deployment/test_images.py checks what can be read.
"""

import base64
import errno
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from tests.deployment.test_images import STATED_MEGABYTES
from tests.support.docker import BASE, ROOT, Project, built, docker, inspected, require_engine, run, size, up
from tests.support.load import Ask, Load
from tests.support.tiny import write_tiny_bundle

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PNG, NPY = {"content-type": "image/png"}, {"content-type": "application/x-npy"}
UID = 10001


@pytest.fixture(scope="module")
def project() -> Project:
    require_engine()
    return Project()


@pytest.fixture(scope="module")
def image(project: Project) -> Iterator[str]:
    """The image, built by compose."""
    with built(project):
        yield project.image


@pytest.fixture(scope="module")
def server(project: Project, image: str) -> Iterator[Project]:
    """compose.yaml, up and healthy."""
    with up(project):
        yield project


@pytest.fixture
def client(server: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.address}", timeout=60) as client:
        yield client


def test_an_engine_that_does_not_answer_is_not_replaced(project: Project) -> None:
    named = "unix:///nowhere/docker.sock"
    done = run(str(ROOT / ".ci" / "engine"), "true", check=False, DOCKER_HOST=named)
    assert done.returncode == 1
    assert done.stderr == f".ci/engine: DOCKER_HOST names an engine that does not answer: {named}\n"


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray((np.arange(784, dtype=np.uint32) % 251).astype(np.uint8).reshape(28, 28)).save(file, kind)
    return file.getvalue()


def inside(project: Project, code: str) -> str:
    """What a piece of Python prints in the server's container."""
    return docker("exec", project.container, "python", "-c", code).stdout.strip()


def ended(image: str, *arguments: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """`docker run` of something that ends by itself: exit code, stdout, stderr."""
    done = docker("run", "--rm", *options, image, *arguments, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_image_is_as_small_as_stated(image: str) -> None:
    """What is added on top of the base, as docs/deployment.md has it, with room for small changes."""
    added = (size(image) - size(BASE)) / 1e6
    assert 0.9 * STATED_MEGABYTES < added < 1.05 * STATED_MEGABYTES, f"{added:.0f} MB"


def test_the_image_says_what_it_is(image: str) -> None:
    config = inspected(image, kind="image")["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["vae"], ["serve"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"  # no shell
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items() if "opencontainers" in name}
    assert labels["title"] == "latentserve"
    assert labels["licenses"] == "Apache-2.0"
    assert ended(image, "--version") == (0, f"latentserve {labels['version']}\n", "")


def test_it_is_published_on_loopback_only(server: Project) -> None:
    host, _, port = server.address.rpartition(":")
    assert host == "127.0.0.1"
    bound = inspected(server.container)["NetworkSettings"]["Ports"]
    assert bound == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}


def test_the_process(server: Project) -> None:
    """The server itself is process 1, without root, capabilities and ways to get them."""
    status = dict(line.split(":\t", 1) for line in inside(server, "print(open('/proc/1/status').read())").splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    command = inside(server, "print(open('/proc/1/cmdline').read().split(chr(0)))")
    assert command == str(["/srv/vae/bin/python", "/srv/vae/bin/vae", "serve", ""])
    # An engine of before 2022 has no group in the list that is the process's own anyway.
    assert inside(server, "import os; print({os.getuid(), os.getgid(), *os.getgroups()})") == str({UID})


def test_the_root_is_read_only(server: Project) -> None:
    places = ("/srv/x", "/srv/vae/x", "/etc/x", "/var/tmp/x", "/bundles/x")  # noqa: S108
    code = f"""
import errno
for place in {places}:
    try:
        open(place, "w")
    except OSError as error:
        print(error.errno)
open("/tmp/x", "w").write("x")
"""
    assert {int(line) for line in inside(server, code).split()} <= {errno.EROFS}
    assert len(inside(server, code).split()) == len(places)
    host = inspected(server.container)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["PidsLimit"] == 256
    assert host["Memory"] == 2 * 2**30
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}


def paths(image: str) -> set[str]:
    """Every file and folder of an image, seen by root."""
    return set(docker("run", "--rm", "--user=0", "--entrypoint=find", image, "/", "-xdev").stdout.splitlines())


def test_what_the_image_adds_to_its_base(image: str) -> None:
    """/srv and a user: no package of Debian, no cache, nothing of the build."""
    added = {path for path in paths(image) - paths(BASE) if not path.startswith("/srv/")}
    of_the_user = {
        f"/etc/{name}" for name in (".pwd.lock", "group-", "gshadow-", "passwd-", "shadow-", "subgid-", "subuid-")
    }
    assert added <= of_the_user


def test_what_is_not_in_the_image(server: Project) -> None:
    """No PyTorch, no training code, no pip, no tests, no compiler, no bytecode, nothing that built it."""
    modules = "torch training pip setuptools onnx scipy matplotlib tests benchmarks hatchling binutils"
    code = f"""
import importlib.util, os, shutil
print([name for name in {modules.split()} if importlib.util.find_spec(name)])
print(sorted(os.listdir("/srv")), sorted(os.listdir("/srv/vae/bin")))
import app, model
print(sorted(os.listdir(os.path.dirname(model.__file__))))
found = [os.path.join(folder, name) for folder, folders, files in os.walk("/srv") for name in folders + files]
print([path for path in found if path.endswith((".pyc", "__pycache__", "/tests", "/.git", ".md.new", ".a", ".pyx"))])
print([name for name in ("cc", "gcc", "strip", "make", "git") if shutil.which(name)])
"""
    lines = inside(server, code).splitlines()
    assert lines == [
        "[]",
        "['healthcheck.py', 'vae'] ['python', 'python3', 'python3.11', 'vae']",
        "['__init__.py', 'bundle', 'pretrained']",
        "[]",
        "[]",
    ]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_it_encodes(client: httpx.Client, kind: str) -> None:
    answer = client.post("/encode", content=picture(kind), headers={"content-type": f"image/{kind.lower()}"})
    assert answer.status_code == 200, answer.text
    assert np.isfinite(answer.json()["latents"][0]["mean"]).all()
    assert answer.headers["x-model"].startswith("mnist/")


@pytest.mark.parametrize("form", ["png", "webp", "jpeg", "zip", "json", "npy"])
def test_it_samples(client: httpx.Client, form: str) -> None:
    first, second = (client.get(f"/sample?n=3&seed=7&format={form}") for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.content == second.content
    assert len(first.content) > 500


def test_every_kind_of_request_works(client: httpx.Client) -> None:
    """What was taken out of the image is needed by none of them."""
    png = picture("PNG")
    text = base64.b64encode(png).decode()
    pictures = [("images", (f"{name}.png", png, "image/png")) for name in "ab"]
    latent = client.post("/encode", json={"images": [text]}).json()["latents"][0]["mean"]
    array = io.BytesIO()
    np.save(array, np.zeros((2, 28, 28), np.uint8))
    answers = [
        client.post("/encode", files=pictures),
        client.post("/encode?samples=2&seed=1&output=samples&format=npy", content=array.getvalue(), headers=NPY),
        client.post("/decode", json={"latents": [latent]}),
        client.post("/reconstruct?sample=true", content=png, headers=PNG),
        client.post("/interpolate?format=gif", files=pictures),
        client.post("/interpolate", json={"points": [{"latent": latent}, {"image": text}]}),
        client.post("/traverse", json={"dimension": 0}),
        *(client.get(f"/{path}") for path in ("models", "models/mnist", "models/mnist/card", "livez", "readyz")),
        *(client.get(f"/{path}") for path in ("health", "metrics", "docs", "openapi.json")),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert client.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_the_command_line_works(server: Project, image: str) -> None:
    code, said, _ = ended(image, "bundle", "verify")
    assert (code, "is sound" in said) == (0, True)
    assert ended(image, "--help")[0] == ended(image, "serve", "--help")[0] == 0
    code, _, complaint = ended(image, "sample", "--colour")
    assert (code, "No such option" in complaint) == (2, True)
    code, _, complaint = ended(image, "train", "mnist")
    assert (code, complaint) == (2, "vae: this installation only serves; training needs the whole of latentserve\n")
    inside_tmp = ("exec", server.container, "vae")
    docker(*inside_tmp, "sample", "-n", "2", "-o", "/tmp/drawn")  # noqa: S108
    docker(*inside_tmp, "encode", "/tmp/drawn", "-o", "/tmp/latents.npz")  # noqa: S108


def test_a_bundle_that_is_not_there_ends_the_start(image: str) -> None:
    code, said, complaint = ended(image, options=("--env", "VAE_MODELS=/bundles/nowhere"))
    assert code == 1
    assert said == ""
    *logged, complaint = complaint.splitlines()
    assert complaint.startswith("vae: /bundles/nowhere")
    assert {json.loads(line)["level"] for line in logged} <= {"warning"}


def test_own_bundles_are_served(image: str, tmp_path: Path) -> None:
    """VAE_MODELS_FOLDER=/bundles docker-compose up -d, with two bundles in ./bundles; and an API key."""
    for name in ("first", "second"):
        write_tiny_bundle(tmp_path / "bundles" / name, name=name)
    own = Project(tmp_path, image, VAE_MODELS_FOLDER="/bundles", VAE_API_KEYS="one,two")
    with up(own), httpx.Client(base_url=f"http://{own.address}", timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get("/models").status_code == 401
        models = client.get("/models", headers={"authorization": "Bearer two"}).json()["models"]
        assert [model["name"] for model in models] == ["first", "second"]


def test_sigterm_under_load(server: Project) -> None:
    """`docker stop` while many ask: whoever was let in is answered, no answer breaks off, and the exit code is 0.

    From the signal on, the server works for another ``drain_delay`` seconds, then refuses, and closes its port. So a
    request may stay without an answer only if the delay had passed by then, and if the server never had it: the
    server's log has every request that it answered. (Docker's proxy takes a connection before it asks the server for
    one, and closes it if there is none: a client sees no difference between that and a port that is closed.)
    """
    large = io.BytesIO()
    np.save(large, np.zeros((128, 28, 28), np.uint8))
    asks = [
        Ask("POST", "/encode", picture("PNG"), PNG),
        Ask("GET", "/sample?n=16&seed=1"),
        Ask("POST", "/encode", large.getvalue(), NPY),
        Ask("GET", "/sample?n=128&seed=1&format=npy"),
    ]
    started = datetime.now(UTC)
    with Load(f"http://{server.address}", asks, threads=8) as load, ThreadPoolExecutor(1) as pool:
        load.wait(lambda: len(load.outcomes) >= 50 and len(load.in_flight()) >= 2)
        working, told = load.in_flight(), time.monotonic()
        stopped = pool.submit(docker, "stop", server.container)  # with compose.yaml's grace
        stopped.result(timeout=120)
        load.wait(lambda: not load.in_flight())
    state = inspected(server.container)["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert inspected(server.container)["RestartCount"] == 0

    outcomes = {outcome.request_id: outcome for outcome in load.outcomes}
    assert not [outcome for outcome in load.outcomes if outcome.broken]
    before = [outcome for outcome in load.outcomes if outcome.began <= told]
    assert {outcome.status for outcome in before} == {200}
    assert working <= {outcome.request_id for outcome in before}
    refused = [outcome for outcome in load.outcomes if outcome.status != 200]
    assert {outcome.problem for outcome in refused if outcome.status is not None} <= {"not-ready"}
    assert {outcome.status for outcome in refused} <= {503, None}
    assert not [outcome for outcome in refused if outcome.ended < told + Settings().drain_delay]

    lines = docker("logs", "--since", started.isoformat(), server.container).stderr.splitlines()
    logged = {line["request_id"]: line["status"] for line in map(json.loads, lines) if "status" in line}
    answered = {name: outcome.status for name, outcome in outcomes.items() if outcome.status is not None}
    assert answered.items() == {name: status for name, status in logged.items() if name.startswith("load-")}.items()
