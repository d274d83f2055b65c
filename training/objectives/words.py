"""An objective as a sentence: what is minimized, and what chooses the weights that are kept."""

from training.objectives.choice import judged, minimized
from training.objectives.settings import (
    AutoencoderSettings,
    BetaTCSettings,
    Constant,
    Cyclical,
    ElboSettings,
    Gradient,
    IwaeSettings,
    ObjectiveSettings,
    Schedule,
    Warmup,
)
from training.words import count

_GRADIENTS: dict[Gradient, str] = {
    "standard": "with its whole gradient",
    "stl": "with the encoder's gradient without the score of q (Roeder et al., 2017)",
    "dreg": "with the encoder's gradient doubly reparameterized (Tucker et al., 2019)",
}


NO_BUNDLE = "a bundle says with q(z|x) what it knows of a latent, and an autoencoder has none: there is no bundle of it"


def minimizes(settings: ObjectiveSettings) -> str:
    """What is minimized, to stand after "minimizes".

    >>> minimizes(ElboSettings(kind="elbo"))
    '-ELBO = distortion + rate, with one latent an image'
    >>> minimizes(ElboSettings(kind="elbo", beta=4, schedule=Warmup(kind="warmup", over_epochs=10)))
    'distortion + 4 rate, with one latent an image; the weight of the rate rises to that from 0 over 10 epochs'
    >>> minimizes(IwaeSettings(kind="iwae", samples=50, gradient="dreg")).partition(",")[0]
    '-L_50'
    """
    match settings:
        case ElboSettings():
            name = name_of(settings)
            name = f"{name} = distortion + rate" if name == "-ELBO" else name
            return f"{name}, with one latent an image{_schedule(settings.schedule)}"
        case IwaeSettings(samples=samples, gradient=gradient, gradient_samples=some):
            bound = f"{name_of(settings)}, the importance-weighted bound (Burda et al., 2015)"
            through = "" if some is None else f" (gradients through {some}, resampled by weight)"
            return f"{bound} of {count(samples, 'latent')} an image{through}, {_GRADIENTS[gradient]}"
        case BetaTCSettings():
            return f"{name_of(settings)} (Chen et al., 2018), with one latent an image"
        case AutoencoderSettings():
            return (
                f"{name_of(settings)} of q(z|x), as a plain autoencoder: no noise, no rate, no bound on the likelihood"
            )


def paragraph(settings: ObjectiveSettings, *, closed_rate: bool = True) -> str:
    """The same for a model card, with what its terms are; ``closed_rate`` says that the rate has a closed form.

    >>> print(paragraph(AutoencoderSettings(kind="autoencoder")).partition(": distortion ")[2])
    is -log p(x|z) summed over pixels and channels, in nats and averaged over images only.
    """
    distortion = "distortion is -log p(x|z) summed over pixels and channels"
    rate = "KL(q(z|x) || p(z))"
    units = "in nats and averaged over images only"
    match settings:
        case ElboSettings():
            tail = "; neither is weighted" if settings == ElboSettings(kind="elbo") else ""
            how = "over all latent dimensions in closed form" if closed_rate else "estimated from the same latent"
            terms = f"{distortion}, rate is {rate} {how}, both {units}{tail}"
        case IwaeSettings():
            terms = f"{distortion}, rate is {rate} estimated from the same latents, both {units}"
        case BetaTCSettings():
            terms = (
                f"{distortion}; the others are parts of the rate {rate}, estimated by minibatch stratified sampling; "
                f"all {units}"
            )
        case AutoencoderSettings():
            terms = f"{distortion}, {units}"
    return f"Minimizes {minimizes(settings)}: {terms}."


def chooses(settings: ObjectiveSettings) -> str:
    """Whose lowest value on validation images chooses the weights: it stands before a number.

    >>> chooses(ElboSettings(kind="elbo", beta=4)), chooses(ElboSettings(kind="elbo", beta=0))
    ('-ELBO', 'distortion')
    """
    return judged(settings).name


def name_of(settings: ObjectiveSettings) -> str:
    """What is minimized where its schedule ends, in the shortest words.

    >>> name_of(ElboSettings(kind="elbo", beta=4, schedule=Warmup(kind="warmup", over_epochs=10)))
    'distortion + 4 rate'
    >>> name_of(AutoencoderSettings(kind="autoencoder"))
    'distortion at the mean'
    """
    match settings:
        case ElboSettings():
            settings = settings.model_copy(update={"schedule": Constant(kind="constant")})
    return minimized(settings, 0, total_steps=1, steps_per_epoch=1, images=1).name


def _schedule(schedule: Schedule) -> str:
    match schedule:
        case Constant():
            return ""
        case Warmup(over_epochs=epochs):
            unit = "epoch" if epochs == 1 else "epochs"
            return f"; the weight of the rate rises to that from 0 over {epochs:g} {unit}"
        case Cyclical(cycles=cycles, rising=rising):
            return (
                f"; the weight of the rate rises to that from 0 in the first {rising:.0%} of each of "
                f"{count(cycles, 'cycle')} (Fu et al., 2019)"
            )
