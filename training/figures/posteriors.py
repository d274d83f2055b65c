"""The true posterior of a few images beside what the encoder says: what the gap between them looks like."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.console import Console

from model.bundle.pixels import from_network, to_network, to_uint8
from model.vae import VAE
from training.chains import ChainSettings, PosteriorChains, sample_posteriors
from training.config import RunConfig
from training.densities import draw_noise
from training.figures.charts import TRAINING, VALIDATION
from training.figures.page import DPI, INK
from training.figures.panels import Bytes
from training.figures.plane import covariances_of
from training.objective import binarize
from training.observers import EvaluationProgress
from training.streams import CHAINS, PIXELS, generator_of
from training.subset import latents_at_a_time

IMAGES = 6
_ACROSS = 3
# Of q: as many as there are of the true posterior would do for the eye, but which dimensions are shown hangs on them.
_DRAWS = 2000
# Pairs are looked for among so many dimensions at most: a table of all pairs of thousands takes gigabytes.
_MOST_DIMENSIONS = 256
_ROOM = 0.07
_INSET = 0.22

_Floats = NDArray[np.float64]
_Q, _P = VALIDATION, TRAINING


class Drawn(NamedTuple):
    """N images, what q(z|x) is of each, and what its chains found."""

    images: Bytes
    """``(N, H, W, C)``, as the likelihood saw them."""
    chains: PosteriorChains
    encoder: _Floats
    """Draws of q(z|x), ``(K, N, D)``."""
    means: _Floats
    """``(N, D)``; of a flow those of its base."""
    covariances: _Floats | None
    """``(N, D, D)``; none where q is no Gaussian."""


def sample_run(model: VAE, config: RunConfig, images: Bytes, console: Console) -> Drawn:
    """Sample the true posteriors of uint8 images ``(N, H, W, C)``, on the CPU; the run's seed decides, a bar shows it.

    Args:
        model: in evaluation mode.
        config: of the run; pixels that are binarized dynamically are drawn once.
        images: as the data have them.
        console: where the bar is.
    """
    device, settings = torch.device("cpu"), ChainSettings()
    pixels = torch.from_numpy(to_network(np.asarray(images)))
    pixels = binarize(pixels, config.data.binarization, generator_of(device, config.seed, PIXELS, 0))
    noise = generator_of(device, config.seed, CHAINS, 0)
    at_a_time = latents_at_a_time(model, device, gradients=True)
    what = f"true posteriors of {len(images)} images"
    with EvaluationProgress(what, settings.moves, console, unit="moves") as progress:
        chains = sample_posteriors(model, pixels, noise, settings, at_a_time=at_a_time, advance=lambda: progress(1))
    with torch.no_grad():
        posterior = model.posterior(pixels)
        encoder = posterior.draw(draw_noise(posterior, _DRAWS, noise)).latent
        covariances = covariances_of(posterior)
    return Drawn(
        images=to_uint8(from_network(pixels.numpy())),
        chains=chains,
        encoder=encoder.double().numpy(),
        means=posterior.mean.double().numpy(),
        covariances=None if covariances is None else covariances.double().numpy(),
    )


def posterior_page(drawn: Drawn) -> Figure:
    """A panel an image: draws of p(z|x) as points, q(z|x) as ellipses at 1, 2 and 3 standard deviations, or as points
    where it is no Gaussian, in the two dimensions of which they differ most."""
    count = len(drawn.images)
    across = min(_ACROSS, count)
    down = -(-count // across)
    figure = Figure(figsize=(3 * across, 2.9 * down + 0.7), dpi=DPI, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    draws, chains = drawn.chains.latents.shape[:2]
    figure.suptitle(f"p(z|x), {draws * chains} draws of {chains} chains, and q(z|x)", fontsize=11)
    for index, axes in enumerate(grid[:count]):
        _panel(axes, drawn, index)
    for axes in grid[count:]:
        axes.remove()
    dots = [Line2D([], [], color=color, marker="o", linestyle="", markersize=4) for color in (_P, _Q)]
    line = Line2D([], [], color=_Q, linewidth=1.4)
    plane = drawn.encoder.shape[-1] > 1
    encoder = "q(z|x) at 1, 2 and 3 standard deviations" if plane and drawn.covariances is not None else "q(z|x)"
    figure.legend(
        [dots[0], dots[1] if plane and drawn.covariances is None else line],
        ["p(z|x) by Hamiltonian Monte Carlo", encoder],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def furthest_pair(truth: _Floats, encoder: _Floats) -> tuple[int, int]:
    r"""The two dimensions, the lower one first, in which draws of q ``(K, D)`` are furthest from draws of p ``(M, D)``:
    the largest KL(q || p) of Gaussians with their moments.

    .. math:: \tfrac12 \Big( \operatorname{tr} \Sigma_p^{-1} \Sigma_q
              + (\mu_q - \mu_p)^\top \Sigma_p^{-1} (\mu_q - \mu_p)
              - 2 + \log \frac{\det \Sigma_p}{\det \Sigma_q} \Big)

    No KL of marginals exceeds that of the whole, which is what the ELBO is below log p(x).
    """
    # What an image says something of has a variance below the prior's; that of the others is the prior's for both.
    chosen = np.sort(np.argsort(truth.var(axis=0), kind="stable")[:_MOST_DIMENSIONS])
    first, second = np.triu_indices(len(chosen), 1)
    p, q = (np.cov(draws[:, chosen], rowvar=False) for draws in (truth, encoder))
    moved = encoder[:, chosen].mean(axis=0) - truth[:, chosen].mean(axis=0)
    second_moments = q + np.outer(moved, moved)
    det_p, det_q = (c[first, first] * c[second, second] - c[first, second] ** 2 for c in (p, q))
    crossed = (
        p[second, second] * second_moments[first, first]
        + p[first, first] * second_moments[second, second]
        - 2 * p[first, second] * second_moments[first, second]
    )
    divergence = crossed / det_p + np.log(det_p / det_q)
    most = int(divergence.argmax())
    return int(chosen[first[most]]), int(chosen[second[most]])


def _panel(axes: Axes, drawn: Drawn, index: int) -> None:
    truth = drawn.chains.latents[:, :, index].flatten(0, 1).double().numpy()
    encoder = drawn.encoder[:, index]
    r_hat = drawn.chains.r_hat[index].max().item()
    axes.tick_params(labelsize=7, length=2, pad=2)
    if truth.shape[1] == 1:
        axes.set_title(f"R-hat {r_hat:.2f}", fontsize=9)
        _line(axes, truth[:, 0], encoder[:, 0])
        points = np.column_stack([truth[:, 0], np.zeros(len(truth))])  # the bars, about: they stand on 0
    else:
        pair = furthest_pair(truth, encoder)
        correlation = f"{np.corrcoef(truth[:, pair], rowvar=False)[0, 1]:.2f}".replace("-", "−")
        axes.set_title(f"R-hat {r_hat:.2f}, correlation of p {correlation}", fontsize=9)
        _cloud(axes, drawn, index, pair, truth[:, pair], encoder[:, pair])
        points = np.concatenate([truth[:, pair], encoder[:, pair]])
    _inset(axes, drawn.images[index], points)


def _cloud(axes: Axes, drawn: Drawn, index: int, pair: tuple[int, int], truth: _Floats, encoder: _Floats) -> None:
    axes.scatter(truth[:, 0], truth[:, 1], s=5, color=_P, alpha=0.5, linewidths=0, zorder=2)
    if drawn.covariances is None:
        few = encoder[: len(truth)]
        axes.scatter(few[:, 0], few[:, 1], s=5, color=_Q, alpha=0.5, linewidths=0, zorder=1)
    else:
        _ellipses(axes, drawn.means[index, pair], drawn.covariances[index][np.ix_(pair, pair)])
    for name, dimension, values in zip("xy", pair, (0, 1), strict=True):
        # The last of the points, and the largest ellipse, with room for the picture.
        middle, reach = encoder[:, values].mean(), 3 * encoder[:, values].std()
        low, high = min(truth[:, values].min(), middle - reach), max(truth[:, values].max(), middle + reach)
        axes.set(**{f"{name}lim": (low - _ROOM * (high - low), high + _ROOM * (high - low))})
        getattr(axes, f"set_{name}label")(f"z{dimension}", fontsize=8, labelpad=1)
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(4))


def _ellipses(axes: Axes, mean: _Floats, covariance: _Floats) -> None:
    variances, directions = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    for deviations in (1, 2, 3):
        width, height = 2 * deviations * np.sqrt(np.maximum(variances[::-1], 0))
        axes.add_patch(
            Ellipse((mean[0], mean[1]), width, height, angle=angle, fill=False, edgecolor=_Q, linewidth=1.4, zorder=3)
        )


def _line(axes: Axes, truth: _Floats, encoder: _Floats) -> None:
    """One latent dimension has no plane, but a histogram."""
    bins = np.histogram_bin_edges(np.concatenate([truth, encoder]), 40).tolist()
    axes.hist(truth, bins, density=True, color=_P, alpha=0.5)
    axes.hist(encoder, bins, density=True, histtype="step", color=_Q, linewidth=1.4)
    axes.set_xlabel("z0", fontsize=8, labelpad=1)


def _inset(axes: Axes, image: NDArray[np.uint8], points: _Floats) -> None:
    """The picture, in the corner with the fewest points."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    places = (points - (left, bottom)) / (right - left, top - bottom)
    margin = 0.02
    corners = [(x, y) for y in (1 - _INSET - margin, margin) for x in (margin, 1 - _INSET - margin)]
    covered = [((places > corner) & (places < np.add(corner, _INSET))).all(axis=1).sum() for corner in corners]
    inset = axes.inset_axes((*corners[int(np.argmin(covered))], _INSET, _INSET))
    inset.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    inset.set(xticks=[], yticks=[])
    inset.grid(visible=False)
    for spine in inset.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.8)
