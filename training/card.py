"""MODEL_CARD.md: what a bundle is, where it comes from, how good it was measured to be, and what it is not for.

After Mitchell et al. (2019), "Model Cards for Model Reporting". Every number in it comes from the run; it names no
folder.
"""

from dataclasses import dataclass

from model.bundle.manifest import Manifest, TensorSpec
from model.bundle.measurements import Estimate, Metrics
from model.vae import Architecture
from training import anatomy
from training.config import RunConfig
from training.doubt import doubt
from training.loop import Plan
from training.objectives.words import chooses, paragraph
from training.optimization import warmup
from training.parts import Part, parts_of
from training.precision import words
from training.provenance import Provenance
from training.words import count


@dataclass(frozen=True)
class Facts:
    """All that a card says.

    Attributes:
        parameters: how many numbers encoder, decoder and posterior have learned.
        step: the update after which the weights were kept.
        exported_from: the commit that exported, which need not be the one that trained.
        stopped: the step at which training stood when it was not finished.
    """

    config: RunConfig
    manifest: Manifest
    provenance: Provenance
    training_images: int
    validation_images: int
    parameters: dict[str, int]
    step: int
    exported_from: str | None
    stopped: int | None = None


def model_card(facts: Facts) -> str:
    """The card, Markdown. The same facts give the same text."""
    sections = (_title, _data, _architecture, _training, _measured, _precision, _use_and_limits, _how_to, _provenance)
    texts = [section(facts) for section in sections]
    return "\n\n".join(text for text in texts if text is not None) + "\n"


def _title(facts: Facts) -> str:
    manifest, image = facts.manifest, facts.manifest.image
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"A variational autoencoder (Kingma and Welling, 2014) of {image.height}x{image.width} {_tone(facts)} images. "
        f"Its encoder turns an image into a distribution over {manifest.latent.dim} latent dimensions, its decoder "
        "turns a latent into an image."
    )


def _data(facts: Facts) -> str:
    config, image, name = facts.config, facts.manifest.image, facts.provenance.data["name"]
    binarization = {
        "dynamic": "Training draws every pixel anew from Bernoulli(grey value) at each use (dynamic binarization).",
        "static": "The pixels are binary already (static binarization).",
        "none": "Pixels are used as they are, scaled to [0, 1].",
    }[config.data.binarization]
    return (
        "## Data\n\n"
        f"{name}: {facts.training_images:,} images to train on and {facts.validation_images:,} validation images, "
        "which chose the weights that were kept. A few of these lie in this bundle, in golden.npz, for its self-test. "
        "Test images are apart from both: nothing was trained on them and nothing chosen by them. What the source does "
        f"not divide itself was divided by seed {config.seed}.\n\n"
        f"Pictures of another size are fitted by the rule `{image.fit}` with {image.resample} resampling, here as in "
        f"the server. {binarization}"
    )


def _architecture(facts: Facts) -> str:
    config, manifest = facts.config.model, facts.manifest
    encoder, decoder, posterior = (facts.parameters[part] for part in ("encoder", "decoder", "posterior"))
    prior = anatomy.prior_parameters(config.prior, manifest.image)
    # Most posteriors and priors have no weights of their own.
    of_posterior, of_prior = (f"{number:,}" if number else "" for number in (posterior, prior))
    return "\n".join(
        [
            "## Architecture",
            "",
            "| part | what it is | parameters |",
            "|---|---|---:|",
            f"| encoder | {anatomy.encoder(config.network, manifest.image)} | {encoder:,} |",
            f"| posterior q(z\\|x) | {anatomy.posterior(config.posterior)} | {of_posterior} |",
            f"| prior p(z) | {anatomy.prior(config.prior, manifest.latent.dim)} | {of_prior} |",
            f"| decoder | {anatomy.decoder(config.network)} | {decoder:,} |",
            f"| likelihood p(x\\|z) | {anatomy.likelihood(config.likelihood, manifest.likelihood)} | |",
        ]
    )


