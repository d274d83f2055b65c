"""The command line. It only parses: what a command does is in `app`, `training` or `model.bundle`.

`training` is imported inside the commands that train, so that a server needs no torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from model.bundle.interrupts import quick_exit

with quick_exit():
    import secrets
    import signal
    import sys
    from importlib import metadata
    from pathlib import Path
    from typing import Annotated, Literal, NoReturn

    import numpy as np
    import typer
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.progress import Progress

    from app import options
    from app.errors import ConfigurationError
    from app.settings import PRETRAINED, Settings
    from model.bundle import offline
    from model.bundle.errors import BundleError, ModelFault, OfflineError, OutputError, PictureError
    from model.bundle.latents import MAX_SEED, interpolate, prior_latents
    from model.bundle.manifest import MANIFEST
    from model.bundle.runtime import Bundle, RuntimeOptions
    from model.bundle.store import open_bundle

TRAINING_PACKAGES = {"torch", "safetensors", "onnx", "onnxscript", "matplotlib", "scipy", "sklearn"}
READY_MADE = "cifar10, folder, mnist, mnist-iwae-5, mnist-iwae-50, mnist-mlp, mnist-static-mlp, smoke"
WRONG_USAGE, INTERRUPTED = 2, 130

cli = typer.Typer(
    help="Train a variational autoencoder on your own images, measure it, and serve it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bundles = typer.Typer(help="Look after bundles.", no_args_is_help=True, rich_markup_mode=None)
cli.add_typer(bundles, name="bundle")

Model = Annotated[Path, typer.Option(help="Bundle folder.", show_default="the bundle that ships")]
Provider = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")]
Output = Annotated[Path, typer.Option("-o", "--output", help=f"{offline.OUTPUTS[0].upper()}{offline.OUTPUTS[1:]}.")]
Run = Annotated[Path, typer.Argument(help="Run folder, as in runs/mnist.")]
DataDir = Annotated[Path | None, typer.Option(help="For MNIST and caches; not your pictures.", show_default="./data")]
Samples = Annotated[
    int | None,
    typer.Option("--samples", "-k", min=1, max=5000, help="k of the bound L_k.", show_default="the configuration's"),
]


def main() -> None:
    """Run the command line; a user's mistake ends in one line on stderr and exit code 1 or 2, never in a traceback."""
    try:
        cli(prog_name="vae")
    except (ConfigurationError, OutputError) as error:
        _fail(str(error), WRONG_USAGE)
    except (BundleError, PictureError, OfflineError, ModelFault) as error:
        _fail(str(error))
    except OSError as error:
        if error.strerror is None:
            raise
        _fail(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"vae: {message}", err=True)
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentserve {metadata.version('latentserve')}")
        raise typer.Exit


