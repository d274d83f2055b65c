"""What every command shares: options of the same meaning, and how a command ends or shows that it is at work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from app.settings import PRETRAINED
from model.bundle import offline
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle

WRONG_USAGE, INTERRUPTED = 2, 130

Device = Literal["auto", "cpu", "cuda"]
Model = Annotated[Path, typer.Option(help="Bundle folder.", show_default="the bundle that ships")]
Provider = Annotated[Device, typer.Option(help="Where the model runs.")]
Output = Annotated[Path, typer.Option("-o", "--output", help=f"{offline.OUTPUTS[0].upper()}{offline.OUTPUTS[1:]}.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Of MNIST, caches, and a data.path that is not here.", show_default="./data")
]


def fail(message: str, code: int = 1) -> NoReturn:
    """One line on stderr, and the exit code."""
    typer.echo(f"vae: {message}", err=True)
    sys.exit(code)


def opened(model: Path, provider: Device = "cpu", threads: int = 0) -> Bundle:
    """The bundle in this folder, with `threads` as of RuntimeOptions; raises BundleError."""
    # What an installer put there may be a hard link into its cache.
    return open_bundle(model, RuntimeOptions(provider=provider, threads=threads), allow_hard_links=model == PRETRAINED)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, which hears how many more are done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
