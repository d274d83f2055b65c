"""Who watches: the metrics log, progress bars with rate, -ELBO and ETA, and TensorBoard."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.errors import ConfigError
from training.loop import Plan, Values
from training.run import MetricsLog
from training.words import say

_SILENCE_SECONDS = 30


class _Bar:
    """Shows its bar while entered."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Pulse:
    """When a log, which has no bar, should hear again of something slow."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last beat is long ago; if so, this is one."""
        if time.monotonic() - self._last < _SILENCE_SECONDS:
            return False
        self.beat()
        return True

    def beat(self) -> None:
        """Something was said."""
        self._last = time.monotonic()


class LogObserver:
    """Lines of metrics.jsonl."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log

    def trained(self, step: int, values: Values) -> None:
        """A line with split "train"."""
        self._log.write(step=step, split="train", **values)

    def validated(self, step: int, values: Values) -> None:
        """A line with split "validation"."""
        self._log.write(step=step, split="validation", **values)


class ConsoleObserver(_Bar):
    """A progress bar on a terminal; a line a validation anywhere, and in a log one each half a minute between them.

    ``criterion`` is what validation judges by, in words.
    """

    def __init__(self, plan: Plan, console: Console, *, start: int, criterion: str = "-ELBO") -> None:
        self._plan = plan
        self._console = console
        self._criterion = criterion
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            # The bar moves once a log line, which may be minutes apart: rich forgets after 30 seconds otherwise.
            speed_estimate_period=3600,
        )
        self._task = self._bar.add_task(
            "steps", total=plan.total_steps, completed=start, epoch=self._epoch(start), status=""
        )
        self._speed: float | None = None
        self._pulse = _Pulse()

    def trained(self, step: int, values: Values) -> None:
        """Move the bar."""
        self._speed = values["images_per_second"]
        status = f"{_minimized(values)}  {values['images_per_second']:.0f} images/s"
        self._bar.update(self._task, completed=step, epoch=self._epoch(step), status=status)
        if not self._console.is_terminal and self._pulse.due():
            say(self._console, f"epoch {self._epoch(step)}  step {step}/{self._plan.total_steps}  {status}")

    def validated(self, step: int, values: Values) -> None:
        """One line that stays; its speed is that of the last log line, where there was one."""
        self._bar.update(self._task, completed=step, epoch=self._epoch(step))
        speed = "" if self._speed is None else f"  ({self._speed:.0f} images/s)"
        self._pulse.beat()
        say(
            self._console,
            f"epoch {step // self._plan.steps_per_epoch}  step {step}/{self._plan.total_steps}  validation "
            f"{self._validation(values)}{speed}",
        )

    def _validation(self, values: Values) -> str:
        elbo = ""
        if "negative_elbo" in values:
            elbo = (
                f"-ELBO {values['negative_elbo']:.2f} nats = distortion {values['distortion']:.2f} "
                f"+ rate {values['rate']:.2f}"
            )
        if self._criterion == "-ELBO":
            return elbo
        return f"{self._criterion} {values['criterion']:.2f} nats" + (elbo and f"  ({elbo})")

    def _epoch(self, step: int) -> int:
        return min(step, self._plan.total_steps - 1) // self._plan.steps_per_epoch + 1


def _minimized(values: Values) -> str:
    """The objective, where it is not -ELBO at beta = 1, and that."""
    elbo = f"-ELBO {values['negative_elbo']:.2f}" if "negative_elbo" in values else ""
    if "objective" not in values or values["objective"] == values.get("negative_elbo"):
        return elbo
    return f"objective {values['objective']:.2f}" + (elbo and f"  {elbo}")


class DataProgress(_Bar):
    """A bar for each slow thing that loading data does, in a log a line each half a minute; called as
    ``progress(what, done, total)``."""

    def __init__(self, console: Console) -> None:
        self._console, self._pulse = console, _Pulse()
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of ``what``; a total of 0 is not known yet."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what)
        self._bar.update(self._tasks[what], completed=done, total=total or None)
        if not self._console.is_terminal and self._pulse.due():
            say(self._console, f"{what}: {done:,}" + (f" of {total:,}" if total else ""))


class EvaluationProgress(_Bar):
    """A bar on a terminal, and a line each tenth of the way in a log: a bound of many samples can take an hour."""

    def __init__(self, what: str, total: int, console: Console, *, unit: str = "images") -> None:
        self._what, self._total, self._console, self._unit = what, total, console, unit
        self._done = 0
        self._bar = Progress(
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=3600,  # as above
        )
        self._task = self._bar.add_task(what, total=total)

    def __call__(self, more: int) -> None:
        """So many images, or whatever the unit is, more are done."""
        before, self._done = self._done, self._done + more
        self._bar.update(self._task, completed=self._done)
        if not self._console.is_terminal and 10 * before // self._total < 10 * self._done // self._total:
            say(self._console, f"{self._what}: {self._done:,} of {self._total:,} {self._unit}")


class TensorBoardObserver:
    """TensorBoard events of the same numbers, from after step ``start`` on: they hide what an interrupted run wrote of
    later steps.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # an extra: imported only when asked for
        except ImportError as error:
            raise ConfigError(
                "schedule.tensorboard = true needs TensorBoard: pip install 'latentserve[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def trained(self, step: int, values: Values) -> None:
        """Scalars under train/."""
        self._write("train", step, values)

    def validated(self, step: int, values: Values) -> None:
        """Scalars under validation/."""
        self._write("validation", step, values)
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()

    def _write(self, split: str, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
