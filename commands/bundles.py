"""Commands on a bundle and files: no server, no torch."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from app.settings import PRETRAINED
from commands.shared import Model, Output, Provider, opened, progress
from model.bundle import offline
from model.bundle.latents import MAX_SEED, interpolate
from model.bundle.runtime import Bundle
from model.bundle.scored import check_scoring, save_scores, score_pictures


def _decode(bundle: Bundle, latents: NDArray[np.float32], output: Path, **layout: int) -> None:
    offline.check_output(output, len(latents))
    with progress("decoding", len(latents)) as advance:
        offline.decode_to(bundle, latents, output, progress=advance, **layout)
    typer.echo(f"{output}: {len(latents)} pictures by {bundle.name}/{bundle.version}")


def encode(
    sources: Annotated[list[Path], typer.Argument(exists=True, help="Folders, zips or files of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="An .npz file: mean, log_variance, latent, names.")],
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
    skip: Annotated[bool, typer.Option("--skip", help="Leave out unreadable pictures, and name them.")] = False,
) -> None:
    """Encode pictures into latents."""
    offline.check_encoding(output)
    bundle, total = opened(model, provider), offline.count_pictures(sources)
    tell = (lambda error: typer.echo(f"vae: skipped {error}", err=True)) if skip else None
    with progress("encoding", total) as advance:
        encoding = offline.encode_pictures(bundle, offline.read_sources(sources), progress=advance, skip=tell)
    offline.save_encoding(output, encoding)
    typer.echo(f"{output}: {len(encoding.names)} of {total} pictures by {bundle.name}/{bundle.version}")


def score(
    sources: Annotated[list[Path], typer.Argument(exists=True, help="Folders, zips or files of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .csv file, a row for each picture.")],
    k: Annotated[int, typer.Option("-k", min=1, max=5000, help="Draws from the posterior of each.")] = 64,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Same seed, same scores.")] = None,
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
    skip: Annotated[bool, typer.Option("--skip", help="Leave out unreadable pictures, and name them.")] = False,
) -> None:
    """Score how well a model explains pictures. ELBO, likelihood, percentile."""
    bundle = opened(model, provider)
    check_scoring(bundle, output)
    total = offline.count_pictures(sources)
    seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
    tell = (lambda error: typer.echo(f"vae: skipped {error}", err=True)) if skip else None
    with progress("scoring", total) as advance:
        sent = offline.read_sources(sources)
        pictures = offline.fitted_pictures(bundle.manifest.image, sent, progress=advance, skip=tell)
        count = save_scores(bundle, output, score_pictures(bundle, pictures, k, seed=seed))
    typer.echo(f"{output}: {count} of {total} pictures by {bundle.name}/{bundle.version}, k = {k}, seed {seed}")


def decode(
    latents: Annotated[Path, typer.Argument(exists=True, help="An .npz file of `vae encode`, or .npy [N, D].")],
    output: Output,
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
) -> None:
    """Decode latents into pictures, numbered as their rows."""
    bundle = opened(model, provider)
    _decode(bundle, offline.load_latents(latents, bundle.manifest.latent.dim), output)


def sample(
    output: Output,
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="Pictures to draw.")] = 16,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Same seed, same pictures.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="Factor on the prior's standard deviation.")] = 1.0,
    model: Model = PRETRAINED,
    provider: Provider = "cpu",
) -> None:
    """Draw pictures from the prior."""
    bundle = opened(model, provider)
    seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
    latents = bundle.prior.draw(n, seed=seed, temperature=temperature)
    _decode(bundle, latents, output)
    typer.echo(f"seed {seed}")


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
    bundle = opened(model, provider)
    ends = offline.encode_pictures(bundle, ((str(point), point.read_bytes()) for point in points))
    frames = interpolate(ends.latent, steps, path)
    _decode(bundle, frames, output, columns=len(frames), milliseconds=milliseconds)


def verify(path: Annotated[Path, typer.Argument(help="Bundle folder.")] = PRETRAINED) -> None:
    """Check a bundle as a server does. Hashes, graphs, golden sample."""
    bundle = opened(path)
    image, latent = bundle.manifest.image, bundle.manifest.latent
    shape = f"{image.height} x {image.width} x {image.channels} pixels, {latent.dim} latents"
    typer.echo(f"{path}: {bundle.name}/{bundle.version} is sound; {shape}")
