"""The images of a run, found again: what is not what the run was trained with is refused."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from training.data.dataset import Dataset
from training.data.load import load_test, load_training, survey
from training.errors import DataError
from training.observers import DataProgress
from training.run import RunFolder


def training_images(run: RunFolder, *, data_dir: Path | None, console: Console) -> tuple[Dataset, Dataset]:
    """The images that a run was trained on and its validation images, the same to the last pixel.

    Raises:
        ConfigError: there is no run.
        DataError: its images cannot be found, or are others now.
    """
    config, before = run.config(), run.provenance().data
    with DataProgress(console) as progress:
        training, validation = load_training(
            config.data, config.image, seed=config.seed, data_dir=data_dir, progress=progress
        )
    if (training.sha256, validation.sha256) != (before["training"], before["validation"]):
        raise DataError(f"{training.name}: these are not the images that the run in {run.folder} was trained on")
    return training, validation


def held_out_images(run: RunFolder, *, data_dir: Path | None, console: Console) -> Dataset:
    """The images that were held out when a run began.

    Raises:
        ConfigError: there is no run.
        DataError: its images cannot be found, or their list is another one now.
    """
    config, before = run.config(), run.provenance().data
    # A run of an earlier version has no listing, and what it had cannot be known.
    if before.get("listing") not in (None, survey(config.data, config.image, data_dir=data_dir).listing):
        raise DataError(
            f"{before['name']}: images were added, removed or changed since the run in {run.folder} was trained: "
            "what would be held out for testing now may be what it was trained on"
        )
    with DataProgress(console) as progress:
        test = load_test(config.data, config.image, seed=config.seed, data_dir=data_dir, progress=progress)
    if config.data.test_path is None:
        return test
    # A folder called "test" would be all that is said of the data.
    return replace(test, name=f"{before['name']} (test set: {test.name})")
