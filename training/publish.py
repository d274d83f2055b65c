"""From a finished run to a bundle that others can judge: measured, drawn, exported."""

from pathlib import Path

from rich.console import Console

from training.evaluate import evaluate_run
from training.export import export
from training.figures import draw_run
from training.run import RunFolder


def publish_run(run: RunFolder, destination: Path, *, version: str, data_dir: Path | None, console: Console) -> None:
    """Evaluate a run on its test split, draw its figures, and export it in the place of any bundle that is there.

    Raises:
        TrainingError: as `evaluate_run`, `draw_run` and `export` do; what was published before then stays.
    """
    evaluate_run(run, data_dir=data_dir, console=console)
    draw_run(run, run.figures, data_dir=data_dir, console=console)
    export(run, destination, version=version, replace=True, data_dir=data_dir, console=console)
