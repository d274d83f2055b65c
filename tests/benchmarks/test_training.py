"""The benchmark of training: its data, its networks, our side of it, and its report; nothing depends on a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import training
from benchmarks.contenders import training_layers, training_ours
from benchmarks.contenders.training_job import LATENT_DIMS, Clock, Job, Network, Outcome, document, networks, rate
from benchmarks.training import Failed, Plan, main, parse, run
from benchmarks.training_images import drawn_images, write_images
from model.vae import VAE
from training.config import check

NETWORKS: tuple[Network, ...] = ("mlp", "conv")


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job(folder: Path, network: Network = "mlp") -> Job:
    write_images(folder / "data.npz", 120, None)
    return Job(network, 20, 120, 2, 1, str(folder / "data.npz"), str(folder))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_layers_are_those_that_ours_trains(network: Network, tmp_path: Path) -> None:
    one = job(tmp_path, network)
    config = check(document(one), "test")
    ours = VAE(config.model, config.image.shape)
    for mine, theirs in zip((ours.encoder, ours.decoder), networks(one), strict=True):
        assert str(mine) == str(theirs)
        assert [p.shape for p in mine.parameters()] == [p.shape for p in theirs.parameters()]
    encoder, decoder = networks(one)
    images = torch.zeros(3, 1, 28, 28)
    assert encoder(images).shape == (3, 2 * LATENT_DIMS[network])
    assert decoder(torch.zeros(3, LATENT_DIMS[network])).shape == images.shape


def test_the_mlp_is_784_400_40() -> None:
    encoder, decoder = networks(Job("mlp", 1, 1, 1, 1, "", ""))
    shapes = [
        tuple(layer.weight.shape) for net in (encoder, decoder) for layer in net.modules() if type(layer) is nn.Linear
    ]
    assert shapes == [(400, 784), (80, 400), (400, 40), (784, 400)]
    assert any(isinstance(layer, nn.ReLU) for layer in encoder.modules())


def test_ours_trains_and_is_timed(tmp_path: Path) -> None:
    one = job(tmp_path)
    outcome = training_ours.main(one)
    assert len(outcome.seconds) == one.epochs
    assert min(outcome.seconds) > 0
    assert outcome.loss is not None
    assert 0 < outcome.loss < 784 * np.log(2)  # better than a fair coin a pixel
    assert outcome.parameters == sum(p.numel() for net in networks(one) for p in net.parameters())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [6, 12, 18]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [18]
    assert outcome.loss == pytest.approx(lines[-2]["negative_elbo"])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_limit_runs_every_layer_both_ways(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path, network)
    made: list[nn.Module] = []

    def kept(asked: Job) -> tuple[nn.Module, nn.Module]:
        made.extend(networks(asked))
        return made[0], made[1]

    monkeypatch.setattr(training_layers, "networks", kept)
    outcome = training_layers.main(one)
    assert (len(outcome.seconds), outcome.loss) == (one.epochs, None)
    assert all(parameter.grad is not None for net in made for parameter in net.parameters())


def test_the_clock_leaves_out_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", iter([10.0, 12.0, 17.0]).__next__)
    clock = Clock()
    for _ in range(3):
        clock.read()
    outcome = clock.outcome(1.0, (nn.Linear(2, 3), nn.Linear(3, 1)), {})
    assert (outcome.seconds, outcome.parameters) == ([2.0, 5.0], 13)
    assert rate(outcome, 700) == 200


def test_what_contenders_tell_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome([1.0], 3.25, 7, {"torch": "2"})
    print("something else before it")
    outcome.tell()
    assert Outcome.parse(capsys.readouterr().out) == outcome
    one = Job("conv", 1, 2, 3, 4, "a", "b", "bfloat16", compile=True)
    assert Job.parse(one.text()) == one


def test_images_are_binary_and_differ() -> None:
    images = drawn_images(50)
    assert set(np.unique(images)) == {0, 1}
    assert 0.05 < images.mean() < 0.5
    assert len(np.unique(images.reshape(50, -1), axis=0)) == 50
    assert np.array_equal(images, drawn_images(50))


def test_mnist_is_read(tmp_path: Path) -> None:
    (tmp_path / "mnist-static").mkdir()
    rows = (np.random.default_rng(0).random((320, 784)) < 0.2).astype(np.uint8)
    np.savez(tmp_path / "mnist-static" / "binarized_mnist.npz", train=rows, test=1 - rows)
    write_images(tmp_path / "data.npz", 120, tmp_path)
    with np.load(tmp_path / "data.npz") as arrays:
        together = np.concatenate([arrays["train"], arrays["valid"], arrays["test"]])
    assert np.array_equal(together.reshape(320, 784), rows * 255)
    with pytest.raises(SystemExit, match="320 images, and 321 are needed"):
        write_images(tmp_path / "data.npz", 121, tmp_path)
    with pytest.raises(SystemExit, match="not found"):
        write_images(tmp_path / "data.npz", 120, tmp_path / "nowhere")


def fake(module: str, one: Job) -> Outcome:
    """Ours takes 2 s, or half in bfloat16, and half compiled; pythae 4, and the layers a quarter of one."""
    halves = (one.precision == "bfloat16") + one.compile
    seconds = {"training_pythae": 4.0, "training_layers": 0.25}.get(module, 2.0 / 2**halves)
    return Outcome([seconds] * one.epochs, 100.0, 5, {"torch": "2"})


def plan(**changes: Any) -> Plan:
    document: dict[str, Any] = {"networks": ("mlp",), "batches": (20,), "images": {"mlp": 120}, "epochs": 2}
    return Plan(**(document | changes))


def test_contenders_take_turns() -> None:
    taken: list[tuple[str, str, bool]] = []

    def train(module: str, one: Job) -> Outcome:
        taken.append((module, one.precision, one.compile))
        return fake(module, one)

    (row,) = run(plan(rounds=3, threads=1, data_dir=None), train, lambda _: None)
    assert len(taken) == 18
    for start in (0, 6, 12):
        assert len(set(taken[start : start + 6])) == 6
    assert len({taken[start] for start in (0, 6, 12)}) == 3
    assert training.ratios(row) == [2.0] * 3
    assert training.ratios(row, "ours compiled in bfloat16") == [8.0] * 3


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report"
    main(["--networks", "mlp", "conv", "--batches", "100", "--images", "200", "--output", str(output)], fake)
    text = output.with_suffix(".md").read_text()
    assert capsys.readouterr().out == text
    assert "| mlp | 5 | 100 | 100 | 200 | 200 | 400 | 50 | 800 |" in text
    ratios = " | ".join(f"{ratio}.00 ({ratio}.00, {ratio}.00)" for ratio in (2, 4, 4, 8, 16))
    met = "3: met by ours in bfloat16, ours compiled, ours compiled in bfloat16"
    assert f"| mlp | 100 | {ratios} | {met} |" in text
    assert "| 1: met by ours, ours in bfloat16, ours compiled, ours compiled in bfloat16 |" in text
    assert "| conv | 100 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 |" in text
    assert "Not run" not in text
    report = json.loads(output.with_suffix(".json").read_text())
    assert [row["network"] for row in report["rows"]] == ["mlp", "conv"]
    assert report["rows"][0]["cells"]["pythae"]["rates"] == [50.0] * 5


def test_a_contender_that_fails_is_told_and_not_run_again(tmp_path: Path) -> None:
    tries: list[str] = []

    def train(module: str, one: Job) -> Outcome:
        tries.append(module)
        if module == "training_pythae":
            raise Failed("no such module")
        return fake(module, one)

    output = tmp_path / "report"
    main(["--networks", "mlp", "--batches", "100", "--images", "200", "--rounds", "2", "--output", str(output)], train)
    assert tries.count("training_pythae") == 1
    text = output.with_suffix(".md").read_text()
    assert "- pythae: no such module" in text
    assert "| — | — | — | — | — | 3: not compared |" in text


def test_other_networks_do_not_compare(tmp_path: Path) -> None:
    def train(module: str, one: Job) -> Outcome:
        outcome = fake(module, one)
        return outcome if module == "training_pythae" else Outcome(**(vars(outcome) | {"parameters": 6}))

    with pytest.raises(SystemExit, match="different networks"):
        main(["--networks", "mlp", "--batches", "100", "--images", "200", "--output", str(tmp_path / "report")], train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "0"], "0 is not positive"),
        (["--images", "250", "--batches", "100"], "--images 250 of mlp is no multiple of --batches 100"),
        (["--networks", "resnet"], "invalid choice"),
    ],
)
def test_arguments_are_checked(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err
