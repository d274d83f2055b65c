"""What people and TensorBoard are told is what was measured."""

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.digits import digits_config, run_digits
from training.errors import ConfigError
from training.loop import Plan
from training.observers import ConsoleObserver, DataProgress
from training.run import RunFolder, read_log

VALUES = {"negative_elbo": 30.5, "distortion": 20.25, "rate": 10.25, "images_per_second": 1234.0}


def test_a_validation_is_a_line_anywhere() -> None:
    printed = io.StringIO()
    with ConsoleObserver(Plan(6, 18), Console(file=printed, width=40), start=0) as observer:
        observer.trained(10, VALUES)
        observer.validated(12, VALUES)
    assert printed.getvalue().splitlines() == [
        "epoch 2  step 12/18  validation -ELBO 30.50 nats = distortion 20.25 + rate 10.25  (1234 images/s)"
    ]


def test_a_terminal_has_a_bar() -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=True, width=150)
    with ConsoleObserver(Plan(6, 18), console, start=6) as observer:
        observer.trained(10, VALUES)
        observer.trained(18, VALUES)
    text = printed.getvalue()
    assert "18/18" in text
    assert "-ELBO 30.50" in text
    assert "1234 images/s" in text
    assert "epoch 3" in text
    assert "epoch 4" not in text  # there are three


def test_loading_has_a_bar_for_each_thing() -> None:
    printed = io.StringIO()
    with DataProgress(Console(file=printed, force_terminal=True, width=100)) as progress:
        progress("downloading", 0, 0)
        progress("downloading", 5, 10)
        progress("decoding", 3, 4)
    assert "downloading" in printed.getvalue()
    assert "decoding" in printed.getvalue()


def test_tensorboard_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    config = digits_config(schedule={"tensorboard": True}, optimization={"epochs": 1})
    run, _, _ = run_digits(tmp_path / "run", config)
    accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    log = read_log(run.log_file)
    for split in ("train", "validation"):
        lines = [line for line in log if line["split"] == split]
        scalars = events.Scalars(f"{split}/negative_elbo")
        assert [scalar.step for scalar in scalars] == [line["step"] for line in lines]
        assert [scalar.value for scalar in scalars] == pytest.approx([line["negative_elbo"] for line in lines])


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'latentserve\[tensorboard\]'"):
        run_digits(tmp_path / "run", digits_config(schedule={"tensorboard": True}))
    assert RunFolder(tmp_path / "run").log_file.exists()  # install it, then --resume
