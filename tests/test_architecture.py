"""The house stands as ARCHITECTURE.md says: import arrows, no torch where it serves, nothing done by an import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "commands", "model", "training")
LONGEST = 320

# Importing any of these fails, as it does where they are not installed.
EXTRA = ("torch", "safetensors", "onnx", "onnxscript", "matplotlib", "sklearn")
BLOCKED = (*EXTRA, "training", "model.networks", "model.vae")
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""

# Every module of a package, imported; then what imports must not have done.
IMPORT_ALL = """
import importlib, logging, pkgutil, signal, sys, threading, warnings

before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
for package in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
ours = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.partition(".")[0] in sys.argv[1:]]
assert not logging.root.handlers, "an import set up logging"
assert not any(logger.handlers for logger in ours), "an import added a log handler"
assert threading.active_count() == 1, "an import started a thread"
assert before == {number: signal.getsignal(number) for number in before}, "an import set a signal handler"
assert "onnxruntime" not in sys.modules or not any(
    isinstance(value, sys.modules["onnxruntime"].InferenceSession)
    for name, module in list(sys.modules.items()) if name.partition(".")[0] in sys.argv[1:]
    for value in vars(module).values()
), "an import opened a session"
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in the repository's root, with no setting in its environment but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env=clean | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sources() -> list[Path]:
    return [ROOT / "vae.py", *(file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))]


def test_the_import_arrows() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_source_file_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_file_knows_app_and_training() -> None:
    for file in sources():
        text = file.read_text(encoding="utf-8")
        knows = {package for package in ("app", "training") if re.search(rf"^\s*(from|import) {package}\b", text, re.M)}
        assert len(knows) < 2, file


@pytest.mark.parametrize("packages", [("app", "model.bundle"), ("model", "training")], ids=" ".join)
def test_an_import_does_nothing(packages: tuple[str, ...]) -> None:
    # These would be refused by anything that read them.
    done = python(IMPORT_ALL, *packages, VAE_PORT="no number", VAE_MODELS="/nowhere")
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_the_server_needs_no_torch(tmp_path: Path) -> None:
    code = f"""BLOCKED = {BLOCKED}
{BLOCKER}
import pkgutil, importlib, asyncio
import app
from pathlib import Path
for module in pkgutil.walk_packages(app.__path__, "app."):
    importlib.import_module(module.name)
from app.service import create_app
from app.settings import Settings

async def life():
    made = create_app(Settings(models=(Path(sys.argv[1]),), threads=1))
    async with made.lifespan():
        await made.engine.warmed_up()
        assert made.engine.health()[0] == "ok"

asyncio.run(life())
found = [name for name in sys.modules if name.partition(".")[0] in BLOCKED]
assert not found, found
"""
    done = python(code, str(write_tiny_bundle(tmp_path / "tiny")))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["bundle", "verify", "{tiny}"],
        ["sample", "-n", "2", "--model", "{tiny}", "-o", "{tmp}/sample.png"],
        ["decode", "{golden}", "--model", "{tiny}", "-o", "{tmp}/decoded"],
        ["encode", "{picture}", "--model", "{tiny}", "-o", "{tmp}/latents.npz"],
        ["interpolate", "{picture}", "{picture}", "--model", "{tiny}", "-o", "{tmp}/walk.gif"],
        ["compress", "{picture}", "--model", "{tiny}", "-o", "{tmp}/a.vae", "--binarize", "threshold"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_that_need_no_torch(arguments: list[str], tmp_path: Path) -> None:
    from model.bundle.drawing import encode_picture
    from model.bundle.store import open_bundle

    tiny = write_tiny_bundle(tmp_path / "tiny")
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode_picture(open_bundle(tiny).golden.images[0]))
    places = {"tiny": tiny, "golden": tiny / "golden.npz", "picture": picture, "tmp": tmp_path}
    code = f"BLOCKED = {BLOCKED}\n{BLOCKER}\nimport vae\nvae.main()\n"
    done = python(code, *(argument.format_map(places) for argument in arguments))
    assert done.returncode == 0, done.stderr


def test_training_commands_say_what_to_install() -> None:
    for command in (["train", "mnist"], ["evaluate", "runs/x"], ["export", "runs/x", "-o", "x"], ["figures", "runs/x"]):
        code = f"BLOCKED = {EXTRA}\n{BLOCKER}\nimport vae\nvae.main()\n"
        done = python(code, *command)
        assert done.returncode == 2, done.stderr
        assert "pip install 'latentserve[training]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_compression_says_what_to_install(tmp_path: Path) -> None:
    """And the server does without."""
    tiny = write_tiny_bundle(tmp_path / "tiny")
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8), np.uint8))
    code = f"BLOCKED = ('constriction',)\n{BLOCKER}\nimport app.main, vae\nvae.main()\n"
    done = python(code, "compress", str(tmp_path / "a.npy"), "--model", str(tiny), "-o", str(tmp_path / "a.vae"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "pip install 'latentserve[compression]'" in done.stderr
    assert not (tmp_path / "a.vae").exists()


def test_nobody_is_told_of_this_machine(tmp_path: Path) -> None:
    """ONNX Runtime's own telemetry would write an identity of the machine under HOME, and send it."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "import os\ndel os.environ['ORT_DISABLE_TELEMETRY']\nimport vae\nvae.main()\n"
    done = python(code, "bundle", "verify", ORT_DISABLE_TELEMETRY="", **home)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*"))
