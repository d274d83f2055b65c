"""From a finished run to a bundle that others can judge: measured, drawn, exported."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from model.bundle.manifest import MANIFEST, NAME_PATTERN, Name
from training.config import RunConfig
from training.errors import ConfigError
from training.evaluate import evaluate_run
from training.export import export
from training.figures import draw_run
from training.objectives.words import NO_BUNDLE
from training.run import RunFolder


def check_publication(config: RunConfig, destination: Path, version: str) -> None:
    """Refuse before hours of training what would be refused after them; the last word has the bundle's store.

    Raises:
        ConfigError: there is no bundle of such a model or of this version, or the destination is not a bundle's.
    """
    if config.objective.kind == "autoencoder":
        raise ConfigError(f"{config.name}: {NO_BUNDLE}")
    try:
        TypeAdapter(Name).validate_python(version)
    except ValidationError as error:
        raise ConfigError(f"version {version!r} is not of the form {NAME_PATTERN}") from error
    for folder in destination.parents:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: is no folder to publish into")
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise ConfigError(f"{destination}: is no folder of its own, and no bundle can be put there")
    if destination.is_dir() and any(destination.iterdir()) and not (destination / MANIFEST).exists():
        raise ConfigError(f"{destination}: is a folder with other things in it, and no bundle")


def publish_run(run: RunFolder, destination: Path, *, version: str, data_dir: Path | None, console: Console) -> None:
    """Evaluate a run on its test split, draw its figures, and export it in the place of any bundle that is there.

    Raises:
        TrainingError: as `evaluate_run`, `draw_run` and `export` do; what was published before then stays.
    """
    evaluate_run(run, data_dir=data_dir, console=console)
    # Chains take minutes or more of a large network, which is on the CPU here: nobody asked to wait for them.
    draw_run(run, run.figures, data_dir=data_dir, console=console, posteriors=False)
    export(run, destination, version=version, replace=True, data_dir=data_dir, console=console)
