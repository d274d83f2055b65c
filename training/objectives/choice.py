"""From the configuration to what is minimized at a step, and to what validation judges by."""

from training.objectives.autoencoder import Autoencoder
from training.objectives.elbo import UNWEIGHTED, Elbo, FreeBits
from training.objectives.iwae import Iwae
from training.objectives.loss import Objective
from training.objectives.schedule import height
from training.objectives.settings import (
    AutoencoderSettings,
    BetaTCSettings,
    ElboSettings,
    IwaeSettings,
    ObjectiveSettings,
)
from training.objectives.total_correlation import BetaTC


def minimized(
    settings: ObjectiveSettings, step: int, *, total_steps: int, steps_per_epoch: int, images: int
) -> Objective:
    """What update ``step`` (from 0) of a run minimizes.

    Args:
        images: that there are to train on.
    """
    match settings:
        case ElboSettings():
            rise = height(settings.schedule, step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
            beta = settings.beta * rise
            if settings.free_bits > 0:
                return FreeBits(settings.free_bits, beta, settings.distortion_weight)
            return Elbo(beta, settings.distortion_weight)
        case IwaeSettings(samples=samples, gradient=gradient, gradient_samples=some):
            return Iwae(samples, gradient, some)
        case BetaTCSettings(alpha=alpha, beta=beta, gamma=gamma):
            return BetaTC(alpha, beta, gamma, images)
        case AutoencoderSettings():
            return Autoencoder()


def judged(settings: ObjectiveSettings) -> Objective:
    """What validation judges by: the best weights are those where it is lowest, and early stopping waits for it.

    It is -ELBO at beta = 1 whatever beta is: a bound on the likelihood compares the steps of a schedule, and runs of
    different betas, and what a schedule minimizes at its start is no better for being lower. Where the ELBO is not what
    is wanted, it is not what judges. An importance-weighted bound may rise while the ELBO falls, since its q is trained
    to propose and not to resemble (Rainforth et al., 2018); what has no weight chooses nothing; an autoencoder has no
    bound.
    """
    match settings:
        case ElboSettings(beta=0):
            return Elbo(beta=0)
        case ElboSettings(distortion_weight=0):
            return Elbo(distortion_weight=0)
        case ElboSettings() | BetaTCSettings():
            return UNWEIGHTED
        case IwaeSettings(samples=samples):
            return Iwae(samples)
        case AutoencoderSettings():
            return Autoencoder()
