"""However a run ends in the middle, going on gives the weights of a run that was left alone, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.digits import STEPS, assert_same_weights, digits_config, restored, run_digits
from training.config import RunConfig
from training.errors import CheckpointError, ConfigError
from training.interruption import Interruption
from training.loop import Loop
from training.run import RunFolder, read_log

ROOT = Path(__file__).parents[2]
# Checkpoints of last.safetensors are written at the steps 4, 6, 8, 12, 16, 18; of best.safetensors at 6, 12, 18.
DEATHS = {
    "float32": {
        "before-any-checkpoint": "after-step:3",
        "in-an-epoch": "after-step:9",
        "writing": "half-written:last.safetensors:3",
        "written": "before-rename:last.safetensors:4",
        "right-after-a-checkpoint": "after-rename:last.safetensors:4",
        "between-best-and-last": "after-rename:best.safetensors:2",
        "right-after-the-last": "after-rename:last.safetensors:6",
        "told": "told",
    },
    "bfloat16": {"in-an-epoch": "after-step:9", "between-best-and-last": "after-rename:best.safetensors:2"},
}


def config_of(precision: str) -> RunConfig:
    return digits_config(optimization={"precision": precision})


def assert_log_is_whole(run: RunFolder) -> None:
    """Each step that should be there, once, in order."""
    lines = [json.loads(line) for line in run.log_file.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(2, STEPS + 1, 2))
    assert [line["step"] for line in lines if line["split"] == "validation"] == [6, 12, 18]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each precision and in it a run for each death, each ended in the middle."""
    home = tmp_path_factory.mktemp("killed")
    deaths = [(precision, name, death) for precision, by_name in DEATHS.items() for name, death in by_name.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying", *(f"{p}:{home / p / name}={death}" for p, name, death in deaths)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    expected = [0 if death == "told" else -signal.SIGKILL for _, _, death in deaths]
    assert [int(code) for code in done.stdout.split()] == expected, done.stderr
    return home


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Runs that were left alone."""
    home = tmp_path_factory.mktemp("references")
    return {precision: run_digits(home / precision, config_of(precision))[0] for precision in DEATHS}


@pytest.mark.parametrize(
    ("precision", "death"),
    [(precision, death) for precision, deaths in DEATHS.items() for death in deaths if death != "told"],
)
def test_killed(precision: str, death: str, killed: Path, references: dict[str, RunFolder]) -> None:
    folder = killed / precision / death
    assert bool(list(folder.glob(".*.tmp"))) == (death in ("writing", "written"))  # it did die where it should
    run, complete, _ = run_digits(folder, config_of(precision), resume=True)
    assert complete
    assert_same_weights(run, references[precision])
    assert_log_is_whole(run)
    assert list(folder.glob(".*.tmp")) == []


def signal_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send the signal to this process in the middle of the loop's work after a step."""
    original = Loop._step

    def interrupted(self: Loop, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainee.progress.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Loop, "_step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [5, 12])
def test_interrupted(
    number: signal.Signals,
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    references: dict[str, RunFolder],
) -> None:
    """A polite signal costs nothing: the step is finished, and a checkpoint holds it."""
    with monkeypatch.context() as patch:
        signal_after(patch, step, number)
        run, complete, printed = run_digits(tmp_path / "run")
    assert not complete
    assert f"interrupted after step {step}; a checkpoint is written" in printed
    assert restored(run.last).progress.step == step
    run, complete, printed = run_digits(tmp_path / "run", resume=True)
    assert complete
    assert f"resumed at step {step}" in printed
    assert_same_weights(run, references["float32"])
    assert_log_is_whole(run)


def test_between_epochs_that_are_not_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that validates and checkpoints less often than once an epoch goes on as exactly."""
    config = digits_config(schedule={"validate_every": 2, "checkpoint_every": 1000})
    reference, _, _ = run_digits(tmp_path / "reference", config)
    run = tmp_path / "run"
    for step in (6, 7, 14):
        with monkeypatch.context() as patch:
            signal_after(patch, step, signal.SIGTERM)
            run_digits(run, config, resume=True)
    _, complete, _ = run_digits(run, config, resume=True)
    assert complete
    assert_same_weights(RunFolder(run), reference)
    assert [line["step"] for line in read_log(RunFolder(run).log_file) if line["split"] == "validation"] == [12, 18]


def test_interrupted_with_a_learned_scale_and_without_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every parameter that there is has its state in a checkpoint, the likelihood's as well."""
    config = digits_config(
        model={"network": {"kind": "mlp", "hidden": [16]}, "likelihood": {"family": "gaussian"}},
        data={"binarization": "none"},
    )
    reference, _, _ = run_digits(tmp_path / "reference", config)
    with monkeypatch.context() as patch:
        signal_after(patch, 7, signal.SIGTERM)
        run_digits(tmp_path / "run", config)
    run, complete, _ = run_digits(tmp_path / "run", config, resume=True)
    assert complete
    assert_same_weights(run, reference)
    assert any("likelihood" in name for name in load_file(run.last))


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "elbo", "beta": 2.0, "free_bits": 0.1, "schedule": {"kind": "cyclical", "cycles": 2}},
        {"kind": "elbo", "distortion_weight": 0.0},
        {"kind": "iwae", "samples": 3, "gradient": "dreg"},
        {"kind": "iwae", "samples": 5, "gradient": "stl", "gradient_samples": 2},
        {"kind": "beta-tc", "beta": 4.0},
        {"kind": "autoencoder"},
    ],
    ids=lambda objective: f"{objective['kind']}-{len(objective)}",
)
def test_interrupted_whatever_is_minimized(
    objective: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where beta stands is a function of the step, and every parameter has its optimizer's state."""
    config = digits_config(objective=objective, model={"network": {"kind": "mlp", "hidden": [16]}})
    reference, _, _ = run_digits(tmp_path / "reference", config)
    with monkeypatch.context() as patch:
        signal_after(patch, 7, signal.SIGTERM)
        run_digits(tmp_path / "run", config)
    run, complete, _ = run_digits(tmp_path / "run", config, resume=True)
    assert complete
    assert_same_weights(run, reference)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's own, of its compiler
@pytest.mark.usefixtures("compiler")
def test_interrupted_and_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled with one beta and then made to take any is compiled the other way round by who resumes."""
    config = digits_config(
        model={"network": {"kind": "mlp", "hidden": [6]}},  # compiled three times
        objective={"kind": "elbo", "schedule": {"kind": "warmup", "over_epochs": 3}},
        optimization={"compile": True},
    )
    reference, _, _ = run_digits(tmp_path / "reference", config)
    with monkeypatch.context() as patch:
        signal_after(patch, 7, signal.SIGTERM)
        run_digits(tmp_path / "run", config)
    run, complete, _ = run_digits(tmp_path / "run", config, resume=True)
    assert complete
    assert_same_weights(run, reference)


def test_a_signal_after_the_checkpoint_was_decided_on_is_heeded_a_step_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop never ends at a step that it has no checkpoint of."""
    looks = 0

    class Late(Interruption):
        """Asked for between the two places that might look."""

        def __getattribute__(self, name: str) -> Any:
            nonlocal looks
            if name == "requested":
                looks += 1
                return looks > 6
            return super().__getattribute__(name)

    monkeypatch.setattr("training.train.Interruption", Late)
    run, complete, printed = run_digits(tmp_path / "run")
    step = re.search(r"interrupted after step (\d+)", printed)
    assert not complete
    assert step is not None
    assert restored(run.last).progress.step == int(step[1])


def test_killed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: dict[str, RunFolder]
) -> None:
    """Interrupted after every single step."""
    for step in range(1, STEPS):
        with monkeypatch.context() as patch:
            signal_after(patch, step, signal.SIGTERM)
            _, complete, _ = run_digits(tmp_path / "run", resume=True)
            assert not complete
    run, complete, _ = run_digits(tmp_path / "run", resume=True)
    assert complete
    assert_same_weights(run, references["float32"])