@cli.callback()
def _cli(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@cli.command()
@options.takes_settings
def serve(settings: Settings) -> None:
    """Serve bundles over HTTP. Every option is also an environment variable; an option that is given wins."""
    from app.main import serve

    serve(settings)


@cli.command()
@options.takes_settings
def doctor(settings: Settings) -> None:
    """Tell what `vae serve` would do with the same options: versions, providers, bundles, limits. Starts nothing."""
    from app.doctor import examine

    raise typer.Exit(0 if examine(settings, typer.echo) else 1)


# --- training


@contextmanager
def _training(interrupted: str = "interrupted") -> Iterator[Console]:
    """Around what imports and calls `training`: its errors, signals, and the lack of its packages, as one line."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also for process 1 of a container
    try:
        from training.errors import ConfigError, TrainingError
    except ModuleNotFoundError:
        _fail("this installation only serves; training needs the whole of latentserve", WRONG_USAGE)
    try:
        with quick_exit():
            import torch  # noqa: F401 (every command here needs it)
        yield Console()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise
        _fail(f"training needs {error.name}: pip install 'latentserve[training]' (in a clone: make dev)", WRONG_USAGE)
    except ConfigError as error:
        _fail(str(error), WRONG_USAGE)
    except TrainingError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail(interrupted, INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


@cli.command()
def train(
    config: Annotated[str, typer.Argument(help=f"TOML file, run folder, or one of {READY_MADE}.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value; may be given several times."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME")] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run if it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and exit.")] = False,
    publish: Annotated[
        Path | None, typer.Option(help="Then evaluate, draw figures, and export the bundle to PUBLISH/NAME.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the bundle; with --publish.", show_default="1")] = None,
) -> None:
    """Train a model. Ctrl-C stops after writing a checkpoint."""
    if version is not None and publish is None:
        raise typer.BadParameter("is of the bundle that --publish makes: give both", param_hint="--version")
    with _training() as console:
        from training.launch import Publication, explain, launch, resolve

        resolved, folder = resolve(config, settings or [], run)
        if dry_run:
            typer.echo(resolved.model_dump_json(indent=2))
            explain(resolved, Console(stderr=True))  # what is on stdout is a configuration
        elif not launch(resolved, folder, Publication(publish, version), data_dir, resume=resume, console=console):
            raise typer.Exit(INTERRUPTED)


@cli.command()
def evaluate(
    run: Run,
    data_dir: DataDir = None,
    samples: Samples = None,
    images: Annotated[int | None, typer.Option(min=2, help="Only so many test images, drawn by the seed.")] = None,
) -> None:
    """Measure a run on its test split. Prints a table and writes metrics.json."""
    with _training("interrupted: nothing was written") as console:
        from training.evaluate import evaluate_run
        from training.run import RunFolder

        evaluate_run(RunFolder(run), data_dir=data_dir, importance_samples=samples, images=images, console=console)


@cli.command()
def export(
    run: Run,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")],
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    precision: Annotated[Literal["float32", "float16", "int8"], typer.Option(help="Of the graphs.")] = "float32",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Export a run as a bundle. It is held against PyTorch before it is put in place."""
    with _training("interrupted: nothing was exported") as console:
        from training.export import export as export_run
        from training.run import RunFolder

        export_run(RunFolder(run), output, version, precision, replace=replace, data_dir=data_dir, console=console)


@cli.command()
def figures(
    source: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="Run folder or bundle folder.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="RUN/figures, or figures")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Draw figures of a run or a bundle. Reconstructions, samples, traversals, interpolations; a run's curves."""
    with _training() as console:
        from training.figures import draw_bundle, draw_run
        from training.run import RunFolder

        if (source / MANIFEST).exists():  # a bundle holds its own files and no others
            draw_bundle(_open(source), output or Path("figures"), console=console)
        else:
            run = RunFolder(source)
            draw_run(run, output or run.figures, data_dir=data_dir, console=console)


# --- a bundle and files, no server


def _open(model: Path, provider: Literal["auto", "cpu", "cuda"] = "cpu") -> Bundle:
    # What an installer put there may be a hard link into its cache.
    return open_bundle(model, RuntimeOptions(provider=provider), allow_hard_links=model == PRETRAINED)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _decode(bundle: Bundle, latents: NDArray[np.float32], output: Path, **layout: int) -> None:
    offline.check_output(output, len(latents))
    with _progress("decoding", len(latents)) as progress:
        offline.decode_to(bundle, latents, output, progress=progress, **layout)
    typer.echo(f"{output}: {len(latents)} pictures by {bundle.name}/{bundle.version}")


@cli.command()
def encode(
    sources: Annotated[list[Path], typer.Argument(exists=True, help="Folders, zips or files of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="An .npz file: mean, log_variance, names.")],
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
    skip: Annotated[bool, typer.Option("--skip", help="Leave out unreadable pictures, and name them.")] = False,
) -> None:
    """Encode pictures into latents."""
    offline.check_encoding(output)
    bundle, total = _open(model, provider), offline.count_pictures(sources)
    tell = (lambda error: typer.echo(f"vae: skipped {error}", err=True)) if skip else None
    with _progress("encoding", total) as progress:
        encoding = offline.encode_pictures(bundle, offline.read_sources(sources), progress=progress, skip=tell)
    offline.save_encoding(output, encoding)
    typer.echo(f"{output}: {len(encoding.names)} of {total} pictures by {bundle.name}/{bundle.version}")


@cli.command()
def decode(
    latents: Annotated[Path, typer.Argument(exists=True, help="An .npz file of `vae encode`, or .npy [N, D].")],
    output: Output,
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
) -> None:
    """Decode latents into pictures."""
    bundle = _open(model, provider)
    _decode(bundle, offline.load_latents(latents, bundle.manifest.latent.dim), output)


@cli.command()
def sample(
    output: Output,
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="Pictures to draw.")] = 16,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Same seed, same pictures.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="Factor on the prior's standard deviation.")] = 1.0,
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
) -> None:
    """Draw pictures from the prior."""
    bundle = _open(model, provider)
    seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
    latents = prior_latents(n, bundle.manifest.latent.dim, seed=seed, temperature=temperature)
    _decode(bundle, latents, output)
    typer.echo(f"seed {seed}")


@cli.command("interpolate")
def interpolate_pictures(
    points: Annotated[list[Path], typer.Argument(exists=True, help="Two or more pictures.")],
    output: Output,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Frames from each to the next, ends included.")] = 8,
    path: Annotated[Literal["slerp", "linear"], typer.Option(help="Along the sphere, or straight.")] = "slerp",
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
    milliseconds: Annotated[int, typer.Option(min=10, help="Time of a frame in an animation.")] = 100,
) -> None:
    """Walk from picture to picture in latent space. A .png is one strip."""
    if len(points) < 2:
        raise typer.BadParameter("give two pictures or more", param_hint="POINTS")
    bundle = _open(model, provider)
    ends = offline.encode_pictures(bundle, ((str(point), point.read_bytes()) for point in points))
    frames = interpolate(ends.mean, steps, path)
    _decode(bundle, frames, output, columns=len(frames), milliseconds=milliseconds)


@bundles.command()
def verify(path: Annotated[Path, typer.Argument(help="Bundle folder.")] = PRETRAINED) -> None:
    """Check a bundle as a server does. Hashes, graphs, golden sample."""
    bundle = _open(path)
    image, latent = bundle.manifest.image, bundle.manifest.latent
    shape = f"{image.height} x {image.width} x {image.channels} pixels, {latent.dim} latents"
    typer.echo(f"{path}: {bundle.name}/{bundle.version} is sound; {shape}")
