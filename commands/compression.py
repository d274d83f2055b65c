"""Lossless compression of pictures with a bundle: no server, no torch.

There is no choice of provider: both ends have to compute the same numbers, so the CPU does, with one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.settings import PRETRAINED
from commands.shared import WRONG_USAGE, Model, Output, fail, opened, progress
from model.bundle import offline
from model.bundle.compression import file as compressed_file
from model.bundle.compression.pictures import Binarize, binary_pictures, count_binary
from model.bundle.errors import CompressedError
from model.bundle.files import write_bytes_atomically
from model.bundle.latents import MAX_SEED

CODER = "constriction"


@contextmanager
def _coder() -> Iterator[None]:
    """Around what codes: the lack of its library as one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != CODER:
            raise
        fail(f"compression needs {CODER}: pip install 'latentserve[compression]' (in a clone: make dev)", WRONG_USAGE)


def compress(
    sources: Annotated[list[Path], typer.Argument(exists=True, help="Folders, zips, picture files or .npy arrays.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    model: Model = PRETRAINED,
    binarize: Annotated[
        Binarize | None,
        typer.Option(
            help="First fit pictures to the model and make pixels white from half of the range on, or with the "
            "probability that is their level.",
            show_default="refuse what is not black and white, or has another size",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Same pictures, same seed, same file.")] = 0,
) -> None:
    """Compress black and white pictures. Lossless, by bits-back coding; tells the size beside -ELBO."""
    offline.check_file(output)
    bundle, total = opened(model, threads=1), count_binary(sources)
    pictures = binary_pictures(sources, bundle.manifest.image, binarize=binarize, seed=seed)
    with _coder(), progress("compressing and reading back", 2 * total) as advance:
        compressed = compressed_file.compress(bundle, pictures, seed=seed, progress=advance)
    write_bytes_atomically(output, compressed.data)
    typer.echo(f"{output}: {total} pictures by {bundle.name}/{bundle.version}")
    for line in compressed.report():
        typer.echo(line)


def decompress(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of `vae compress`.")],
    output: Output,
    model: Model = PRETRAINED,
) -> None:
    """Decompress pictures. They come in the order in which they were compressed, numbered."""
    data = file.read_bytes()
    try:
        count = compressed_file.read(data)[0].pictures
        offline.check_output(output, count)
        bundle = opened(model, threads=1)
        with _coder(), progress("decompressing", count) as advance:
            pieces = compressed_file.decompress(bundle, data, progress=advance)
    except CompressedError as error:
        raise CompressedError(f"{file}: {error}") from None
    offline.write_pictures(output, pieces, count, bundle.manifest.image)
    typer.echo(f"{output}: {count} pictures by {bundle.name}/{bundle.version}")
