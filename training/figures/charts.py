"""Curves of a run's log, and the latent space as points."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from model.bundle.runtime import Posterior
from training.figures.page import DPI

# Okabe and Ito (2008), "Color universal design": told apart with any color vision.
TRAINING, VALIDATION, THIRD = "#0072B2", "#D55E00", "#009E73"
# Petroff (2021), "Accessible color sequences for data visualization": ten that stay apart.
CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_OTHERS = "#dddddd"
_MARKERS = "os^Dv"
_CURVES = (("negative_elbo", "−ELBO"), ("distortion", "distortion"), ("rate", "rate"))


def training_curves(log: Sequence[dict[str, Any]]) -> Figure:
    """-ELBO and its two halves against the step, of training and validation, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(11, 3.4), dpi=DPI, layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 3), _CURVES, strict=True):
        everything: list[float] = []
        settled: list[float] = []
        for split, color, style in (("train", TRAINING, "-"), ("validation", VALIDATION, "o-")):
            lines = [line for line in log if line["split"] == split and key in line]
            if not lines:
                continue
            steps, values = [line["step"] for line in lines], [line[key] for line in lines]
            style = "o" if len(lines) == 1 else style  # one point is no line
            name = "training" if split == "train" else split
            axes.plot(steps, values, style, color=color, linewidth=1.2, markersize=3, label=name)
            everything += values
            settled += values[len(values) // 20 :]
        _limit(axes, everything, settled)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel("nats per image")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    # An autoencoder has one curve of the three.
    next((axes for axes in figure.axes if axes.lines), figure.axes[0]).legend()
    return figure


def latent_scatter(posterior: Posterior, labels: NDArray[np.int64], names: Sequence[str] | None) -> Figure:
    """Posterior means in the plane, colored by label; more than two dimensions by their principal components.

    Ten labels have a color: where there are more, the ten most frequent; the others are grey.
    """
    points, axis_labels = _plane(posterior)
    figure = Figure(figsize=(7.6, 6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"posterior means of {len(points):,} validation images")
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    size = float(np.clip(15000 / len(points), 9, 30))
    for group in groups_of(labels, names):
        x, y = points[group.members].T
        alpha = 1.0 if group.color == _OTHERS else 0.8
        axes.scatter(x, y, size, group.color, marker=group.marker, alpha=alpha, linewidths=0, label=group.name)
    legend = figure.legend(loc="outside right upper", markerscale=1.5)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


class Group(NamedTuple):
    """Images of one label, or of all that have no color of their own, and how their points look."""

    members: NDArray[np.bool_]
    name: str
    color: str
    marker: str


def groups_of(labels: NDArray[np.int64], names: Sequence[str] | None) -> list[Group]:
    """The labels ``(N,)`` as groups: "others" first, if there are any, then the ten most frequent in their order."""
    values, counts = np.unique(labels, return_counts=True)
    chosen = np.sort(values[np.argsort(-counts, kind="stable")[: len(CLASSES)]])
    others = ~np.isin(labels, chosen)
    groups = [Group(others, "others", _OTHERS, "o")] if others.any() else []
    for index, value in enumerate(chosen):
        name = names[value] if names is not None and 0 <= value < len(names) else str(value)
        groups.append(Group(labels == value, name, CLASSES[index], _MARKERS[index % len(_MARKERS)]))
    return groups


def _plane(posterior: Posterior) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Means ``(N, D)`` -> points ``(N, 2)`` and what the axes are."""
    means = posterior.mean.astype(np.float64)
    if means.shape[1] == 1:
        sigma = np.exp(0.5 * posterior.log_variance.astype(np.float64))
        return np.hstack([means, sigma]), ("posterior mean z0", "posterior standard deviation")
    if means.shape[1] == 2:
        return means, ("z0", "z1")
    centered = means - means.mean(axis=0)
    _, scales, directions = np.linalg.svd(centered, full_matrices=False)
    directions = directions[:2]
    # A principal axis has no sign of its own: its largest part is made positive, so that the figure can be reproduced.
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    shares = scales**2 / max(float((scales**2).sum()), np.finfo(np.float64).tiny)
    points: NDArray[np.float64] = centered @ (directions * signs[:, None]).T
    if points.shape[1] == 1:  # a single image
        points, shares = np.hstack([points, points]), np.append(shares, 0)
    first, second = (
        f"{which} principal component ({share:.0%} of the variance)"
        for which, share in zip(("first", "second"), shares[:2], strict=True)
    )
    return points, (first, second)


def _limit(axes: Axes, everything: Sequence[float], settled: Sequence[float]) -> None:
    """Leave the steep start of a falling curve out of sight: it would flatten all that follows."""
    lowest = min((value for value in everything if math.isfinite(value)), default=0.0)
    later = [value for value in settled if math.isfinite(value)] or [lowest]
    highest = float(np.percentile(later, 97))
    if highest > lowest:
        margin = 0.08 * (highest - lowest)
        axes.set_ylim(lowest - margin, highest + margin)