def _training(facts: Facts) -> str:
    o = facts.config.optimization
    total = Plan.of(facts.config, facts.training_images).total_steps
    steps = warmup(o, total)
    extras = [f"warm-up over {count(steps, 'step')}"] if steps else []
    extras += [f"weight decay {o.weight_decay:g}"] if o.weight_decay else []
    extras += [f"gradients clipped at norm {o.gradient_clip:g}"] if o.gradient_clip else []
    patience = o.early_stopping and count(o.early_stopping, "validation")
    extras += [f"ending after {patience} without improvement"] if patience else []
    average = f"The exponential moving average of the weights (decay {o.ema_decay:g})" if o.ema_decay else "The weights"
    return (
        "## Training\n\n"
        f"{paragraph(facts.config.objective, closed_rate=_has_closed_rate(facts.config.model))}\n\n"
        f"AdamW, {count(o.epochs, 'epoch')} at most, batches of {o.batch_size:,}, learning rate {o.learning_rate:g} "
        f"falling on a cosine to {o.final_learning_rate:g}" + "".join(f", {extra}" for extra in extras) + ". "
        f"{average} with the lowest validation {chooses(facts.config.objective)}, of step {facts.step:,}, is what this "
        "bundle holds."
        + (f" Training was not finished: it stood at step {facts.stopped:,} of {total:,}." if facts.stopped else "")
    )


def _measured(facts: Facts) -> str:
    metrics = facts.manifest.metrics
    if metrics is None:
        return (
            "## Measured\n\nNothing was measured: how good this model is on test images is not known. "
            "`vae evaluate` on its run measures it, and another export puts the numbers here."
        )
    precision = words.remark(facts.manifest)
    warning = [] if precision is None else [precision]
    measured = [_protocol(metrics), _table(metrics, facts.manifest.latent.dim), *_remarks(facts, metrics)]
    return "\n\n".join(["## Measured", *warning, *measured, *(_part(part) for part in parts_of(metrics))])


def _part(part: Part) -> str:
    lines = ["| what | value | 95% interval | unit |", "|---|---:|---:|---|"]
    lines += [f"| {row.what} | {row.value} | {row.interval} | {row.unit} |" for row in part.rows]
    return "\n\n".join([f"### {part.title}", part.protocol, "\n".join(lines), *part.remarks])


def _precision(facts: Facts) -> str | None:
    return words.section(facts.manifest)


def _protocol(metrics: Metrics) -> str:
    protocol = metrics.protocol
    binarization = "not binarized" if protocol.binarization == "none" else f"{protocol.binarization} binarization"
    samples = f", {protocol.importance_samples:,} importance samples an image" if protocol.importance_samples else ""
    return (
        f"On {protocol.images:,} images of the {protocol.split} split of {protocol.dataset}, {binarization}{samples}, "
        f"seed {protocol.seed}. Intervals are 95% confidence intervals of the mean over images (Student's t): they "
        "cover the choice of test images, not another training run."
    )


