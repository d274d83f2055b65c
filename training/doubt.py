"""When a bound says less of log p(x) than its interval makes believe: intervals cover the choice of images only."""

from model.bundle.measurements import FEW, Metrics

# As many images as a 95% interval leaves out.
_TOLERATED = 0.05


def doubt(metrics: Metrics) -> str | None:
    """What is to be said where L_k rests on few latents: where more than a twentieth of the images have an effective
    sample size below 10. None where that is not so, or was not measured."""
    size, k = metrics.effective_sample_size, metrics.protocol.importance_samples
    if metrics.negative_log_likelihood is None or size is None or size.few is None or size.few <= _TOLERATED:
        return None
    said = (
        f"The effective sample size is below {FEW} for {size.few:.0%} of the images: there a few latents make L_{k}, "
        "and log p(x) may be well above it."
    )
    if metrics.annealing is None:
        return f"{said} Annealed importance sampling measures how far (vae evaluate RUN --ais)."
    found = metrics.annealing.difference
    return f"{said} Annealing found {found.value:+.2f} nats ({found.low:+.2f} to {found.high:+.2f})."
