"""The command line: what it parses, what it passes on, and how it says no."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app.addresses
import app.logs
import app.main
import vae
from app.options import flag
from app.settings import PREFIX, Settings
from model.bundle.latents import prior_latents
from model.bundle.store import open_bundle
from tests.support.tiny import write_tiny_bundle


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Vae = Callable[..., Outcome]
ROOT = Path(vae.__file__).parent
ONE_EPOCH = ("--set", "optimization.epochs=1", "--set", "device=cpu", "--set", "threads=1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Vae:
    """`vae ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app.logs, "configure", lambda settings: None)  # the test's own logging stays

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["vae", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            vae.main()
        written = capsys.readouterr()
        assert isinstance(ended.value.code, int | None)
        assert "Traceback" not in written.err
        return Outcome(ended.value.code or 0, written.out, written.err)

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been served."""
    found: list[Settings] = []
    monkeypatch.setattr(app.main, "serve", found.append)
    return found


# --- vae, vae serve


def test_version(run: Vae) -> None:
    assert run("--version").out.startswith("latentserve ")


def test_no_command_is_help(run: Vae) -> None:
    outcome = run()
    assert outcome.code == 2
    assert "serve" in outcome.err


def test_every_setting_is_an_option_with_its_help_and_variable(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERMINAL_WIDTH", "1000")
    shown = " ".join(run("serve", "--help").out.split())
    for name, field in Settings.model_fields.items():
        assert flag(name) in shown
        assert f"({PREFIX}{name.upper()}" in shown
        assert " ".join((field.description or "no description").split()) in shown


def test_options_become_settings(run: Vae, served: list[Settings]) -> None:
    given = ["--model", "a", "--model", "b,c", "--api-key", "k", "--port", 0, "--access-log", "--provider", "auto"]
    assert run("serve", *given, "--queue-seconds", 0.5).code == 0
    (settings,) = served
    assert settings.models == (Path("a"), Path("b,c"))
    assert [key.get_secret_value() for key in settings.api_keys] == ["k"]
    assert (settings.port, settings.access_log, settings.provider, settings.queue_seconds) == (0, True, "auto", 0.5)


def test_options_win_over_variables_and_variables_over_defaults(
    run: Vae, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_PORT", "7000")
    monkeypatch.setenv("VAE_MAX_BATCH", "7")
    monkeypatch.setenv("VAE_ACCESS_LOG", "true")
    assert run("serve", "--port", 0, "--no-access-log").code == 0
    (settings,) = served
    assert (settings.port, settings.max_batch, settings.access_log) == (0, 7, False)
    assert settings.max_items == Settings.model_fields["max_items"].default


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--port", "99999"], {}, "--port (VAE_PORT)"),
        ([], {"VAE_MAX_BATCH": "many"}, "--max-batch (VAE_MAX_BATCH)"),
        ([], {"VAE_MAX_BACTH": "8"}, "did you mean VAE_MAX_BATCH"),
        (["--port", "x"], {}, "--port"),
        (["--prot", "1"], {}, "--prot"),
        (["--provider", "tpu"], {}, "--provider"),
    ],
)
def test_settings_that_are_wrong(
    arguments: list[str],
    variables: dict[str, str],
    words: str,
    run: Vae,
    served: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    outcome = run("serve", *arguments)
    assert (outcome.code, served) == (2, [])
    assert words in outcome.err


def test_a_refused_secret_is_not_shown(run: Vae, served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PORT", "swordfish")
    outcome = run("serve", "--api-key", " ", "--api-key", "opensesame")
    assert outcome.code == 2
    assert "opensesame" not in outcome.err
    assert "swordfish" not in outcome.err


def test_the_doctor_takes_the_options_of_the_server(run: Vae, tiny: Path) -> None:
    outcome = run("doctor", "--model", tiny, "--port", 0, "--max-batch", 8)
    assert (outcome.code, outcome.err) == (0, "")
    assert "tiny/1" in outcome.out
    assert "--max-batch is 8" in outcome.out
    outcome = run("doctor", "--model", "missing", "--port", 0)
    assert outcome.code == 1
    assert "FAIL  bundle    missing: no bundle there" in outcome.out


def test_an_open_server_is_refused(run: Vae, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.addresses, "in_container", lambda: False)
    outcome = run("serve", "--model", tiny, "--host", "0.0.0.0", "--port", 0)
    assert outcome.code == 2
    assert outcome.err.startswith("vae: 0.0.0.0 can be reached from other machines")
    assert "--allow-insecure" in outcome.err


def test_a_bundle_that_is_not_there_ends_the_server(run: Vae) -> None:
    outcome = run("serve", "--model", "missing", "--port", 0)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == "vae: missing: no bundle there"


# --- a bundle and files


def test_there_and_back(run: Vae, tiny: Path, tmp_path: Path) -> None:
    assert run("sample", "-n", 5, "--seed", 7, "--model", tiny, "-o", "drawn").code == 0
    assert run("encode", "drawn", "--model", tiny, "-o", "latents.npz").out.startswith("latents.npz: 5 of 5 pictures")
    assert run("decode", "latents.npz", "--model", tiny, "-o", "back.npy").code == 0
    assert np.load(tmp_path / "back.npy").shape == (5, 8, 8, 1)
    with np.load(tmp_path / "latents.npz") as saved:
        assert list(saved["names"]) == [f"{number:05}.png" for number in range(5)]


def test_pictures_are_scored_by_a_seed(run: Vae, tmp_path: Path) -> None:
    scoring = write_tiny_bundle(tmp_path / "scoring", scores=True)
    assert run("sample", "-n", 3, "--seed", 7, "--model", scoring, "-o", "drawn").code == 0
    outcome = run("score", "drawn", "--model", scoring, "-o", "scores.csv", "-k", 8, "--seed", 5)
    assert outcome.out == "scores.csv: 3 of 3 pictures by tiny/1, k = 8, seed 5\n"
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in lines] == ["name", "00000.png", "00001.png", "00002.png"]
    assert run("score", "drawn", "--model", scoring, "-o", "scores.npz").code == 2


def test_a_seed_draws_what_a_server_draws(run: Vae, tiny: Path, tmp_path: Path) -> None:
    outcome = run("sample", "-n", 3, "--seed", 7, "--temperature", 0.5, "--model", tiny, "-o", "array.npy")
    assert outcome.out.splitlines() == ["array.npy: 3 pictures by tiny/1", "seed 7"]
    decoded = open_bundle(tiny).decode(prior_latents(3, 2, seed=7, temperature=0.5))[:, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy")[..., 0], np.rint(decoded * 255))


def test_without_a_seed_the_seed_is_told(run: Vae, tiny: Path) -> None:
    said = run("sample", "-n", 1, "--model", tiny, "-o", "a.png").out.splitlines()[-1]
    seed = said.removeprefix("seed ")
    assert run("sample", "-n", 1, "--seed", seed, "--model", tiny, "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_interpolate(run: Vae, tiny: Path) -> None:
    assert run("sample", "-n", 3, "--seed", 1, "--model", tiny, "-o", "ends").code == 0
    ends = sorted(Path("ends").iterdir())
    assert run("interpolate", *ends, "--steps", 4, "--model", tiny, "-o", "strip.png").code == 0
    with Image.open("strip.png") as strip:
        assert strip.size == (7 * 8 + 6 * 2, 8)
    assert run("interpolate", *ends[:2], "--path", "linear", "--model", tiny, "-o", "walk.gif").code == 0
    assert run("interpolate", ends[0], "--model", tiny, "-o", "walk.gif").code == 2


def test_verify(run: Vae, tiny: Path, tmp_path: Path) -> None:
    assert "tiny/1 is sound" in run("bundle", "verify", tiny).out
    broken = write_tiny_bundle(tmp_path / "broken")
    (broken / "MODEL_CARD.md").write_text("another")
    outcome = run("bundle", "verify", broken)
    assert outcome.code == 1
    assert outcome.err.startswith("vae: ")
    assert "MODEL_CARD.md" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "missing", "-o", "a.npz"], 2, "missing"),
        (["encode", "text.png", "-o", "a.npz"], 1, "text.png: "),
        (["encode", "empty", "-o", "a.npz"], 1, "holds no pictures"),
        (["encode", "text.png", "-o", "a.txt"], 2, "a.txt"),
        (["encode", "text.png", "-o", "nowhere/a.npz"], 2, "nowhere"),
        (["decode", "text.png", "-o", "a.png"], 1, "text.png"),
        (["sample", "-o", "nowhere/a.png"], 2, "nowhere"),
        (["sample", "-o", "a.bmp"], 2, "vae: a.bmp: write to a folder, or a .png"),
        (["sample", "-o", "text.png/more"], 1, "text.png"),
        (["sample", "-n", "0", "-o", "a.png"], 2, "-n"),
        (["sample", "--temperature", "nan", "-o", "a.png"], 2, "--temperature"),
        (["sample", "--seed", "-1", "-o", "a.png"], 2, "--seed"),
        (["sample"], 2, "-o"),
    ],
)
def test_a_mistake_is_told_in_words(arguments: list[str], code: int, words: str, run: Vae, tiny: Path) -> None:
    Path("text.png").write_text("no picture")
    Path("empty").mkdir()
    outcome = run(*arguments, "--model", tiny)
    assert outcome.code == code
    assert words in outcome.err
    assert code == 2 or len(outcome.err.splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == {"text.png", "empty"}


def test_skipped_pictures_are_named(run: Vae, tiny: Path) -> None:
    assert run("sample", "-n", 2, "--seed", 1, "--model", tiny, "-o", "drawn").code == 0
    Path("drawn/bad.png").write_text("no picture")
    outcome = run("encode", "drawn", "--skip", "--model", tiny, "-o", "a.npz")
    assert outcome.out.startswith("a.npz: 2 of 3 pictures")
    assert outcome.err.startswith("vae: skipped bad.png: ")


# --- compression


def test_compressed_and_back(run: Vae, tiny: Path, tmp_path: Path) -> None:
    pictures = (np.random.default_rng(0).random((20, 8, 8, 1)) < 0.5).astype(np.uint8) * 255
    np.save("a.npy", pictures)
    outcome = run("compress", "a.npy", "--model", tiny, "-o", "a.vae")
    first, size, *rest = outcome.out.splitlines()
    assert first == "a.vae: 20 pictures by tiny/1"
    assert size.startswith(f"file: {Path('a.vae').stat().st_size:,} bytes, ")
    assert [line.partition(":")[0] for line in rest] == ["pictures", "-ELBO", "overhead"]
    outcome = run("decompress", "a.vae", "--model", tiny, "-o", "back")
    assert outcome.out == "back: 20 pictures by tiny/1\n"
    for number, path in enumerate(sorted(Path("back").iterdir())):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), pictures[number, ..., 0])
    assert run("decompress", "a.vae", "--model", tiny, "-o", "back.npy").code == 0
    np.testing.assert_array_equal(np.load("back.npy"), pictures)
    assert run("compress", "back", "--model", tiny, "-o", "again.vae").code == 0
    assert Path("again.vae").read_bytes() == Path("a.vae").read_bytes()


def test_grey_pictures_are_compressed_only_when_told_how(run: Vae, tiny: Path) -> None:
    assert run("sample", "-n", 5, "--seed", 1, "--model", tiny, "-o", "grey").code == 0
    outcome = run("compress", "grey", "--model", tiny, "-o", "a.vae")
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert outcome.err.startswith("vae: grey/00000.png: is not black and white")
    assert not Path("a.vae").exists()
    for number, arguments in enumerate((["threshold"], ["sample"], ["sample", "--seed", "1"])):
        assert run("compress", "grey", "--model", tiny, "-o", f"{number}.vae", "--binarize", *arguments).code == 0
    assert len({Path(f"{number}.vae").read_bytes() for number in range(3)}) == 3


def test_a_compressed_file_that_cannot_be_read_is_told_in_words(run: Vae, tiny: Path) -> None:
    np.save("a.npy", np.zeros((3, 8, 8), np.uint8))
    assert run("compress", "a.npy", "--model", tiny, "-o", "a.vae").code == 0
    Path("short.vae").write_bytes(Path("a.vae").read_bytes()[:-50])
    for arguments, code, words in (
        (["decompress", "short.vae", "--model", tiny, "-o", "b"], 1, "vae: short.vae: truncated or damaged"),
        (["decompress", "a.npy", "--model", tiny, "-o", "b"], 1, "vae: a.npy: not a file of compressed pictures"),
        (["decompress", "a.vae", "-o", "b"], 1, "vae: a.vae: was compressed with tiny/1 of digest "),
        (["decompress", "a.vae", "--model", tiny, "-o", "b.txt"], 2, "vae: b.txt: write to a folder"),
        (["decompress", "missing", "--model", tiny, "-o", "b"], 2, "missing"),
        (["compress", "missing", "--model", tiny, "-o", "b"], 2, "missing"),
        (["compress", "a.npy", "--model", tiny, "-o", "nowhere/b"], 2, "vae: nowhere: there is no such folder"),
        (["compress", "a.npy", "--model", tiny, "-o", "."], 2, "vae: .: is a folder"),
        (["compress", "a.npy", "--model", tiny, "-o", "b", "--binarize", "x"], 2, "--binarize"),
        (["compress", "a.npy", "-o", "b"], 1, "vae: a.npy: the picture has 8 x 8 pixels and the model takes 28 x 28"),
    ):
        outcome = run(*arguments)
        assert outcome.code == code, arguments
        assert words in outcome.err, arguments
    assert {path.name for path in Path().iterdir()} == {"a.npy", "a.vae", "short.vae"}


# --- training


def test_dry_run_prints_the_resolved_configuration_and_does_nothing(run: Vae) -> None:
    outcome = run("train", "mnist", "--set", "seed=7", "--set", "optimization.epochs=3", "--dry-run")
    document = json.loads(outcome.out)
    assert (document["name"], document["seed"], document["optimization"]["epochs"]) == ("mnist", 7, 3)
    assert list(Path().iterdir()) == []


def test_dry_run_tells_what_the_configuration_means_beside_it(run: Vae) -> None:
    outcome = run("train", "mnist", "--set", "objective.kind=elbo", "--set", "objective.beta=784", "--dry-run")
    assert json.loads(outcome.out)["objective"]["beta"] == 784
    first, second, *_, last = outcome.err.splitlines()
    assert first == "objective: minimizes distortion + 784 rate, with one latent an image"
    assert second == "validation: -ELBO at beta = 1 is reported, and the weights where it is lowest are kept"
    assert last.startswith("warning: beta / distortion_weight = 784 is C*H*W: this is what averaging the distortion")


READY_MADE = (
    "cifar10",
    "folder",
    "mnist",
    "mnist-iwae-5",
    "mnist-iwae-50",
    "mnist-mlp",
    "mnist-static-flow",
    "mnist-static-mlp",
    "mnist-vamp",
    "smoke",
)


def test_the_help_names_every_ready_made_configuration(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import configs

    assert tuple(configs.names()) == READY_MADE
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERMINAL_WIDTH", "1000")
    assert f"or one of {', '.join(READY_MADE)}." in " ".join(run("train", "--help").out.split())


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_configurations_resolve(name: str, run: Vae) -> None:
    assert run("train", name, "--dry-run").code == 0


def test_a_name_is_a_ready_made_configuration_even_beside_a_folder_of_that_name(run: Vae) -> None:
    Path("mnist").mkdir()
    assert run("train", "mnist", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "minst"], 2, "one of "),
        (["train", "missing.toml"], 2, "missing.toml"),
        (["train", "mnist", "--set", "optimization.epoch=3"], 2, "optimization.epoch"),
        (["train", "mnist", "--set", "epochs"], 2, "--set"),
        (["train", "mnist", "--set", "epochs=3"], 2, "vae: --set epochs=3: there is no key epochs; did you mean opt"),
        (["train", "pictures"], 2, "vae train folder --set data.path=pictures"),
        (["train", "~nobody-of-that-name/a.toml"], 2, "~nobody-of-that-name/a.toml: cannot be read"),
        (["evaluate", "missing"], 2, "missing"),
        (["export", "missing", "-o", "bundle"], 2, "missing"),
        (["figures", "missing"], 2, "missing"),
        (["compare", "missing", "-o", "out"], 2, "two runs or more"),
        (["compare", "missing", "other", "-o", "out"], 2, "missing: there is no run"),
        (["train", "folder", "--set", "data.path=missing"], 1, "missing"),
    ],
)
def test_a_mistake_in_training_is_told_in_words(arguments: list[str], code: int, words: str, run: Vae) -> None:
    Path("pictures").mkdir()
    outcome = run(*arguments)
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.startswith("vae: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chains", 4], "--chains: belongs to --ais: give both"),
        (["--gaps", "--leapfrog-steps", 4], "--leapfrog-steps: belongs to --ais"),
        (["--ais", "--gap-steps", 4], "--gap-steps: belongs to --gaps: give both"),
        (["--subset", 4], "--subset: belongs to --ais or --gaps"),
        (["--ais", "--temperatures", 1], "greater than or equal to 2"),
    ],
)
def test_an_option_of_what_is_not_asked_for_is_refused(arguments: list[object], words: str, run: Vae) -> None:
    outcome = run("evaluate", "missing", *arguments)
    assert outcome.code == 2
    assert words in outcome.err


def test_an_interrupted_run_has_its_own_exit_code_and_says_how_to_go_on(
    run: Vae, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> bool:
        return False

    monkeypatch.setattr("training.launch.train", interrupted)
    given = ["--run", "my runs/1", "--data-dir", "data", "--publish", "bundles", "--version", "2"]
    outcome = run("train", "smoke", "--set", "seed=2", *given)
    assert outcome.code == 130
    assert outcome.out == ("go on with: vae train 'my runs/1' --resume --data-dir data --publish bundles --version 2\n")
    assert run("train", "smoke").out == "go on with: vae train runs/smoke --resume\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
@pytest.mark.parametrize(
    ("arguments", "where", "words"),
    [
        (["train", "smoke"], "training.launch.train", "interrupted"),
        (["evaluate", "runs/smoke"], "training.evaluate.evaluate_run", "interrupted: nothing was written"),
        (["export", "runs/smoke", "-o", "b"], "training.export.export", "interrupted: nothing was exported"),
        (["figures", "runs/smoke"], "training.figures.draw_run", "interrupted"),
        (["compare", "a", "b", "-o", "c"], "training.figures.comparison.draw_comparison", "interrupted"),
    ],
)
def test_a_signal_is_answered_in_one_line(
    how: str, arguments: list[str], where: str, words: str, run: Vae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes: while data are read, while a model is measured, as process 1 of a container."""

    def told(*arguments: object, **options: object) -> None:
        if how == "ctrl-c":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(where, told)
    outcome = run(*arguments)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", f"vae: {words}\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("imported", "command"),
    [
        ("numpy", ["train", "smoke", "--dry-run"]),
        ("torch", ["train", "smoke", "--dry-run"]),
        ("onnxruntime", ["bundle", "verify"]),
    ],
)
def test_ctrl_c_while_libraries_are_imported_is_no_traceback(imported: str, command: list[str]) -> None:
    code = f"""
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == {imported!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # however the tests were started
sys.meta_path.insert(0, Impatient())
sys.argv = ["vae", *{command}]
import vae
vae.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_who_interrupts_publication_is_told_that_the_run_is_complete(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.launch.train", lambda *arguments, **options: True)
    monkeypatch.setattr("training.launch.publish_run", interrupted)
    outcome = run("train", "smoke", "--publish", "bundles")
    assert (outcome.code, outcome.err) == (130, "vae: interrupted\n")
    assert outcome.out == (
        "the run is complete, and not published; go on with: vae train runs/smoke --resume --publish bundles\n"
    )


def test_a_run_folder_is_a_configuration(run: Vae) -> None:
    assert run("train", "smoke", *ONE_EPOCH, "--set", "seed=7", "--run", "runs/mine").code == 0
    for config in ("runs/mine", "runs/mine/config.json"):
        again = run("train", config, "--resume")
        assert again.code == 0, again.err
        assert "runs/mine: complete already, after step 24" in again.out
    changed = run("train", "runs/mine", "--resume", "--set", "seed=8")
    assert changed.code == 2
    assert "other settings in seed" in changed.err
    assert "a run is there already" in run("train", "runs/mine").err
    document = json.loads(run("train", "runs/mine", "--set", "name=other", "--dry-run").out)
    assert (document["seed"], document["optimization"]["epochs"]) == (7, 1)
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]


def test_after_training_it_says_what_comes_next(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    said = run("train", "smoke", *ONE_EPOCH, "--run", "~/r", "--data-dir", "~/d").out.splitlines()
    assert said[-2:] == [
        f"measure it: vae evaluate {Path.cwd()}/r --data-dir {Path.cwd()}/d",
        f"export it:  vae export {Path.cwd()}/r -o bundles/r --data-dir {Path.cwd()}/d",
    ]


def test_a_run_of_this_folder_is_exported_under_its_name(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine").mkdir()
    monkeypatch.chdir("mine")
    said = run("train", "smoke", *ONE_EPOCH, "--run", ".").out.splitlines()
    assert said[-1] == "export it:  vae export . -o bundles/mine"


def test_what_could_not_be_published_is_not_trained(run: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before hours of training, and nothing is left behind."""

    def unexpected(*arguments: object, **options: object) -> bool:
        raise AssertionError("trained")

    monkeypatch.setattr("training.launch.train", unexpected)
    Path("file").write_text("")
    Path("link").mkdir()
    Path("link/smoke").symlink_to("elsewhere")
    Path("taken/smoke").mkdir(parents=True)
    Path("taken/smoke/thesis.txt").write_text("years of work")
    for arguments, words in (
        (["--version", "2"], "--publish"),
        (["--publish", "bundles", "--version", "../1"], "version '../1'"),
        (["--publish", "bundles", "--version", ""], "version ''"),
        (["--publish", "file"], "file: is no folder"),
        (["--publish", "link"], "link/smoke: is no folder of its own"),
        (["--publish", "taken"], "no bundle"),
    ):
        outcome = run("train", "smoke", *arguments)
        assert outcome.code == 2, arguments
        assert words in outcome.err
    assert {path.name for path in Path().iterdir()} == {"file", "link", "taken"}


def test_from_one_command_to_a_bundle_that_works(run: Vae) -> None:
    quick = [
        "--set",
        "optimization.epochs=1",
        "--set",
        "evaluation.importance_samples=2",
        "--set",
        "evaluation.images=20",
    ]
    first = run("train", "smoke", *quick, "--publish", "bundles", "--resume")
    assert first.code == 0, first.err
    assert {"metrics.json", "config.json", "figures"} <= {path.name for path in Path("runs/smoke").iterdir()}
    assert run("bundle", "verify", "bundles/smoke").code == 0
    # Typed again, it has nothing to train, and publishes again.
    again = run("train", "smoke", *quick, "--publish", "bundles", "--resume", "--version", "2")
    assert again.code == 0, again.err
    assert "smoke/2 is sound" in run("bundle", "verify", "bundles/smoke").out
    # Without --resume a run is never overwritten.
    assert run("train", "smoke", *quick).code == 2
    assert run("export", "runs/smoke", "-o", "bundles/smoke").code == 1
    assert run("figures", "bundles/smoke", "-o", "drawn").code == 0
    assert run("evaluate", "runs/smoke", "--samples", 1, "--images", 5).code == 0
    more = run(
        "evaluate", "runs/smoke", "--ais", "--gaps", "--subset", 3, "--chains", 2, "--temperatures", 4,
        "--leapfrog-steps", 5, "--initial", "prior", "--gap-steps", 6,
    )  # fmt: skip
    assert more.code == 0, more.err
    measured = json.loads(Path("runs/smoke/metrics.json").read_text(encoding="utf-8"))
    annealing, gaps = (measured[part]["protocol"] for part in ("annealing", "gaps"))
    assert (annealing["images"], annealing["chains"], annealing["temperatures"]) == (3, 2, 4)
    assert (annealing["leapfrog_steps"], annealing["initial"], gaps["images"], gaps["steps"]) == (5, "prior", 3, 6)
    assert run("figures", "runs/smoke", "--no-posteriors").code == 0
    assert Path("runs/smoke/figures/bounds.png").exists()
    assert not Path("runs/smoke/figures/posteriors.png").exists()
    assert "a bundle has no gradients" in run("figures", "bundles/smoke", "--no-posteriors").err
