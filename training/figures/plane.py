"""Where a model puts images in a plane of its latent space, and how sure it is of that."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.pixels import to_network
from model.posteriors import DiagonalGaussian, FullGaussian, Posterior
from training.figures.charts import Group
from training.figures.page import INK
from training.figures.panels import Bytes, encode_images
from training.trained import TorchModel

_ELLIPSES = 50
_Floats = NDArray[np.float64]


class Ellipses(NamedTuple):
    """Posteriors of some of the images."""

    images: NDArray[np.int64]
    """Which, ``(M,)``."""
    covariances: _Floats
    """In the plane, ``(M, 2, 2)``."""


class Plane(NamedTuple):
    """Two of the latent dimensions."""

    means: _Floats
    """What stands for each image, ``(N, 2)``."""
    ellipses: Ellipses | None
    """None where q(z|x) is no Gaussian, or was not trained."""
    names: tuple[str, str]


def plane_of(model: TorchModel, images: Bytes, *, noisy: bool) -> Plane:
    """The two dimensions whose means vary most over uint8 images ``(N, H, W, C)``, in their own order; where there is
    only one, the other is 0.

    Args:
        noisy: whether q(z|x) was trained, and not its mean alone.
    """
    means = encode_images(model, images).mean.astype(np.float64)
    if means.shape[1] == 1:
        means = np.hstack([means, np.zeros_like(means)])
    chosen = np.sort(np.argsort(-means.var(axis=0), kind="stable")[:2])
    few = np.arange(0, len(images), max(1, len(images) // _ELLIPSES))[:_ELLIPSES]
    covariances = _covariances(model, images[few], chosen) if noisy else None
    ellipses = None if covariances is None else Ellipses(few, covariances)
    first, second = (f"z{number}" if number < model.vae.latent_dim else "" for number in chosen)
    return Plane(means[:, chosen], ellipses, (first, second))


def draw_plane(axes: Axes, plane: Plane, groups: list[Group]) -> None:
    """Means, ellipses of the posteriors at one standard deviation, and circles of N(0, I) at 1, 2 and 3; nothing that
    there is lies outside."""
    for deviations in (1, 2, 3):
        axes.add_patch(Circle((0, 0), deviations, fill=False, edgecolor=INK, linewidth=0.8, zorder=3))
    size = float(np.clip(4000 / len(plane.means), 3, 20))
    for group in groups:
        x, y = plane.means[group.members].T
        axes.scatter(x, y, s=size, color=group.color, marker=group.marker, linewidths=0, alpha=0.7, zorder=2)
    if plane.ellipses is not None:
        _draw_ellipses(axes, plane, plane.ellipses, groups)
    reach = max(3.3, 1.05 * float(np.abs(plane.means).max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.tick_params(labelsize=7, length=2, pad=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel(plane.names[0], fontsize=8, labelpad=1)
    axes.set_ylabel(plane.names[1], fontsize=8, labelpad=-2)


def covariances_of(posterior: Posterior) -> Tensor | None:
    """``(N, D, D)``, where posteriors are Gaussians."""
    match posterior:
        case DiagonalGaussian():
            return torch.diag_embed(posterior.log_variance.exp())
        case FullGaussian(factor=factor):
            return factor @ factor.mT
        case _:
            return None


def _covariances(model: TorchModel, images: Bytes, chosen: NDArray[np.int64]) -> _Floats | None:
    """Of the posteriors of few images ``(M, H, W, C)`` in two dimensions, ``(M, 2, 2)``, where they are Gaussians."""
    with torch.inference_mode():
        posterior = model.vae.posterior(torch.from_numpy(to_network(np.asarray(images))))
    whole = covariances_of(posterior)
    if whole is None:
        return None
    size = max(2, whole.shape[-1])
    padded = np.zeros((len(images), size, size))  # one dimension has no other to vary in
    padded[:, : whole.shape[-1], : whole.shape[-1]] = whole.double().numpy()
    return padded[:, chosen[:, None], chosen]


def _draw_ellipses(axes: Axes, plane: Plane, ellipses: Ellipses, groups: list[Group]) -> None:
    variances, directions = np.linalg.eigh(ellipses.covariances)
    diameters = 2 * np.sqrt(np.maximum(variances, 0))
    longest = directions[:, :, 1]  # eigenvalues rise
    collection = EllipseCollection(
        diameters[:, 1],
        diameters[:, 0],
        np.degrees(np.arctan2(longest[:, 1], longest[:, 0])),
        units="xy",
        offsets=plane.means[ellipses.images],
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=[next(group.color for group in groups if group.members[image]) for image in ellipses.images],
        linewidths=0.8,
        zorder=4,
    )
    axes.add_collection(collection)