def _table(metrics: Metrics, dim: int) -> str:
    k = metrics.protocol.importance_samples
    grey = ", of grey values not binarized" if metrics.protocol.binarization == "dynamic" else ""
    rows: list[tuple[str, Estimate | None, int, str]] = [
        ("rate, KL(q(z\\|x) \\|\\| p(z))", metrics.rate, 2, "nats per image"),
        ("distortion, -E log p(x\\|z)", metrics.distortion, 2, "nats per image"),
        ("-ELBO = rate + distortion", metrics.negative_elbo, 2, "nats per image"),
        (f"-L_{k}, upper bound of -log p(x)", metrics.negative_log_likelihood, 2, "nats per image"),
        (f"-L_{k} in bits", metrics.bits_per_dim, 4, "bits per dimension"),
        (f"squared error of decode(mean){grey}", metrics.reconstruction_error, 5, "per pixel on [0, 1]"),
    ]
    lines = ["| what | value | 95% interval | unit |", "|---|---:|---:|---|"]
    for what, estimate, digits, unit in rows:
        if estimate is not None:
            value, low, high = (f"{number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
            lines.append(f"| {what} | {value} | {low} to {high} | {unit} |")
    size = metrics.effective_sample_size
    if size is not None and metrics.negative_log_likelihood is not None:
        lines.append(
            f"| effective sample size, mean | {size.mean:.1f} | smallest {size.minimum:.1f} | of {k} samples |"
        )
    lines.append(f"| active units (Burda et al., 2015) | {metrics.active_units} | | of {dim} dimensions |")
    return "\n".join(lines)


def _remarks(facts: Facts, metrics: Metrics) -> list[str]:
    remarks = []
    if metrics.negative_log_likelihood is not None:
        remarks.append(
            "L_k is the importance-weighted bound (Burda et al., 2015): it never exceeds log p(x) in expectation, and "
            "grows tighter with k. Numbers compare only with the same k, split and binarization."
        )
    warning = doubt(metrics)
    if warning is not None:
        remarks.append(warning)
    match facts.manifest.likelihood.family, facts.manifest.likelihood.binarization:
        case "gaussian" | "continuous-bernoulli", _:
            remarks.append(
                "The likelihood is a density on pixels scaled to [0, 1], so these nats can have either sign. They do "
                "not compare with discrete likelihoods, and there are no bits per dimension."
            )
        case "bernoulli", "none":
            remarks.append(
                "The model has a Bernoulli likelihood and the pixels are grey, not binary: distortion is a "
                "cross-entropy, and nothing in this table is, or bounds, a likelihood."
            )
        case "discretized-logistic" | "categorical", _:
            remarks.append(
                "The likelihood gives each of the 256 levels of a pixel its probability. Bits per dimension compare "
                "with those of other models of the same 8-bit images; resized or recompressed images are other images."
            )
    return remarks


def _use_and_limits(facts: Facts) -> str:
    dim = facts.manifest.latent.dim
    limits = [
        "It knows images like those it was trained on and nothing else. Any picture gets an embedding, also one that "
        "is unlike all it has seen, and nothing in the embedding says so.",
        "Samples and reconstructions are the likelihood's mean: smooth where the model is unsure, never noisy.",
        f"The latent dimensions have no given meaning, and not all {dim} need to carry information.",
        "Biases of the data are biases of the model.",
    ]
    return (
        "## Intended use and limits\n\n"
        "Embeddings, reconstructions, samples and interpolations of images like those it was trained on; teaching and "
        "research. No decision about a person should rest on it.\n\n" + "\n".join(f"- {limit}" for limit in limits)
    )


def _has_closed_rate(model: Architecture) -> bool:
    """Is KL(q(z|x) || p(z)) a formula? Of a flow, or under a mixture, it is an estimate."""
    return model.prior.kind == "standard-normal" and model.posterior.kind in ("diagonal", "full")


def _how_to(facts: Facts) -> str:
    return (
        "## How to use\n\n"
        "With this folder as `BUNDLE`:\n\n"
        "```\n"
        "vae serve --model BUNDLE\n"
        "curl -H 'Content-Type: image/png' --data-binary @picture.png http://127.0.0.1:8000/encode\n"
        "curl 'http://127.0.0.1:8000/sample?n=16&seed=1' -o samples.png\n"
        "```\n\n"
        "Without a server, the graphs take and give float32 arrays:\n\n"
        "| graph | takes | gives |\n|---|---|---|\n"
        + "\n".join(
            f"| `{graph.file}` | {_tensors(graph.inputs)} | {_tensors(graph.outputs)} |"
            for graph in facts.manifest.graphs.present().values()
        )
        + "\n\nImages are in [0, 1], densities in nats. "
        + (
            "Noise is standard normal; where it is 0, `latent` is what stands for an image."
            if not facts.manifest.posterior.is_diagonal
            else "Draws from the posterior are mean + exp(log_variance / 2) * noise."
        )
        + (" Latents are drawn from the mixture in `prior.npz`." if facts.manifest.prior.components else "")
    )


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"`{tensor.name}` [{', '.join(map(str, tensor.shape))}]" for tensor in tensors)


def _provenance(facts: Facts) -> str:
    run = facts.provenance
    metrics = facts.manifest.metrics
    threads = count(run.threads, "thread")
    rows = [
        ("trained from commit", ", then ".join(commit or "not known" for commit in run.commits)),
        ("exported from commit", facts.exported_from or "not known"),
        *([("measured from commit", metrics.protocol.git_commit or "not known")] if metrics else []),
        ("seed", str(run.seed)),
        ("started", run.started),
        ("device", f"{run.device}, {threads}, networks in {run.precision}"),
        ("Python", run.python),
        ("libraries", ", ".join(f"{name} {version}" for name, version in run.libraries.items())),
        ("training images, SHA-256", run.data["training"]),
        ("validation images, SHA-256", run.data["validation"]),
    ]
    return "\n".join(["## Provenance", "", "| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def _tone(facts: Facts) -> str:
    return "grey" if facts.manifest.image.channels == 1 else "color"
