"""The 1,797 handwritten 8x8 digits that come inside scikit-learn: real images without a download (UCI, 1998)."""

import numpy as np

from training.data.pools import ArrayPool, Workspace

_LARGEST_VALUE = 16


def digits_pool(workspace: Workspace) -> ArrayPool:
    """All digits, ``(1797, 8, 8)``, their 17 grey values 0..16 scaled to 0..255 and rounded; labels 0..9."""
    from sklearn.datasets import load_digits  # a second of import that the other sources need not pay

    bundled = load_digits()
    images = np.rint(bundled.images * (255 / _LARGEST_VALUE)).astype(np.uint8)
    names = tuple(str(name) for name in bundled.target_names)
    return ArrayPool(images, bundled.target.astype(np.int64), names, "digits", workspace, origin=("digits",))
