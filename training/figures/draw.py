"""Which figures there are, and where they go."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from model.bundle.measurements import Metrics
from model.bundle.prior import Prior
from model.bundle.runtime import Bundle
from model.vae import VAE
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import ConfigError
from training.figures.bounds import bound_curve
from training.figures.charts import latent_scatter, training_curves
from training.figures.page import Panel, columns_of, constant_style, page, write_figures
from training.figures.panels import (
    Bytes,
    Importance,
    Model,
    encode_images,
    interpolations,
    kl_importance,
    kl_of_dimensions,
    reconstructions,
    samples,
    spread_importance,
    traversals,
)
from training.figures.posteriors import IMAGES, posterior_page, sample_run
from training.images import training_images
from training.metrics_file import stored
from training.run import RunFolder, read_log
from training.showcase import showcase
from training.subset import require_likelihood
from training.trained import load_best

# Enough for KL per dimension and for a scatter; more points only hide each other.
_MOST_IMAGES = 2000


def draw_run(
    run: RunFolder, folder: Path, *, data_dir: Path | None, console: Console, posteriors: bool = True
) -> list[Path]:
    """Draw the best weights of a run on validation images, and its training curves, into ``folder``.

    Args:
        posteriors: whether true posteriors are sampled, too. That is done last, since it takes the longest.

    Returns:
        The files: reconstructions, samples, traversals, interpolations, latents (where the data have labels),
        training_curves (where the log has a line), bounds (where they were measured) and posteriors (where the model
        has a likelihood), each ``.png``.

    Raises:
        ConfigError, CheckpointError, DataError: there is no run, no usable checkpoint, or not its data; or the folder
            cannot be written.
        ModelFault: the model gives NaN or infinity.
    """
    config = run.config()
    model, step = load_best(run)
    _, validation = training_images(run, data_dir=data_dir, console=console)
    shown = np.asarray(validation.images[showcase(validation, 2 * columns_of(config.image.width))])
    many = validation.subset(choose(len(validation), _MOST_IMAGES, config.seed))
    posterior = encode_images(model, many.images)
    with constant_style():
        # An autoencoder does not train the variance that its divergences would be of.
        products = config.model.posterior.kind == "diagonal" and config.model.prior.kind == "standard-normal"
        divides = products and config.objective.kind != "autoencoder"
        importance = kl_importance(kl_of_dimensions(posterior)) if divides else spread_importance(posterior)
        figures = _pages(model, model.prior, shown, importance)
        if many.labels is None:
            console.print(f"no latents.png: {validation.name} has no labels to color it by", highlight=False)
        else:
            figures["latents"] = latent_scatter(posterior, many.labels, many.label_names)
        log = read_log(run.log_file)
        if log:
            figures["training_curves"] = training_curves(log)
        else:
            console.print(f"no training_curves.png: {run.log_file.name} has no lines yet", highlight=False)
        measured = stored(run, step)
        if isinstance(measured, Metrics) and measured.bounds:
            figures["bounds"] = bound_curve(measured)
        files = _write(figures, folder, console)
        if posteriors:
            files += _draw_posteriors(model.vae, config, validation, folder, console)
        return files


def _draw_posteriors(vae: VAE, config: RunConfig, validation: Dataset, folder: Path, console: Console) -> list[Path]:
    """posteriors.png, or why there is none."""
    try:
        require_likelihood(config, "true posterior")
    except ConfigError as error:
        console.print(f"no posteriors.png: {error}", highlight=False, soft_wrap=True)
        return []
    images = np.asarray(validation.images[showcase(validation, IMAGES)])
    return _write({"posteriors": posterior_page(sample_run(vae, config, images, console))}, folder, console)


def draw_bundle(bundle: Bundle, folder: Path, *, console: Console) -> list[Path]:
    """Draw a bundle with the serving code, on the images of its own golden sample: no data and no run are needed.

    Returns:
        The files: overview (for a README), reconstructions, samples, traversals and interpolations, each ``.png``.

    Raises:
        ModelFault: a graph fails, or gives NaN or infinity.
        DataError: the folder cannot be written.
    """
    images = bundle.golden.images
    metrics = bundle.manifest.metrics
    posterior = encode_images(bundle, images)
    if not bundle.manifest.is_product:
        importance = spread_importance(posterior)
    elif metrics is None:
        importance = kl_importance(kl_of_dimensions(posterior))
    else:
        importance = kl_importance(np.array(metrics.kl_per_dimension))
    with constant_style():
        figures = {
            "overview": page(_overview(bundle, bundle.prior, images)),
            **_pages(bundle, bundle.prior, images, importance),
        }
        return _write(figures, folder, console)


def _pages(model: Model, prior: Prior, images: Bytes, importance: Importance) -> dict[str, Figure]:
    return {
        "reconstructions": page([reconstructions(model, images)]),
        "samples": page([samples(model, prior, images.shape[2])]),
        "traversals": page([traversals(model, prior, images[0], importance)]),
        "interpolations": page([interpolations(model, images)]),
    }


def _overview(bundle: Bundle, prior: Prior, images: Bytes) -> list[Panel]:
    width = images.shape[2]
    return [
        samples(bundle, prior, width, rows=3),
        reconstructions(bundle, images, rows=1),
        interpolations(bundle, images[[0, -1]], rows=1),
    ]


def _write(figures: dict[str, Figure], folder: Path, console: Console) -> list[Path]:
    written = write_figures(figures, folder)
    names = ", ".join(path.name for path in written)
    console.print(f"{folder}: {names}", highlight=False, soft_wrap=True)
    return written
