"""What holds for every family."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor

from model.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    LikelihoodSettings,
    build_likelihood,
)

FAMILIES: list[dict[str, object]] = [
    {"family": "bernoulli"},
    {"family": "continuous-bernoulli"},
    {"family": "gaussian"},
    {"family": "gaussian", "scale": 0.1},
    {"family": "discretized-logistic"},
    {"family": "discretized-logistic", "scale_per": "pixel"},
    {"family": "categorical"},
]
DISCRETE = [document for document in FAMILIES if document["family"] in ("discretized-logistic", "categorical")]
SIZE = (5, 7)


def settings_of(document: dict[str, object]) -> LikelihoodSettings:
    return TypeAdapter[LikelihoodSettings](LikelihoodSettings).validate_python(document)


def build(document: dict[str, object]) -> tuple[Likelihood, int]:
    """A likelihood of three channels, and how many a decoder gives."""
    settings = settings_of(document)
    return build_likelihood(settings, 3), settings.channels(3)


def every_level() -> Tensor:
    """256 images of one level each, float64 ``(256, 1, 3, 1, 1)``."""
    return (torch.arange(256, dtype=torch.float64) / 255).view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)


@pytest.mark.parametrize("document", FAMILIES, ids=lambda document: " ".join(map(str, document.values())))
class TestAny:
    def test_sums_over_pixels_and_never_averages(
        self, document: dict[str, object], images: Tensor, generator: Generator
    ) -> None:
        """Two copies of an image side by side are twice as improbable, in the exponent."""
        likelihood, channels = build(document)
        parameters = torch.randn(4, channels, *SIZE, generator=generator)
        once = likelihood.log_prob(parameters, images)
        for axis in (-2, -1):
            twice = likelihood.log_prob(torch.cat([parameters] * 2, axis), torch.cat([images] * 2, axis))
            torch.testing.assert_close(twice, 2 * once)

    def test_channels_are_independent(self, document: dict[str, object], images: Tensor, generator: Generator) -> None:
        """The sum over three channels, each on its own."""
        likelihood, channels = build(document)
        parameters = torch.randn(4, channels, *SIZE, generator=generator)
        single = build_likelihood(settings_of(document), 1)
        by_channel = torch.unflatten(parameters, 1, (-1, 3) if document.get("scale_per") == "pixel" else (3, -1))
        place = 2 if document.get("scale_per") == "pixel" else 1
        alone = [single.log_prob(by_channel.select(place, each), images[:, each : each + 1]) for each in range(3)]
        torch.testing.assert_close(torch.stack(alone).sum(0), likelihood.log_prob(parameters, images))

    def test_broadcasts_over_samples(self, document: dict[str, object], images: Tensor, generator: Generator) -> None:
        likelihood, channels = build(document)
        samples = torch.randn(6, 4, channels, *SIZE, generator=generator)
        densities = likelihood.log_prob(samples, images)
        assert densities.shape == (6, 4)
        torch.testing.assert_close(densities[2], likelihood.log_prob(samples[2], images))
        turned = likelihood.log_prob(samples[2], images.expand(5, *images.shape))
        torch.testing.assert_close(turned, densities[2].expand(5, 4))

    def test_means_are_images_between_black_and_white(self, document: dict[str, object], generator: Generator) -> None:
        likelihood, channels = build(document)
        parameters = torch.randn(4, channels, *SIZE, generator=generator)
        for scale in (1.0, 30.0, 1e4):
            mean = likelihood.mean(scale * parameters)
            assert mean.shape == (4, 3, *SIZE)
            assert mean.min() >= 0
            assert mean.max() <= 1

    @pytest.mark.parametrize("pixel", [0.0, 1 / 255, 0.4, 1.0])
    def test_gradients_are_finite_at_the_extremes(
        self, document: dict[str, object], pixel: float, generator: Generator
    ) -> None:
        likelihood, channels = build(document)
        signs = torch.randn(4, channels, *SIZE, generator=generator).sign()
        for size in (0.0, 1e-6, 1.0, 1e4):
            parameters = (size * signs).requires_grad_()
            log_prob = likelihood.log_prob(parameters, torch.full((4, 3, *SIZE), pixel))
            (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
            assert log_prob.isfinite().all()
            assert gradient.isfinite().all()

    def test_begins_near_the_mean_image(self, document: dict[str, object]) -> None:
        likelihood, channels = build(document)
        wanted = torch.linspace(0.15, 0.85, 105).view(3, *SIZE)
        parameters = likelihood.parameters_for(wanted)
        assert parameters.shape == (channels, *SIZE)
        # Of a discretized logistic it is the location that lies there, and tails are cut off.
        near = 0.03 if document["family"] == "discretized-logistic" else 2e-4
        torch.testing.assert_close(likelihood.mean(parameters), wanted, rtol=0, atol=near)
        assert likelihood.parameters_for(torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1)).isfinite().all()


@pytest.mark.parametrize("document", DISCRETE, ids=lambda document: " ".join(map(str, document.values())))
class TestDiscrete:
    @pytest.mark.parametrize("size", [0.0, 0.5, 3.0, 50.0])
    def test_probabilities_of_all_levels_sum_to_one(
        self, document: dict[str, object], size: float, generator: Generator
    ) -> None:
        likelihood = build_likelihood(settings_of(document), 1).double()
        channels = settings_of(document).channels(1)
        parameters = size * torch.randn(50, channels, 1, 1, generator=generator, dtype=torch.float64)
        total = likelihood.log_prob(parameters, every_level()[:, :, :1]).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("size", [0.0, 0.5, 3.0, 50.0])
    def test_mean_is_the_expectation_over_the_levels(
        self, document: dict[str, object], size: float, generator: Generator
    ) -> None:
        likelihood = build_likelihood(settings_of(document), 1).double()
        channels = settings_of(document).channels(1)
        parameters = size * torch.randn(50, channels, 1, 1, generator=generator, dtype=torch.float64)
        levels = every_level()[:, :, :1]
        expected = (levels.flatten(1) * likelihood.log_prob(parameters, levels).exp()).sum(0)
        torch.testing.assert_close(likelihood.mean(parameters).flatten(), expected, rtol=0, atol=1e-10)

    def test_is_of_the_level_and_of_nothing_between(
        self, document: dict[str, object], images: Tensor, generator: Generator
    ) -> None:
        likelihood, channels = build(document)
        parameters = torch.randn(4, channels, *SIZE, generator=generator)
        levels = (255 * images).round() / 255
        torch.testing.assert_close(likelihood.log_prob(parameters, images), likelihood.log_prob(parameters, levels))

    def test_no_probability_exceeds_one(self, document: dict[str, object], generator: Generator) -> None:
        likelihood, channels = build(document)
        parameters = 100 * torch.randn(20, channels, 1, 1, generator=generator)
        assert likelihood.log_prob(parameters, every_level().float()).max() <= 1e-5


class TestSettings:
    def test_build_what_they_say(self) -> None:
        logistic = [DiscretizedLogistic, DiscretizedLogistic]
        kinds = [Bernoulli, ContinuousBernoulli, Gaussian, Gaussian, *logistic, Categorical]
        for document, kind in zip(FAMILIES, kinds, strict=True):
            assert isinstance(build(document)[0], kind)
        learned, fixed = (build(document)[0] for document in FAMILIES[2:4])
        assert isinstance(learned, Gaussian)
        assert learned.learned
        assert isinstance(fixed, Gaussian)
        assert not fixed.learned

    def test_say_how_many_numbers_a_decoder_gives(self) -> None:
        assert [settings_of(document).channels(3) for document in FAMILIES] == [3, 3, 3, 3, 3, 6, 768]
        assert [settings_of(document).channels(1) for document in FAMILIES] == [1, 1, 1, 1, 1, 2, 256]

    def test_say_what_a_pixel_may_be(self) -> None:
        supports = ["binary", "interval", "interval", "interval", "levels", "levels", "levels"]
        assert [settings_of(document).support for document in FAMILIES] == supports

    @pytest.mark.parametrize(
        "document",
        [
            {"family": "poisson"},
            {"family": "bernoulli", "scale": 0.1},
            {"family": "continuous-bernoulli", "scale": 0.1},
            {"family": "gaussian", "sigma": 0.1},
            {"family": "gaussian", "scale": 0.0},
            {"family": "gaussian", "scale": float("nan")},
            {"family": "gaussian", "scale_per": "pixel"},
            {"family": "discretized-logistic", "scale": 0.1},
            {"family": "discretized-logistic", "scale_per": "image"},
            {"family": "categorical", "levels": 16},
            {},
        ],
    )
    def test_refuse_what_they_do_not_know(self, document: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            settings_of(document)