def test_a_process_that_is_told_to_stop_stops_with_a_checkpoint(killed: Path) -> None:
    """SIGTERM from outside, at no particular moment."""
    run = RunFolder(killed / "float32" / "told")
    trainee = restored(run.last, run.config())
    assert trainee.progress.step >= read_log(run.log_file)[-1]["step"] > 0
    assert not trainee.progress.finished


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 4}, "seed"),
            ({"model": {"latent_dim": 4}}, "model"),
            ({"optimization": {"learning_rate": 0.1}}, "optimization"),
            ({"optimization": {"compile": True}}, "optimization"),
            ({"objective": {"kind": "elbo", "beta": 4.0}}, "objective"),
            ({"data": {"validation_fraction": 0.2}}, "data.validation_fraction"),
            ({"schedule": {"validate_every": 2}}, "schedule.validate_every"),
            ({"threads": 2, "seed": 4}, "seed, threads"),
        ],
    )
    def test_another_configuration(self, change: dict[str, Any], named: str, finished: RunFolder) -> None:
        with pytest.raises(ConfigError, match=f"other settings in {re.escape(named)} .* start another with --run"):
            run_digits(finished.folder, digits_config(**change), resume=True)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("device", "Another GPU"),
            ("threads", 7),
            ("precision", "float16"),
        ],
    )
    def test_what_changes_the_rounding(self, field: str, value: object, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        run.provenance_file.write_text(json.dumps(document | {field: value}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"{field} was .* would not be those of an uninterrupted run"):
            run_digits(run.folder, resume=True)

    @pytest.mark.parametrize("split", ["training", "validation"])
    def test_other_images(self, split: str, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        document["data"][split] = "0" * 64
        run.provenance_file.write_text(json.dumps(document), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"images were added, removed or changed since .*--run"):
            run_digits(run.folder, resume=True)

    def test_another_pytorch(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        document["libraries"]["torch"] = "1.13.1"
        run.provenance_file.write_text(json.dumps(document), encoding="utf-8")
        with pytest.raises(CheckpointError, match=rf"PyTorch was 1\.13\.1 and is {re.escape(torch.__version__)}"):
            run_digits(run.folder, resume=True)

    def test_another_compiler(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        run.provenance_file.write_text(json.dumps(document | {"compiler": "g++ 1"}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"C\+\+ compiler was g\+\+ 1 and is None"):
            run_digits(run.folder, resume=True)

    def test_another_kind_of_cpu(self, tmp_path: Path, finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        run = copy_of(finished, tmp_path)
        before = torch.backends.cpu.get_cpu_capability()
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ALTIVEC")
        with pytest.raises(CheckpointError, match=f"CPU capability was {before} and is ALTIVEC"):
            run_digits(run.folder, resume=True)

    def test_a_damaged_checkpoint(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        run.last.write_bytes(finished.last.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"last\.safetensors: damaged"):
            run_digits(run.folder, resume=True)

    def test_starting_where_a_run_is(self, finished: RunFolder) -> None:
        before = finished.last.read_bytes()
        with pytest.raises(
            ConfigError, match=r"a run is there already; go on with it \(vae train .* --resume\), or name another"
        ):
            run_digits(finished.folder)
        assert finished.last.read_bytes() == before

    def test_while_another_process_trains_there(self, finished: RunFolder) -> None:
        with finished.held(), pytest.raises(ConfigError, match="another process is training there"):
            run_digits(finished.folder, resume=True)


class TestAllowed:
    def test_a_run_of_before_there_were_capabilities_and_listings(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        for name in ("cpu_capability", "resumed"):
            del document[name]
        del document["data"]["listing"]
        run.provenance_file.write_text(json.dumps(document), encoding="utf-8")
        _, complete, _ = run_digits(run.folder, resume=True)
        assert complete

    def test_a_run_of_before_there_were_objectives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: dict[str, RunFolder]
    ) -> None:
        """Its config.json has no such section: it minimizes what it always did, and ends with the same weights."""
        with monkeypatch.context() as patch:
            signal_after(patch, 7, signal.SIGTERM)
            run, _, _ = run_digits(tmp_path / "run")
        document = json.loads(run.config_file.read_text(encoding="utf-8"))
        assert document.pop("objective")["kind"] == "elbo"
        run.config_file.write_text(json.dumps(document), encoding="utf-8")
        _, complete, _ = run_digits(run.folder, resume=True)
        assert complete
        assert_same_weights(run, references["float32"])

    def test_another_commit_is_written_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for commit, step in (("a" * 40, 5), ("b" * 40, 9), ("b" * 40, STEPS)):
            with monkeypatch.context() as patch:
                patch.setattr("training.provenance.git_commit", lambda commit=commit: commit)
                signal_after(patch, step, signal.SIGTERM)
                run, _, _ = run_digits(tmp_path / "run", resume=True)
        provenance = run.provenance()
        assert provenance.git_commit == "a" * 40
        assert [(each.git_commit, each.step) for each in provenance.resumed] == [("b" * 40, 5), ("b" * 40, 9)]
        assert provenance.commits == ["a" * 40, "b" * 40]
        run_digits(run.folder, resume=True)  # it is complete: nothing goes on
        assert run.provenance() == provenance

    def test_the_same_images_under_another_name(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
        document["data"] |= {"name": "what the folder was called before", "listing": "0" * 64}
        run.provenance_file.write_text(json.dumps(document), encoding="utf-8")
        _, complete, _ = run_digits(run.folder, resume=True)
        assert complete

    def test_resuming_what_is_finished_changes_nothing(self, tmp_path: Path, finished: RunFolder) -> None:
        run = copy_of(finished, tmp_path)
        _, complete, printed = run_digits(run.folder, resume=True)
        assert complete
        assert printed == f"{run.folder}: complete already, after step {STEPS}\n"
        assert run.last.read_bytes() == finished.last.read_bytes()
        assert read_log(run.log_file) == read_log(finished.log_file)

    def test_resuming_what_never_started_starts_it(self, tmp_path: Path, finished: RunFolder) -> None:
        run, complete, _ = run_digits(tmp_path / "run", resume=True)
        assert complete
        assert_same_weights(run, finished)

    def test_other_checkpoints_logs_and_evaluations(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: dict[str, RunFolder]
    ) -> None:
        with monkeypatch.context() as patch:
            signal_after(patch, 7, signal.SIGTERM)
            run_digits(tmp_path / "run")
        config = digits_config(schedule={"checkpoint_every": 5, "log_every": 1}, evaluation={"importance_samples": 3})
        run, complete, _ = run_digits(tmp_path / "run", config, resume=True)
        assert complete
        assert run.config() == config
        assert_same_weights(run, references["float32"])


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    """The files of a run in another folder."""
    for file in run.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return RunFolder(folder)
