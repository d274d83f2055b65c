"""q(z|x): what the encoder says of the latent that made an image.

``families`` has the settings and the modules; the distributions are in files of their own: Gaussians, and normalizing
flows, which turn a Gaussian's draws by maps whose density is known.
"""

from model.posteriors.gaussian import (
    LOG_VARIANCE_LIMIT,
    DiagonalGaussian,
    Draw,
    FullGaussian,
    Posterior,
    soft_bound,
    standard_normal_log_density,
)

__all__ = [
    "LOG_VARIANCE_LIMIT",
    "DiagonalGaussian",
    "Draw",
    "FullGaussian",
    "Posterior",
    "soft_bound",
    "standard_normal_log_density",
]
