"""From settings to what is minimized, to what validation judges by, and to words."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from training.objectives.autoencoder import Autoencoder
from training.objectives.choice import judged, minimized
from training.objectives.elbo import UNWEIGHTED, Elbo, FreeBits
from training.objectives.iwae import Iwae
from training.objectives.loss import Objective
from training.objectives.settings import ElboSettings, ObjectiveSettings
from training.objectives.total_correlation import BetaTC
from training.objectives.words import chooses, minimizes, paragraph

ADAPTER: TypeAdapter[ObjectiveSettings] = TypeAdapter(ObjectiveSettings)
WARMUP = {"kind": "warmup", "over_epochs": 2}
KINDS: list[tuple[dict[str, Any], Objective, Objective, str]] = [
    ({"kind": "elbo"}, UNWEIGHTED, UNWEIGHTED, "-ELBO"),
    ({"kind": "elbo", "beta": 4}, Elbo(4), UNWEIGHTED, "-ELBO"),
    ({"kind": "elbo", "beta": 4, "distortion_weight": 2, "free_bits": 0.1}, FreeBits(0.1, 4, 2), UNWEIGHTED, "-ELBO"),
    ({"kind": "elbo", "beta": 4, "schedule": WARMUP}, Elbo(1), UNWEIGHTED, "-ELBO"),
    ({"kind": "elbo", "free_bits": 0.1, "schedule": WARMUP}, FreeBits(0.1, 0.25), UNWEIGHTED, "-ELBO"),
    ({"kind": "elbo", "beta": 0, "distortion_weight": 3}, Elbo(0, 3), Elbo(0), "distortion"),
    ({"kind": "elbo", "beta": 3, "distortion_weight": 0}, Elbo(3, 0), Elbo(1, 0), "rate"),
    ({"kind": "iwae", "samples": 7, "gradient": "dreg"}, Iwae(7, "dreg"), Iwae(7), "-L_7"),
    ({"kind": "iwae", "samples": 7, "gradient_samples": 2}, Iwae(7, "standard", 2), Iwae(7), "-L_7"),
    ({"kind": "beta-tc", "beta": 6}, BetaTC(1, 6, 1, 500), UNWEIGHTED, "-ELBO"),
    ({"kind": "autoencoder"}, Autoencoder(), Autoencoder(), "distortion at the mean"),
]


@pytest.mark.parametrize(("settings", "expected", "judge", "name"), KINDS)
def test_what_is_minimized_and_what_judges(
    settings: dict[str, Any], expected: Objective, judge: Objective, name: str
) -> None:
    """At step 5 of 100, 10 an epoch: a quarter of a warm-up of two."""
    parsed = ADAPTER.validate_python(settings)
    assert minimized(parsed, 5, total_steps=100, steps_per_epoch=10, images=500) == expected
    assert judged(parsed) == judge
    assert chooses(parsed) == name


def test_what_judges_does_not_follow_the_schedule() -> None:
    """Or the first steps, whose rate is free, would be the best of the run."""
    parsed = ElboSettings.model_validate({"kind": "elbo", "beta": 4, "schedule": WARMUP})
    first, last = (minimized(parsed, step, total_steps=100, steps_per_epoch=10, images=1) for step in (0, 99))
    assert (first, last) == (Elbo(0), Elbo(4))
    assert judged(parsed) == UNWEIGHTED


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "elbo"}, "-ELBO = distortion + rate, with one latent an image"),
        ({"kind": "elbo", "beta": 0}, "distortion, with one latent an image"),
        (
            {"kind": "elbo", "schedule": {"kind": "cyclical", "cycles": 4}},
            "-ELBO = distortion + rate, with one latent an image; the weight of the rate rises to that from 0 in the "
            "first 50% of each of 4 cycles (Fu et al., 2019)",
        ),
        ({"kind": "elbo", "free_bits": 0.1}, "-ELBO with 0.1 free nats a dimension, with one latent an image"),
        (
            {"kind": "iwae", "samples": 5},
            "-L_5, the importance-weighted bound (Burda et al., 2015) of 5 latents an image, with its whole gradient",
        ),
        (
            {"kind": "iwae", "samples": 50, "gradient_samples": 8},
            "-L_50, the importance-weighted bound (Burda et al., 2015) of 50 latents an image (gradients "
            "through 8, resampled by weight), with its whole gradient",
        ),
        (
            {"kind": "beta-tc", "beta": 6},
            "distortion + 1 information + 6 total correlation + 1 KL (Chen et al., 2018), with one latent an image",
        ),
        (
            {"kind": "autoencoder"},
            "distortion at the mean of q(z|x), as a plain autoencoder: no noise, no rate, no bound on the likelihood",
        ),
    ],
)
def test_words(settings: dict[str, Any], words: str) -> None:
    parsed = ADAPTER.validate_python(settings)
    assert minimizes(parsed) == words
    assert paragraph(parsed).startswith(f"Minimizes {words}: distortion is -log p(x|z) summed")


def test_the_paragraph_of_the_default() -> None:
    assert paragraph(ElboSettings(kind="elbo")) == (
        "Minimizes -ELBO = distortion + rate, with one latent an image: distortion is -log p(x|z) summed over pixels "
        "and channels, rate is KL(q(z|x) || p(z)) over all latent dimensions in closed form, both in nats and "
        "averaged over images only; neither is weighted."
    )
