"""Where the pseudo-inputs of a VampPrior begin: at training images, or near their mean."""

import numpy as np
from numpy.typing import NDArray

from model.priors import PriorSettings, VampSettings
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import DataError


def first_pseudo_inputs(prior: PriorSettings, training: Dataset, seed: int) -> NDArray[np.float64] | None:
    """The images that pseudo-inputs start at, ``(K, H, W, C)`` in [0, 1], or the one that all start near,
    ``(1, H, W, C)``; None for a prior that has none.

    Raises:
        DataError: there are not as many training images.
    """
    if not isinstance(prior, VampSettings):
        return None
    if prior.start == "mean":
        return training.mean_image()[None]
    if prior.components > len(training):
        raise DataError(
            f"model.prior.components = {prior.components} start at as many training images, and there "
            f"{'is' if len(training) == 1 else 'are'} {len(training):,}: "
            "set model.prior.components lower, or model.prior.start = 'mean'"
        )
    chosen = training.images[choose(len(training), prior.components, seed)]
    return np.asarray(chosen, np.float64) / 255
