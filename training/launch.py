"""From what was typed to a run: which configuration, in which folder, and what can be typed next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from model.bundle.files import expand_home
from training import configs
from training.config import CONFIG_FILE, RunConfig, load
from training.distributed import ALONE, World
from training.errors import TrainingError
from training.lint import lint
from training.publish import check_publication, publish_run
from training.run import RunFolder
from training.train import train
from training.words import say

Words = list[str | Path]


class Publication(NamedTuple):
    """What becomes of a complete run: the bundle FOLDER/NAME of a version, 1 where none is given; or nothing."""

    folder: Path | None
    version: str | None

    def options(self) -> Words:
        """As they are typed."""
        folder: Words = [] if self.folder is None else ["--publish", self.folder]
        return folder if self.version is None else [*folder, "--version", self.version]


def resolve(config: str, settings: Sequence[str], folder: Path | None) -> tuple[RunConfig, Path]:
    """The configuration, and the folder of its run.

    Args:
        config: a TOML file, the name of a ready-made one, or a run folder: its configuration, and its folder.
        settings: changes, as ``section.key=value``.
        folder: of the run, where one was named.

    Raises:
        ConfigError: there is no such configuration, or something in it is not allowed.
    """
    file = configs.find(config)
    resolved = load(file, settings)
    if folder is None:
        folder = file.parent if file.name == CONFIG_FILE else Path("runs") / resolved.name
    return resolved, folder


def explain(config: RunConfig, console: Console) -> None:
    """Say what the configuration means, as training does before it begins."""
    for line in lint(config):
        say(console, line)


def launch(
    config: RunConfig,
    folder: Path,
    bundle: Publication,
    data_dir: Path | None,
    *,
    resume: bool,
    console: Console,
    world: World = ALONE,
) -> bool:
    """Train, publish where that is wished, and say what to type next.

    The processes of ``world`` train together; the first goes on alone.

    Returns:
        True when all is done, False when training was interrupted.

    Raises:
        TrainingError: as ``train`` and ``publish_run`` do.
    """
    folder, data_dir = expand_home(folder), data_dir and expand_home(data_dir)
    if not world.leads:
        quiet = Console(quiet=True)
        try:
            return train(config, folder, data_dir=data_dir, resume=resume, console=quiet, world=world)
        except TrainingError as error:
            raise type(error)(world.named(str(error))) from error
    data: Words = [] if data_dir is None else ["--data-dir", data_dir]
    go_on = _command("train", folder, "--resume", *data, *bundle.options())
    destination = None if bundle.folder is None else expand_home(bundle.folder) / config.name
    of_bundle = "1" if bundle.version is None else bundle.version
    if destination is not None:
        check_publication(config, destination, of_bundle)
    if not train(config, folder, data_dir=data_dir, resume=resume, console=console, world=world):
        say(console, f"go on with: {go_on}")
        return False
    if destination is None:
        say(console, f"measure it: {_command('evaluate', folder, *data)}")
        if config.objective.kind != "autoencoder":
            say(
                console,
                f"export it:  {_command('export', folder, '-o', Path('bundles') / folder.resolve().name, *data)}",
            )
        return True
    try:
        publish_run(RunFolder(folder), destination, version=of_bundle, data_dir=data_dir, console=console)
    except KeyboardInterrupt:
        say(console, f"the run is complete, and not published; go on with: {go_on}")
        raise
    return True


def _command(*words: str | Path) -> str:
    return shlex.join(["vae", *map(str, words)])
