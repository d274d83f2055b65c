"""Two processes that share each batch train what one process trains; they stop together, and go on bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Generator, Tensor

from model.vae import VAE
from tests.support.digits import STEPS, assert_same_weights, digits_config, run_digits
from tests.support.together import shared_config
from training.checkpoint import Trainee
from training.config import RunConfig
from training.distributed import ALONE, World
from training.errors import CheckpointError, ConfigError
from training.launch import Publication, launch
from training.loop import build_trainee
from training.noise import Shared, standard_normal
from training.objective import training_loss, validation_loss
from training.objectives.autoencoder import Autoencoder
from training.objectives.elbo import UNWEIGHTED, Elbo
from training.objectives.iwae import Iwae
from training.objectives.loss import Objective
from training.run import RunFolder

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TOLERANCE = 2e-4


def torchrun(*arguments: str | Path, processes: int = 2) -> subprocess.Popen[str]:
    """Started; free ports, and not a word of torchrun's own on stdout."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
            *("-m", "--", *map(str, arguments)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a successful torchrun wrote on stdout and stderr."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A complete run of two processes, by the documented command, and what it printed."""
    home = tmp_path_factory.mktemp("together")
    file = home / "config.json"
    file.write_text(shared_config().model_dump_json(exclude_defaults=True))
    out, _ = finished(torchrun("training", file, "--run", home / "run"))
    return RunFolder(home / "run"), out


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log_file.read_text(encoding="utf-8").splitlines()]


