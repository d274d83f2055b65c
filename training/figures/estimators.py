"""Pictures of the theory, of no run and no data: gradients, directions of the divergence, bounds of the evidence."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Generator, Tensor

from model.ais import forward_ais, geometric_path, lower_bound, reverse_ais, sigmoid_schedule, tune, upper_bound
from model.gaussian_fits import (
    GaussianFit,
    GaussianMixture,
    forward_fit,
    reverse_fit,
    reverse_fit_to_gaussian,
    reverse_kl,
)
from model.gradients import reparameterization_gradient, score_function_gradient
from model.linear_gaussian import LinearGaussian
from model.posteriors import DiagonalGaussian, standard_normal_log_density
from training.figures.charts import THIRD, TRAINING, VALIDATION
from training.figures.page import DPI, INK, constant_style, write_figures

SEED = 0
_SAMPLES = 10_000
_GRID = 240
_CHAINS = 16


class Bounds(NamedTuple):
    """Means over images, in nats per image, at one number of temperatures."""

    lower: float
    """Lower bound less log p(x)."""
    upper: float
    """Upper bound less log p(x)."""
    gap: float
    """Between the bounds of one chain alone, mean over chains."""


def draw_theory(folder: Path) -> list[Path]:
    """Draw what the equations of docs/theory.md say; the same files from the same versions, whatever machine.

    Returns:
        The files: gradient_variance, divergence_directions, local_optima and bidirectional, each ``.png``.

    Raises:
        DataError: the folder cannot be written.
    """
    with constant_style():
        figures = {
            "gradient_variance": gradient_variance(),
            "divergence_directions": divergence_directions(),
            "local_optima": local_optima(),
            "bidirectional": bidirectional(),
        }
        return write_figures(figures, folder)


def gradient_variance(dimensions: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256)) -> Figure:
    """Variance of the gradient of E_q[f] with respect to one mean, f(z) = -|z - 1|^2 / 2, q = N(0, I), against D.

    Points are measured; lines are exact, for this f: 1, (D - 1)^2 + 5.5 (D - 1) + 7.5, and with a baseline 1.5 D + 3.
    """
    measured: dict[str, list[float]] = {"score": [], "baseline": [], "reparameterization": []}
    for size in dimensions:
        q = DiagonalGaussian(torch.zeros(1, size), torch.zeros(1, size))
        noise = torch.randn(_SAMPLES, 1, size, generator=Generator().manual_seed(SEED))
        gradients = {
            "score": score_function_gradient(_quadratic, q, noise),
            "baseline": score_function_gradient(_quadratic, q, noise, leave_one_out=True),
            "reparameterization": reparameterization_gradient(_quadratic, q, noise),
        }
        for name, gradient in gradients.items():
            # All dimensions are alike: the mean over them is the less noisy estimate.
            measured[name].append(gradient.mean.double().var(0).mean().item())
    exact: dict[str, tuple[str, str, str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
        "score": ("score function", VALIDATION, "s", lambda d: (d - 1) ** 2 + 5.5 * (d - 1) + 7.5),
        "baseline": ("score function, leave-one-out baseline", THIRD, "^", lambda d: 1.5 * d + 3),
        "reparameterization": ("reparameterization", TRAINING, "o", np.ones_like),
    }
    figure = Figure(figsize=(7, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    line = np.geomspace(min(dimensions), max(dimensions), 100)
    for name, (label, color, marker, formula) in exact.items():
        axes.plot(line, formula(line), color=color, linewidth=1)
        axes.plot(dimensions, measured[name], marker, color=color, markersize=5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(dimensions), [str(size) for size in dimensions])
    axes.minorticks_off()
    axes.set_title(f"variance of one sample's gradient ({_SAMPLES:,} samples; lines: exact)")
    axes.set_xlabel("latent dimensions D")
    axes.set_ylabel("variance, nats² per unit²")
    axes.legend()
    return figure


def divergence_directions() -> Figure:
    """A correlated Gaussian and the nearest diagonal one, by each direction: Bishop (2006), figure 10.2."""
    covariance = torch.tensor([[0.0300, 0.0255], [0.0255, 0.0300]], dtype=torch.float64)
    target = GaussianFit(torch.full((2,), 0.5, dtype=torch.float64), covariance)
    figure = Figure(figsize=(8, 4.5), dpi=DPI, layout="compressed")
    fits = {
        "KL(q ‖ p): zero-forcing, too narrow": reverse_fit_to_gaussian(*target, "diagonal"),
        "KL(p ‖ q): zero-avoiding, covers all": forward_fit(*target, "diagonal"),
    }
    for axes, (title, fit) in zip(figure.subplots(1, 2), fits.items(), strict=True):
        for gaussian, color in ((target, TRAINING), (fit, VALIDATION)):
            _contours(axes, gaussian.log_density, (-0.1, 1.1), _levels(gaussian), color)
        axes.set_title(title)
    _legend(figure, "p: a correlated Gaussian", "q: the nearest diagonal one (at 1, 2 and 3 standard deviations)")
    return figure


def local_optima() -> Figure:
    """A mixture of two Gaussians and the nearest one, by each direction: Bishop (2006), figure 10.3."""
    means = torch.tensor([[-1.4, -1.4], [1.4, 1.4]], dtype=torch.float64)
    covariances = torch.tensor([[[0.6, -0.25], [-0.25, 0.6]]] * 2, dtype=torch.float64)
    mixture = GaussianMixture(torch.tensor([0.5, 0.5], dtype=torch.float64), means, covariances)
    covering = forward_fit(*mixture.moments(), "full")
    start = [GaussianFit(mean, torch.eye(2, dtype=torch.float64)) for mean in means]
    seeking = [reverse_fit(mixture.log_density, one, "full") for one in start]
    figure = Figure(figsize=(11, 4.5), dpi=DPI, layout="compressed")
    panels = [("least KL(p ‖ q): moments match", covering)]
    panels += [(f"KL(q ‖ p): local optimum {index}", fit) for index, fit in enumerate(seeking, 1)]
    peak = mixture.log_density(means).max().item()
    levels = sorted(peak + float(np.log(share)) for share in (0.8, 0.5, 0.25, 0.08))
    for axes, (title, fit) in zip(figure.subplots(1, 3), panels, strict=True):
        _contours(axes, mixture.log_density, (-5.4, 5.4), levels, TRAINING)
        _contours(axes, fit.log_density, (-5.4, 5.4), _levels(fit), VALIDATION)
        axes.set_title(f"{title}\nKL(q ‖ p) = {reverse_kl(mixture.log_density, fit, nodes=40).item():.2f} nats")
    _legend(figure, "p: a mixture of two Gaussians", "q: one Gaussian (at 1, 2 and 3 standard deviations)")
    return figure


def bidirectional(temperatures: Sequence[int] = (1, 3, 10, 30, 100, 300, 1000)) -> Figure:
    """Bounds from annealing to the posterior and back, against the number of temperatures, where log p(x) is known."""
    bounds = [_bounds(count) for count in temperatures]
    lower, upper = [bound.lower for bound in bounds], [bound.upper for bound in bounds]
    figure = Figure(figsize=(9.5, 4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(0, color=INK, linewidth=1, label="log p(x), exact")
    left.plot(
        temperatures, upper, "v-", color=VALIDATION, linewidth=1.2, markersize=5, label="upper: from the posterior"
    )
    left.plot(temperatures, lower, "^-", color=TRAINING, linewidth=1.2, markersize=5, label="lower: from the prior")
    left.set_yscale("symlog", linthresh=1, linscale=0.6)
    left.set_title(f"bounds less log p(x), {_CHAINS} chains")
    left.set_ylabel("nats per image")
    left.legend()
    for label, marker, color, gaps in (
        ("one chain", "o", INK, [bound.gap for bound in bounds]),
        (f"{_CHAINS} chains", "s", THIRD, [bound.upper - bound.lower for bound in bounds]),
    ):
        # A gap below its own noise may be negative, and then has no place on a logarithmic axis.
        shown = [gap if gap > 0 else math.nan for gap in gaps]
        right.plot(temperatures, shown, f"{marker}-", color=color, linewidth=1.2, markersize=5, label=label)
    right.set_yscale("log")
    right.set_title("gap between them")
    right.legend()
    right.set_ylabel("nats per image")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(list(temperatures), [str(count) for count in temperatures])
        axes.minorticks_off()
        axes.set_xlabel("temperatures")
    return figure


def _bounds(temperatures: int, *, images: int = 64, chains: int = _CHAINS, leapfrog_steps: int = 5) -> Bounds:
    """On a linear Gaussian model of 5 dimensions and 20 pixels, the same images for any number of temperatures."""
    generator = Generator().manual_seed(SEED)
    loadings = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    model = LinearGaussian(loadings, loadings.new_zeros(20), torch.tensor(0.5, dtype=torch.float64).log())
    pixels, latents = model.sample(images, generator)

    def log_likelihood(position: Tensor) -> Tensor:
        return model.log_likelihood(pixels, position)

    def prior(count: int) -> Tensor:
        return torch.randn(count, images, 5, generator=generator, dtype=torch.float64)

    path = geometric_path(standard_normal_log_density, log_likelihood)
    schedule = sigmoid_schedule(temperatures)
    annealing = tune(path, prior(4), generator, schedule=schedule, leapfrog_steps=leapfrog_steps)
    forward = forward_ais(path, prior(chains), generator, annealing)
    back = reverse_ais(path, latents.expand(chains, -1, -1), generator, annealing)
    evidence = model.log_evidence(pixels)
    return Bounds(
        (lower_bound(forward.log_weights) - evidence).mean().item(),
        (upper_bound(back.log_weights) - evidence).mean().item(),
        (back.log_weights - forward.log_weights).mean().item(),
    )


def _quadratic(latents: Tensor) -> Tensor:
    return -0.5 * (latents - 1).square().sum(-1)


def _levels(gaussian: GaussianFit) -> list[float]:
    """Of the log density at 3, 2 and 1 standard deviations."""
    peak = gaussian.log_density(gaussian.mean).item()
    return [peak - 0.5 * deviations**2 for deviations in (3, 2, 1)]


def _contours(
    axes: Axes,
    log_density: Callable[[Tensor], Tensor],
    limits: tuple[float, float],
    levels: Sequence[float],
    color: str,
) -> None:
    axis = torch.linspace(*limits, _GRID, dtype=torch.float64)
    values = log_density(torch.cartesian_prod(axis, axis)).reshape(_GRID, _GRID).T
    axes.contour(
        axis.numpy(), axis.numpy(), values.numpy(), levels=levels, colors=color, linewidths=1.2, linestyles="-"
    )
    axes.set_aspect("equal")
    axes.set_xlabel("z₁")
    axes.set_ylabel("z₂")


def _legend(figure: Figure, target: str, fit: str) -> None:
    """Contours have no entries of their own."""
    lines = [Line2D([], [], color=color, linewidth=1.2) for color in (TRAINING, VALIDATION)]
    figure.legend(lines, [target, fit], loc="outside lower center", ncols=2)


if __name__ == "__main__":
    draw_theory(Path(sys.argv[1]))
