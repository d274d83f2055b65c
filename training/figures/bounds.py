"""Bounds of log p(x) against the number of importance samples that they take."""

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from model.bundle.measurements import Estimate, Metrics
from training.figures.charts import THIRD, TRAINING, VALIDATION
from training.figures.page import DPI


def bound_curve(metrics: Metrics) -> Figure:
    """-L_k against k with -ELBO at k = 1, and where it was measured, annealed importance sampling as a line.

    Bands are 95% confidence intervals over images: they move all points together, which are of the same images.
    Annealing was measured on some of the images. Its line is -L_k of all of them less the difference between the two on
    those: what images differ by would otherwise hide what methods differ by. Its band is that difference's alone.
    """
    figure = Figure(figsize=(7, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    samples = [bound.importance_samples for bound in metrics.bounds]
    values = [bound.negative for bound in metrics.bounds]
    means, lows, highs = zip(*((value.value, value.low, value.high) for value in values), strict=True)
    axes.plot(samples, means, "o-", color=TRAINING, linewidth=1.2, markersize=4, label="−L_k, 95% interval over images")
    axes.fill_between(samples, lows, highs, color=TRAINING, alpha=0.15, linewidth=0)
    elbo = metrics.negative_elbo
    axes.errorbar(
        [1], [elbo.value], [[elbo.value - elbo.low], [elbo.high - elbo.value]], fmt="D", color=VALIDATION, markersize=5,
        capsize=3, label="−ELBO",
    )  # fmt: skip
    line = annealing_line(metrics)
    if line is not None and metrics.annealing is not None:
        count = metrics.annealing.protocol.images
        axes.axhline(line.value, color=THIRD, linewidth=1.2, label=f"annealing, by its difference on {count:,} images")
        axes.axhspan(line.low, line.high, color=THIRD, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("k, importance samples of an image")
    axes.set_ylabel("nats per image")
    protocol = metrics.protocol
    axes.set_title(f"upper bounds of −log p(x), {protocol.images:,} {protocol.split} images")
    axes.legend()
    return figure


def annealing_line(metrics: Metrics) -> Estimate | None:
    """-log p(x) of all images by annealing: -L_k of all of them less its difference to annealing on some.

    None where annealing was not measured, or beside an L_k that is not on the curve.
    """
    if metrics.annealing is None:
        return None
    difference, k = metrics.annealing.difference, metrics.annealing.protocol.importance_samples
    for bound in metrics.bounds:
        if bound.importance_samples == k:
            at = bound.negative.value
            return Estimate(value=at - difference.value, low=at - difference.high, high=at - difference.low)
    return None
