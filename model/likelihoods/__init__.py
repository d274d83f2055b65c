"""p(x|z): how probable an image is, given what the decoder says.

A likelihood turns the decoder's output ("parameters", ``(N, C', H, W)``) into the mean image ``(N, C, H, W)`` in [0, 1]
and into log p(x|z), summed over pixels and channels, in nats. C' is C unless the family needs more numbers a pixel; its
settings say so.
"""

from model.likelihoods.base import FamilySettings, Likelihood, Support
from model.likelihoods.bernoulli import Bernoulli, BernoulliSettings
from model.likelihoods.categorical import Categorical, CategoricalSettings
from model.likelihoods.continuous_bernoulli import ContinuousBernoulli, ContinuousBernoulliSettings
from model.likelihoods.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticSettings
from model.likelihoods.gaussian import SMALLEST_SCALE, Gaussian, GaussianSettings

__all__ = [
    "SMALLEST_SCALE",
    "Bernoulli",
    "BernoulliSettings",
    "Categorical",
    "CategoricalSettings",
    "ContinuousBernoulli",
    "ContinuousBernoulliSettings",
    "DiscretizedLogistic",
    "DiscretizedLogisticSettings",
    "FamilySettings",
    "Gaussian",
    "GaussianSettings",
    "Likelihood",
    "LikelihoodSettings",
    "Support",
    "build_likelihood",
]

LikelihoodSettings = (
    BernoulliSettings
    | ContinuousBernoulliSettings
    | GaussianSettings
    | DiscretizedLogisticSettings
    | CategoricalSettings
)


def build_likelihood(
    settings: LikelihoodSettings, channels: int
) -> Bernoulli | ContinuousBernoulli | Gaussian | DiscretizedLogistic | Categorical:
    """The module that the settings describe, for images of so many channels."""
    match settings:
        case BernoulliSettings():
            return Bernoulli()
        case ContinuousBernoulliSettings():
            return ContinuousBernoulli()
        case GaussianSettings(scale=scale):
            return Gaussian(scale)
        case DiscretizedLogisticSettings(scale_per=scale_per):
            return DiscretizedLogistic(channels if scale_per == "channel" else None)
        case CategoricalSettings():
            return Categorical()
