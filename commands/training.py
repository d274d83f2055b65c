"""Commands that train, measure, export and draw. `training` is imported inside them: a server needs no torch."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from commands.shared import INTERRUPTED, WRONG_USAGE, DataDir, fail, opened
from model.bundle.interrupts import quick_exit
from model.bundle.manifest import MANIFEST

TRAINING_PACKAGES = {"torch", "safetensors", "onnx", "onnxscript", "matplotlib", "scipy", "sklearn"}
READY_MADE = (
    "cifar10, folder, mnist, mnist-iwae-5, mnist-iwae-50, mnist-mlp, mnist-static-flow, mnist-static-mlp, mnist-vamp, "
    "smoke"
)

Run = Annotated[Path, typer.Argument(help="Run folder, as in runs/mnist.")]
Samples = Annotated[
    int | None,
    typer.Option("--samples", "-k", min=1, max=5000, help="k of the bound L_k.", show_default="the configuration's"),
]


@contextmanager
def _torch(interrupted: str = "interrupted") -> Iterator[Console]:
    """Around what imports and calls `training`: its errors, signals, and the lack of its packages, as one line."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also for process 1 of a container
    try:
        from training.errors import ConfigError, TrainingError
    except ModuleNotFoundError:
        fail("this installation only serves; training needs the whole of latentserve", WRONG_USAGE)
    try:
        with quick_exit():
            import torch  # noqa: F401 (every command here needs it)
        yield Console()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise
        fail(f"training needs {error.name}: pip install 'latentserve[training]' (in a clone: make dev)", WRONG_USAGE)
    except ConfigError as error:
        fail(str(error), WRONG_USAGE)
    except TrainingError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def train(
    config: Annotated[str, typer.Argument(help=f"TOML file, run folder, or one of {READY_MADE}.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value; may be given several times."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME")] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run if it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration, and exit without a look at the data.")
    ] = False,
    publish: Annotated[
        Path | None, typer.Option(help="Then evaluate, draw figures, and export the bundle to PUBLISH/NAME.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the bundle; with --publish.", show_default="1")] = None,
) -> None:
    """Train a model. Ctrl-C stops after writing a checkpoint. Under torchrun, processes share each batch."""
    if version is not None and publish is None:
        raise typer.BadParameter("is of the bundle that --publish makes: give both", param_hint="--version")
    with _torch() as console:
        from training.distributed import World
        from training.launch import Publication, explain, launch, resolve

        world = World.of(os.environ)
        resolved, folder = resolve(config, settings or [], run)
        if dry_run:
            world.check(resolved)
            if world.leads:
                typer.echo(resolved.model_dump_json(indent=2))
                explain(resolved, Console(stderr=True))  # what is on stdout is a configuration
            return
        bundle = Publication(publish, version)
        if not launch(resolved, folder, bundle, data_dir, resume=resume, console=console, world=world):
            raise typer.Exit(INTERRUPTED)


def evaluate(
    run: Run,
    data_dir: DataDir = None,
    samples: Samples = None,
    images: Annotated[int | None, typer.Option(min=2, help="Only so many test images, drawn by the seed.")] = None,
    ais: Annotated[bool, typer.Option("--ais", help="Also log p(x) by annealed importance sampling: minutes.")] = False,
    gaps: Annotated[bool, typer.Option("--gaps", help="Also approximation and amortization gap.")] = False,
    subset: Annotated[
        int | None, typer.Option(min=2, help="Test images of --ais and --gaps, drawn by the seed.", show_default="100")
    ] = None,
    chains: Annotated[int | None, typer.Option(min=1, help="Of each image, with --ais.", show_default="16")] = None,
    temperatures: Annotated[
        int | None, typer.Option(min=2, help="With --ais; step sizes take 300 moves or more.", show_default="100")
    ] = None,
    leapfrog_steps: Annotated[
        int | None, typer.Option(min=1, help="Gradients a move, with --ais.", show_default="10")
    ] = None,
    initial: Annotated[
        Literal["prior", "posterior"] | None,
        typer.Option(help="Where chains start, with --ais.", show_default="posterior"),
    ] = None,
    gap_steps: Annotated[
        int | None, typer.Option(min=2, help="Of optimizing each posterior, with --gaps.", show_default="1000")
    ] = None,
) -> None:
    """Measure a run on its test split. Prints tables and writes metrics.json, where what is of more images stays."""
    annealing: dict[str, Any] = {
        "chains": chains, "temperatures": temperatures, "leapfrog_steps": leapfrog_steps, "initial": initial
    }  # fmt: skip
    _belongs(ais, "--ais", annealing)
    _belongs(gaps, "--gaps", {"gap_steps": gap_steps})
    _belongs(ais or gaps, "--ais or --gaps", {"subset": subset})
    with _torch("interrupted: nothing was written") as console:
        from training.ais import AnnealingSettings
        from training.evaluate import SUBSET, Wishes, evaluate_run
        from training.gaps import STEPS
        from training.run import RunFolder

        given = {name: value for name, value in annealing.items() if value is not None}
        wishes = Wishes(
            annealing=AnnealingSettings()._replace(**given) if ais else None,
            gaps=(gap_steps or STEPS) if gaps else None,
            subset=subset or SUBSET,
        )
        evaluate_run(
            RunFolder(run),
            data_dir=data_dir,
            importance_samples=samples,
            images=images,
            wishes=wishes,
            console=console,
        )


def _belongs(wished: bool, to: str, options: dict[str, Any]) -> None:
    """Refuse options of what is not asked for."""
    for name, value in options.items():
        if value is not None and not wished:
            raise typer.BadParameter(f"belongs to {to}: give both", param_hint=f"--{name.replace('_', '-')}")


def export(
    run: Run,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")],
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    precision: Annotated[Literal["float32", "float16", "int8"], typer.Option(help="Of the graphs.")] = "float32",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Export a run as a bundle. It is held against PyTorch before it is put in place."""
    with _torch("interrupted: nothing was exported") as console:
        from training.export import export as export_run
        from training.run import RunFolder

        export_run(RunFolder(run), output, version, precision, replace=replace, data_dir=data_dir, console=console)


def figures(
    source: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="Run folder or bundle folder.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="RUN/figures, or figures")
    ] = None,
    data_dir: DataDir = None,
    posteriors: Annotated[
        bool | None,
        typer.Option("--posteriors/--no-posteriors", help="Sample p(z|x) of a run.", show_default="posteriors"),
    ] = None,
) -> None:
    """Draw figures of a run or a bundle. Reconstructions, samples, traversals ...; a run's curves and posteriors."""
    with _torch() as console:
        from training.figures import draw_bundle, draw_run
        from training.run import RunFolder

        if (source / MANIFEST).exists():  # a bundle holds its own files and no others
            if posteriors is not None:
                raise typer.BadParameter(
                    "a bundle has no gradients to sample by: give a run", param_hint="--posteriors/--no-posteriors"
                )
            draw_bundle(opened(source), output or Path("figures"), console=console)
        else:
            run = RunFolder(source)
            draw_run(run, output or run.figures, data_dir=data_dir, console=console, posteriors=posteriors is not False)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Run folders, of the same images.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder.")],
    data_dir: DataDir = None,
) -> None:
    """Compare runs on validation images. A column each: reconstructions, samples, latents, numbers."""
    with _torch() as console:
        from training.figures.comparison import draw_comparison
        from training.run import RunFolder

        draw_comparison([RunFolder(run) for run in runs], output, data_dir=data_dir, console=console)
