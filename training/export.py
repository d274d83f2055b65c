"""From a run to a bundle: the only place that writes a manifest.

::

    best.safetensors ── VAE, float32, CPU ──┬─► encoder, decoder, posterior, likelihood.onnx ─┐
    validation images ──────────────────────┴─► golden.npz ───────────────────────────────────┤
    config, provenance, metrics.json ─────────► MODEL_CARD.md ─────────────────────────────────┴─► manifest.json
                                                                                                   │ open_bundle
    published under its name ◄── scores.npz, by the graphs themselves ◄── compared with PyTorch on real images

Whatever fails on the way, nothing is published and nothing is left behind.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace as replace_in
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console

from model.bundle.errors import BundleError, ModelFault
from model.bundle.files import write_bytes_atomically, write_text_atomically
from model.bundle.golden import layout
from model.bundle.latents import posterior_noise
from model.bundle.manifest import (
    CARD,
    DECODER,
    ENCODER,
    GOLDEN,
    PRIOR,
    SCORES,
    GraphSpec,
    LatentSpec,
    LikelihoodSpec,
    Manifest,
    PosteriorFamily,
    PosteriorSpec,
    PriorSpec,
    Role,
    ScoredImages,
    graph_signatures,
)
from model.bundle.measurements import Metrics
from model.bundle.pixels import to_network
from model.bundle.precision import Lower
from model.bundle.prior import Mixture, write_prior
from model.bundle.runtime import RuntimeOptions
from model.bundle.scores import score_images, scores_file
from model.bundle.store import open_bundle, publish, staging_folder, write_manifest
from model.likelihoods import DiscretizedLogistic, Gaussian
from model.vae import VAE
from training.card import Facts, model_card
from training.checkpoint import progress_of
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import ExportError
from training.graphs import decoder_graph, encoder_graph, likelihood_graph, posterior_graph
from training.images import training_images
from training.objectives.words import NO_BUNDLE
from training.observers import EvaluationProgress
from training.parity import BATCH_SIZES, check_parity
from training.precision.lowering import lower
from training.precision.words import lines
from training.provenance import git_commit
from training.run import RunFolder
from training.showcase import showcase
from training.trained import TorchModel, load_best
from training.words import say

GOLDEN_IMAGES = 10
# Bytes of golden.npz, roughly: large pictures get fewer golden images, two at least.
GOLDEN_BYTES = 1 << 20
# Of validation images, for a score to be held against: each is a draw from what the model was made for, and a thousand
# give a percentile to within three.
SCORED_IMAGES = 1000
SCORING_SAMPLES = 64
SCORING_SEED = 0
FAMILIES: dict[str, PosteriorFamily] = {
    "diagonal": "diagonal-gaussian",
    "full": "full-gaussian",
    "planar": "planar",
    "radial": "radial",
    "iaf": "iaf",
    "sylvester-orthogonal": "sylvester-orthogonal",
    "sylvester-householder": "sylvester-householder",
    "sylvester-triangular": "sylvester-triangular",
}
# What a precision costs is measured on the served graphs, which give a mean image: of these families it is all there is
# to know of p(x|z), beside the scale in the manifest.
KNOWN_BY_THEIR_MEAN = ("bernoulli", "gaussian")

Floats = NDArray[np.float32]


def export(
    run: RunFolder,
    destination: Path,
    version: str,
    precision: Literal["float32", Lower] = "float32",
    *,
    replace: bool = False,
    data_dir: Path | None,
    console: Console,
) -> Path:
    """Publish the best weights of a run as a bundle.

    Args:
        destination: the bundle's folder.
        version: of the bundle, such as "1"; letters, digits, ``.``, ``_`` and ``-``.
        precision: of the graphs; what less than float32 costs is measured on validation images and told.
        replace: put it in the place of a bundle that is there.
        data_dir: local copies of the data, from which a few validation images are taken.

    Returns:
        ``destination``.

    Raises:
        ExportError: the graphs and PyTorch disagree, the bundle cannot be made or put in place, or what a lower
            precision costs cannot be measured.
        ConfigError, CheckpointError, DataError: there is no run, no usable checkpoint, or not the data of the run.
    """
    config, provenance = run.config(), run.provenance()
    if destination.name in ("", ".."):
        raise ExportError(f"{destination}: name the bundle's own folder, as in bundles/{config.name}")
    if config.objective.kind == "autoencoder":
        raise ExportError(f"{run.folder}: {NO_BUNDLE}")
    family, posterior = config.model.likelihood.family, config.model.posterior.kind
    if precision != "float32" and family not in KNOWN_BY_THEIR_MEAN:
        raise ExportError(
            f"precision {precision}: what it costs a {family} likelihood cannot be measured from mean images: "
            "use float32"
        )
    if precision != "float32" and posterior != "diagonal":
        raise ExportError(
            f"precision {precision}: what it costs is measured with diagonal Gaussian posteriors, and this one is "
            f"{posterior}: use float32"
        )
    if precision != "float32" and config.model.prior.kind != "standard-normal":
        raise ExportError(
            f"precision {precision}: what it costs is measured under a standard normal prior, and this one is "
            f"{config.model.prior.kind}: use float32"
        )
    if not replace and destination.is_dir() and any(destination.iterdir()):
        raise ExportError(f"{destination}: exists already, and replacing it was not asked for (--replace)")
    model, step = load_best(run)
    training, validation = training_images(run, data_dir=data_dir, console=console)
    manifest = _manifest(config, version, model, _metrics(run, step), provenance.git_commit)
    stopped = _stopped(run)
    if stopped is not None:
        say(console, f"{run.folder}: training is not finished: these are the best weights up to step {stopped:,}")
    counts = len(training), len(validation)
    facts = Facts(config, manifest, provenance, *counts, _parameters(model.vae), step, git_commit(), stopped)
    golden = showcase(validation, _golden_count(config))
    try:
        with staging_folder(destination) as staging:
            console.print(
                f"exporting {config.name} {version}: step {step:,} of {run.folder}", highlight=False, soft_wrap=True
            )
            files = _graphs(model.vae, manifest) | {GOLDEN: _golden(model, manifest, validation.subset(golden))}
            if isinstance(model.prior, Mixture):
                files[PRIOR] = write_prior(model.prior)
            worst = _stage(staging, facts, files, model, validation)
            if precision != "float32":
                contents = {path.name: path.read_bytes() for path in staging.iterdir()}
                say(console, f"lowering it to {precision}, and measuring what that costs")
                lowered = lower(
                    precision, model, contents, manifest, training, validation, also=golden, seed=config.seed, step=step
                )
                facts = replace_in(facts, manifest=manifest.model_copy(update={"precision": lowered.precision}))
                files = {ENCODER: lowered.encoder, DECODER: lowered.decoder}
                worst = _stage(staging, facts, files, model, validation)
            _score(staging, facts.manifest, validation, console)
            publish(staging, destination, replace=replace)
    except (BundleError, ModelFault) as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{destination}: cannot be written: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in destination.iterdir())
    console.print(
        f"{destination}: {size / 1e6:.1f} MB; differs from PyTorch by at most {worst:.1e} at batch sizes "
        + ", ".join(map(str, BATCH_SIZES)),
        highlight=False,
        soft_wrap=True,
    )
    for line in () if facts.manifest.precision is None else lines(facts.manifest.precision):
        say(console, line)
    return destination


def _graphs(vae: VAE, manifest: Manifest) -> dict[str, bytes]:
    made: dict[Role, Callable[[VAE, GraphSpec], bytes]] = {
        "encoder": encoder_graph,
        "decoder": decoder_graph,
        "posterior": posterior_graph,
        "likelihood": likelihood_graph,
    }
    return {spec.file: made[role](vae, spec) for role, spec in manifest.graphs.present().items()}


def _score(staging: Path, manifest: Manifest, validation: Dataset, console: Console) -> None:
    """Score validation images by the graphs themselves, and put what comes out beside them."""
    bundle = open_bundle(staging, RuntimeOptions(threads=torch.get_num_threads()))
    rows = choose(len(validation), SCORED_IMAGES, SCORING_SEED)
    with EvaluationProgress("scoring validation images", len(rows), console) as progress:
        scores = score_images(
            bundle, np.asarray(validation.images[rows]), SCORING_SAMPLES, seed=SCORING_SEED, progress=progress
        )
    write_bytes_atomically(staging / SCORES, scores_file(scores))
    spec = ScoredImages(images=len(rows), samples=SCORING_SAMPLES, seed=SCORING_SEED)
    write_manifest(staging, manifest.model_copy(update={"scores": spec}))
    open_bundle(staging)


def _stage(staging: Path, facts: Facts, files: Mapping[str, bytes], model: TorchModel, validation: Dataset) -> float:
    """Write files, card and manifest into the folder, open it as a server does, and compare it with PyTorch; the
    largest deviation."""
    for name, data in files.items():
        write_bytes_atomically(staging / name, data)
    write_text_atomically(staging / CARD, model_card(facts))
    write_manifest(staging, facts.manifest)
    return check_parity(open_bundle(staging), model, validation)


def _manifest(
    config: RunConfig, version: str, model: TorchModel, metrics: Metrics | None, commit: str | None
) -> Manifest:
    likelihood = model.vae.likelihood
    scale = float(likelihood.scale()) if isinstance(likelihood, Gaussian) else None
    scales = likelihood.scales() if isinstance(likelihood, DiscretizedLogistic) else None
    latent = LatentSpec(dim=model.vae.latent_dim)
    prior = PriorSpec(family=config.model.prior.kind, components=getattr(config.model.prior, "components", None))
    posterior = PosteriorSpec(family=FAMILIES[config.model.posterior.kind], parameters=model.vae.family.extra)
    try:
        return Manifest(
            name=config.name,
            version=version,
            created=datetime.now(UTC).replace(microsecond=0),
            git_commit=commit,
            image=config.image,
            latent=latent,
            posterior=posterior,
            prior=prior,
            likelihood=LikelihoodSpec(
                family=config.model.likelihood.family,
                scale=scale,
                scales=scales,
                binarization=config.data.binarization,
            ),
            graphs=graph_signatures(config.image, latent, posterior, scores=True),
            metrics=metrics,
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ExportError(f"no manifest can say this: {problems}") from error


def _metrics(run: RunFolder, step: int) -> Metrics | None:
    """What ``evaluate`` measured of the weights of ``step``; None where it did not measure."""
    try:
        metrics = Metrics.model_validate_json(run.metrics_file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ExportError(f"{run.metrics_file}: not a metrics.json of this version; evaluate again") from error
    if metrics.protocol.step not in (None, step):
        raise ExportError(
            f"{run.metrics_file}: measured the weights of step {metrics.protocol.step:,}, and {run.best.name} holds "
            f"those of step {step:,}; evaluate again"
        )
    return metrics


def _stopped(run: RunFolder) -> int | None:
    """The step at which training stands that is not finished; None where it is, or where no checkpoint tells."""
    if not run.last.exists():
        return None
    progress = progress_of(run.last)
    return None if progress.finished else progress.step


def _golden_count(config: RunConfig) -> int:
    pixels = int(np.prod(config.image.shape))
    return max(2, min(GOLDEN_IMAGES, GOLDEN_BYTES // (pixels * 5)))  # a byte of the image, four of the reconstruction


def _golden(model: TorchModel, manifest: Manifest, images: Dataset) -> bytes:
    """golden.npz: real images, and the numbers that PyTorch gives for them."""
    pixels = to_network(images.images)
    posterior = model.encode(pixels)
    arrays: dict[str, Any] = {"images": images.images} | posterior._asdict()
    latent = posterior.mean
    if not manifest.posterior.is_diagonal:
        arrays["noise"] = posterior_noise(len(pixels), 1, manifest.latent.dim, seed=SCORING_SEED)[:, 0]
        arrays |= model.draw(posterior, arrays["noise"])._asdict()
        latent = arrays["latent"]
    arrays |= {"reconstruction": model.decode(latent), "log_likelihood": model.log_likelihood(latent, pixels)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in layout(manifest)})
    return buffer.getvalue()


def _parameters(vae: VAE) -> dict[str, int]:
    parts = {"encoder": vae.encoder, "decoder": vae.decoder, "posterior": vae.family}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
