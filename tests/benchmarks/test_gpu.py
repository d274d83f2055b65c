"""The GPU benchmark's parts, and all of it on the CPU; nothing here depends on how long anything takes."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.device import flops_of, measure_limits, take_turns, traffic_of
from benchmarks.gpu import as_markdown, main
from tests.support.runs import CONV, write_run


def test_operations_and_bytes_are_those_counted_by_hand() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 25, 7))
    rows = torch.zeros(4, 3, 5, 5)
    products = 4 * (8 * 25 * 27 + 200 * 7)
    assert flops_of(layers, rows) == 2 * products
    weights = 8 * 27 + 8 + 200 * 7 + 7
    between = 4 * (75 + 200 + 200 + 7)  # the convolution's input and output, the product's input and output
    assert traffic_of(layers, rows) == 4 * (weights + between)


def test_limits_are_found() -> None:
    limits = measure_limits("cpu", side=16, megabytes=1)
    assert limits.flops > 0
    assert limits.bandwidth > 0


def test_each_way_has_a_time_in_each_round() -> None:
    ran = {"a": 0, "b": 0}

    def count(name: str) -> None:
        ran[name] += 1

    times = take_turns({name: partial(count, name) for name in ran}, "cpu", rounds=3, budget=1e-6)
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}
    assert min(ran.values()) >= 3


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes long, and a compiler that not every machine has."""

    def no_compiler(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda module, **_: no_compiler)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("likelihood", [{"family": "bernoulli"}, {"family": "gaussian"}])
def test_a_run_is_measured_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], likelihood: dict[str, str]
) -> None:
    run = write_run(tmp_path / "run", network=CONV, likelihood=likelihood, shape=(12, 8, 3))
    report = tmp_path / "report.json"
    quick = ["--device", "cpu", "--batches", "1", "3", "--rounds", "2", "--seconds", "0", "--threads", "1"]
    main([*quick, "--run", str(run.folder), "--json", str(report)])
    printed = capsys.readouterr()
    document = json.loads(report.read_text())
    assert [(line["graph"], line["batch"]) for line in document["lines"]] == [
        ("encode", 1),
        ("decode", 1),
        ("encode", 3),
        ("decode", 3),
    ]
    for line in document["lines"]:
        assert line["images_per_second"].keys() == line["ratio"].keys() == {"plain", "bound", "eager"}
        assert line["ratio"]["eager"] == 1
        assert line["flops_share"] > 0
        assert line["bandwidth_share"] > 0
    assert printed.out == as_markdown(document)
    assert "| decode | 3 |" in printed.out
    assert "torch.compile is left out: no compiler\n" in printed.err


def test_answers_that_differ_are_not_timed() -> None:
    same = (np.zeros((2, 3), np.float32),)
    gpu._check_agreement({"eager": same, "bound": same})
    with pytest.raises(SystemExit, match="bound computes something else"):
        gpu._check_agreement({"eager": same, "bound": (np.ones((2, 3), np.float32),)})


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        main([])
    with pytest.raises(SystemExit, match="there is no run"):
        main(["--device", "cpu", "--run", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"nothing\.toml"):
        main(["--device", "cpu", "--config", "nothing"])