def assert_same_curve(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [(line["step"], line["split"]) for line in ours] == [(line["step"], line["split"]) for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine.keys() - {"split", "images_per_second"}:
            assert mine[name] == pytest.approx(other[name], rel=TOLERANCE), (name, mine["step"])


def test_the_curve_is_that_of_one_process(together: tuple[RunFolder, str], tmp_path: Path) -> None:
    run, printed = together
    alone, complete, _ = run_digits(tmp_path / "alone", shared_config())
    assert complete
    assert lines(run)[-1]["step"] == STEPS
    assert_same_curve(lines(run), lines(alone))
    assert run.provenance().processes == 2
    assert "2 processes, 1 thread each" in printed
    assert len(printed.splitlines()) == 8  # what it trains and means, three validations, and what to type: once each


def test_the_curve_is_the_same_where_steps_are_compiled(tmp_path: Path) -> None:
    def config(*, compiled: bool) -> RunConfig:
        return digits_config(
            model={"network": {"kind": "mlp", "hidden": [6]}},
            optimization={"batch_size": 124, "epochs": 1, "compile": compiled},
        )

    file = tmp_path / "config.json"
    file.write_text(config(compiled=True).model_dump_json(exclude_defaults=True))
    finished(torchrun("training", file, "--run", tmp_path / "together"))
    alone, _, _ = run_digits(tmp_path / "alone", config(compiled=False))
    assert_same_curve(lines(RunFolder(tmp_path / "together")), lines(alone))


def test_other_noise_would_be_seen(
    together: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerance is far below what other noise does, from the same first weights and in the same order."""

    def otherwise(*arguments: Any, **options: Any) -> Trainee:
        trainee = build_trainee(*arguments, **options)
        trainee.generator.manual_seed(99)
        return trainee

    monkeypatch.setattr("training.train.build_trainee", otherwise)
    run, _ = together
    other, _, _ = run_digits(tmp_path / "other", shared_config())
    theirs = [line["rate"] for line in lines(other) if line["split"] == "train"]
    ours = [line["rate"] for line in lines(run) if line["split"] == "train"]
    assert max(abs(a - b) / a for a, b in zip(ours, theirs, strict=True)) > 10 * TOLERANCE


def test_one_that_is_told_stops_all_and_they_go_on_bit_for_bit(together: tuple[RunFolder, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    out, _ = finished(torchrun("tests.support.together", folder, "1:8"))
    assert "interrupted after step 8; a checkpoint is written" in out
    # PyTorch's threads that outlive the group can abort an interpreter that ends.
    assert {f"rank {rank}: stopped, threads left: []" for rank in (0, 1)} <= set(out.splitlines())
    with pytest.raises(CheckpointError, match="number of processes was 2 and is 1"):
        run_digits(folder, shared_config(), resume=True)
    out, _ = finished(torchrun("training", folder, "--resume"))
    assert "resumed at step 8" in out
    assert_same_weights(RunFolder(folder), together[0])


def test_torchrun_that_is_told_stops_all(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(shared_config(epochs=100_000).model_dump_json(exclude_defaults=True))
    run = RunFolder(tmp_path / "run")
    process = torchrun("training", file, "--run", run.folder)
    deadline = time.monotonic() + 120
    while not (run.log_file.exists() and run.log_file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert "a checkpoint is written" in out, err
    assert out.count("go on with: vae train") == 1
    assert run.last.exists()


def test_an_error_says_whose_it_is(tmp_path: Path) -> None:
    config, folder = digits_config(), tmp_path / "run"
    for world, whose in ((World(0, 2, 0, 2), "^"), (World(1, 2, 1, 2), "^process 1 of 2: ")):
        with pytest.raises(ConfigError, match=f"{whose}optimization.batch_size = 125 does not divide"):
            launch(config, folder, Publication(None, None), None, resume=False, console=Console(), world=world)
    assert not folder.exists()


@pytest.mark.parametrize(
    "objective", [UNWEIGHTED, Elbo(0.5, 2.0), Iwae(5), Iwae(3, "dreg"), Iwae(5, "dreg", 2), Autoencoder()]
)
@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_a_batch_are_the_batch(objective: Objective, size: int) -> None:
    """The mean of the shares' losses and gradients is that of the whole batch, noise and binarization included."""
    torch.manual_seed(0)
    config = digits_config()
    model = VAE(config.model, config.image.shape)
    images = torch.rand(12, 1, 8, 8)

    def loss(rows: slice | None) -> tuple[Tensor, Tensor, Tensor]:
        model.zero_grad()
        generator = Generator().manual_seed(7)
        found = training_loss(model, images, "dynamic", generator, autocast=False, objective=objective, rows=rows)
        torch.autograd.backward(found.objective)
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return found.objective.detach(), torch.cat(gradients), generator.get_state()

    whole, gradient, state = loss(None)
    shares = [loss(World(rank, size).rows(len(images))) for rank in range(size)]
    torch.testing.assert_close(sum(share[0] for share in shares) / size, whole)
    torch.testing.assert_close(sum(share[1] for share in shares) / size, gradient, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(share[2], state) for share in shares)


def test_a_share_of_validation_may_be_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch has an image for one of three processes; the others draw for it, too."""
    config = digits_config()
    model = VAE(config.model, config.image.shape)
    batches = torch.split(torch.rand(9, 1, 8, 8), 4)

    def values(world: World) -> dict[str, float]:
        generator = Generator().manual_seed(7)
        return validation_loss(model, batches, "dynamic", generator, autocast=False, world=world)

    alone, sent = values(ALONE), list[Tensor]()

    def send(_: World, tensor: Tensor) -> Tensor:
        sent.append(tensor)
        return tensor

    monkeypatch.setattr(World, "total", send)
    for rank in range(3):
        values(World(rank, 3))
    *sums, images = torch.stack(sent).sum(0)
    assert images == 9
    assert [float(total / images) for total in sums] == pytest.approx(list(alone.values()), rel=1e-5)


@pytest.mark.parametrize("before", [(), (4,)])
def test_an_image_gets_the_noise_that_it_gets_alone(before: tuple[int, ...]) -> None:
    whole = standard_normal((*before, 7, 3), Generator().manual_seed(1), CPU)
    pieces = []
    for rank in range(3):
        rows = World(rank, 3).rows(7)
        assert rows is not None
        shared = Shared(Generator().manual_seed(1), rows, 7)
        pieces.append(standard_normal((*before, rows.stop - rows.start, 3), shared, CPU))
    assert torch.equal(torch.cat(pieces, -2), whole)


@pytest.mark.parametrize("images", [0, 1, 2, 7, 12])
def test_rows_are_every_image_once(images: int) -> None:
    found = [World(rank, 3).rows(images) for rank in range(3)]
    assert [row for rows in found if rows for row in range(images)[rows]] == list(range(images))
    assert ALONE.rows(images) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimization": {"batch_size": 125}}, "batch_size = 125 does not divide among 2 processes"),
        (
            {"objective": {"kind": "beta-tc", "beta": 4}},
            "objective.kind = 'beta-tc' looks at all images",
        ),
        ({"objective": {"kind": "elbo", "free_bits": 0.1}}, "objective.free_bits looks at all images"),
    ],
)
def test_what_cannot_be_divided(changes: dict[str, Any], message: str) -> None:
    config = digits_config(**({"optimization": {"batch_size": 124}} | changes))
    with pytest.raises(ConfigError, match=message):
        World(0, 2).check(config)
    ALONE.check(config)


def test_the_place_that_torchrun_gives() -> None:
    assert World.of({}) == World.of({"WORLD_SIZE": "4"}) == ALONE
    for environment in ({"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}):
        with pytest.raises(ConfigError, match="torchrun"):
            World.of(environment)


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    second = World(1, 2, 1, 2)
    assert second.device("auto") == second.device("cuda") == torch.device("cuda", 1)
    assert second.device("cpu") == CPU
    assert ALONE.device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="device = 'cuda:1' is one device, and 2 processes train"):
        second.device("cuda:1")
    with pytest.raises(ConfigError, match="3 processes on this machine take as many CUDA devices, and PyTorch sees 2"):
        World(0, 3, 0, 3).device("auto")


def test_processes_that_cannot_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="the 2 processes cannot find each other"), World(0, 2, 0, 2).joined(CPU):
        pass
