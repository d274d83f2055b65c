"""What people and TensorBoard are told is what was measured."""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.digits import digits_config, run_digits
from training.errors import ConfigError
from training.loop import Plan
from training.observers import ConsoleObserver, DataProgress, EvaluationProgress, TensorBoardObserver
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


@pytest.mark.parametrize(
    ("values", "criterion", "words"),
    [
        (VALUES | {"criterion": 30.5}, "-ELBO", "-ELBO 30.50 nats = distortion 20.25 + rate 10.25"),
        (
            VALUES | {"criterion": 29.75},
            "-L_5",
            "-L_5 29.75 nats  (-ELBO 30.50 nats = distortion 20.25 + rate 10.25)",
        ),
        ({"criterion": 20.25, "distortion": 20.25}, "distortion at the mean", "distortion at the mean 20.25 nats"),
    ],
)
def test_what_validation_judges_by_is_told(values: dict[str, float], criterion: str, words: str) -> None:
    printed = io.StringIO()
    with ConsoleObserver(Plan(6, 18), Console(file=printed), start=0, criterion=criterion) as observer:
        observer.validated(12, values)
    assert printed.getvalue().splitlines() == [f"epoch 2  step 12/18  validation {words}"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (VALUES | {"objective": 30.5}, "-ELBO 30.50  1234 images/s"),
        (VALUES | {"objective": 61.25}, "objective 61.25  -ELBO 30.50  1234 images/s"),
        ({"objective": 20.25, "distortion": 20.25, "images_per_second": 7.0}, "objective 20.25  7 images/s"),
    ],
)
def test_the_objective_is_told_beside_the_elbo_where_it_is_another(values: dict[str, float], words: str) -> None:
    printed = io.StringIO()
    with ConsoleObserver(Plan(6, 18), Console(file=printed, force_terminal=True, width=150), start=0) as observer:
        observer.trained(6, values)
    assert words in printed.getvalue()


def test_a_speed_that_is_not_known_is_not_told() -> None:
    printed = io.StringIO()
    with ConsoleObserver(Plan(6, 18), Console(file=printed, width=40), start=0) as observer:
        observer.validated(6, VALUES)
    assert printed.getvalue().strip().endswith("rate 10.25")


def test_the_bar_moves_with_validations_and_estimates_from_log_lines_that_are_minutes_apart() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    observer = ConsoleObserver(Plan(6, 1800), console, start=0)
    clock = 0.0
    observer._bar.get_time = lambda: clock
    observer._bar.start_task(observer._task)
    for step in (100, 200, 300, 400):
        clock += 120
        observer.trained(step, VALUES)
    (task,) = observer._bar.tasks
    assert task.time_remaining == pytest.approx(1400 / 100 * 120, rel=0.01)
    observer.validated(450, VALUES)
    assert task.completed == 450


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr("training.observers.time.monotonic", lambda: now[0])
    yield now
    monkeypatch.undo()


def test_a_log_hears_of_long_epochs(clock: list[float]) -> None:
    printed = io.StringIO()
    with ConsoleObserver(Plan(600, 1800), Console(file=printed, width=40), start=0) as observer:
        for step in range(50, 700, 50):
            clock[0] += 10
            observer.trained(step, VALUES)
            if step == 600:
                observer.validated(step, VALUES)
    lines = printed.getvalue().splitlines()
    assert lines[0] == "epoch 1  step 150/1800  -ELBO 30.50  1234 images/s"
    assert [line.split("step ")[1].split("/")[0] for line in lines] == ["150", "300", "450", "600", "600"]


def test_a_log_hears_of_long_loading(clock: list[float]) -> None:
    printed = io.StringIO()
    with DataProgress(Console(file=printed, width=40)) as progress:
        for done in range(1000, 8000, 1000):
            clock[0] += 10
            progress("decoding holiday/pictures", done, 7000)
    assert printed.getvalue().splitlines() == [
        "decoding holiday/pictures: 3,000 of 7,000",
        "decoding holiday/pictures: 6,000 of 7,000",
    ]


def test_loading_has_a_bar_for_each_thing() -> None:
    printed = io.StringIO()
    with DataProgress(Console(file=printed, force_terminal=True, width=100)) as progress:
        progress("downloading", 0, 0)
        progress("downloading", 5, 10)
        progress("decoding", 3, 4)
    assert "downloading" in printed.getvalue()
    assert "decoding" in printed.getvalue()


def test_an_evaluation_has_a_bar_or_a_line_each_tenth() -> None:
    terminal, log = io.StringIO(), io.StringIO()
    for console in (Console(file=terminal, force_terminal=True, width=100), Console(file=log, width=100)):
        with EvaluationProgress("L_5 of pets", 70, console) as progress:
            for _ in range(35):
                progress(2)
    assert "70/70" in terminal.getvalue()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "L_5 of pets: 8 of 70 images"
    assert lines[-1] == "L_5 of pets: 70 of 70 images"


def test_what_is_counted_need_not_be_images() -> None:
    log = io.StringIO()
    with EvaluationProgress("chains", 2, Console(file=log, width=100), unit="moves") as progress:
        progress(2)
    assert log.getvalue() == "chains: 2 of 2 moves\n"


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


@pytest.mark.parametrize("start", [0, 4])
def test_tensorboard_forgets_the_steps_that_are_done_again(start: int, tmp_path: Path) -> None:
    """A run that was killed at step 8 and goes on after ``start``, where its checkpoint is; 0: it had none."""
    for first, last, value in ((0, 8, 1.0), (start, 6, 2.0)):
        observer = TensorBoardObserver(tmp_path, start=first)
        for step in range(first + 1, last + 1):
            observer.trained(step, {"rate": value})
        observer.close()
    accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(scalar.step, scalar.value) for scalar in events.Scalars("train/rate")]
    assert found == [(step, 1.0 if step <= start else 2.0) for step in range(1, 7)]


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'latentserve\[tensorboard\]'"):
        run_digits(tmp_path / "run", digits_config(schedule={"tensorboard": True}))
    assert RunFolder(tmp_path / "run").log_file.exists()  # install it, then --resume
