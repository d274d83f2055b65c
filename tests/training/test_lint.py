"""What is said before training: what is minimized, what the noise makes of beta, and what may not be meant."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from model.vae import VAE
from tests.support.digits import digits_config, run_digits
from training import configs
from training.config import RunConfig, load
from training.data.dataset import Dataset
from training.data.seen import SeenImages
from training.lint import lint, lint_data
from training.objectives.elbo import Elbo

PIXELS, DIMENSIONS = 64, 3


def config_of(objective: dict[str, Any] | None = None, **changes: object) -> RunConfig:
    return digits_config(**changes) if objective is None else digits_config(objective=objective, **changes)


def gaussian(scale: float | None, objective: dict[str, Any] | None = None) -> RunConfig:
    likelihood = {"family": "gaussian"} if scale is None else {"family": "gaussian", "scale": scale}
    return config_of(objective, model={"likelihood": likelihood}, data={"binarization": "none"})


def warnings(config: RunConfig) -> list[str]:
    return [line.removeprefix("warning: ") for line in lint(config) if line.startswith("warning: ")]


def elbo(**settings: Any) -> dict[str, Any]:
    return {"kind": "elbo", **settings}


class TestSaid:
    def test_of_the_default(self) -> None:
        assert lint(config_of()) == [
            "objective: minimizes -ELBO = distortion + rate, with one latent an image",
            "validation: -ELBO at beta = 1 is reported, and the weights where it is lowest are kept",
        ]

    def test_what_chooses_the_weights_where_it_is_not_the_elbo(self) -> None:
        iwae = lint(config_of({"kind": "iwae", "samples": 5}))[1]
        assert iwae.startswith(
            "validation: the weights where -L_5 is lowest are kept; -ELBO at beta = 1 is reported beside"
        )
        plain = lint(config_of({"kind": "autoencoder"}))[1]
        assert plain == "validation: the weights where distortion at the mean is lowest are kept"

    @pytest.mark.parametrize("name", configs.names())
    def test_ready_made_configurations_are_warned_of_nothing(self, name: str) -> None:
        assert warnings(load(configs.find(name))) == []

    def test_before_training(self, tmp_path: Path) -> None:
        config = config_of(elbo(beta=PIXELS), optimization={"epochs": 1})
        _, _, printed = run_digits(tmp_path / "run", config)
        for line in lint(config):
            assert f"{line}\n" in printed


class TestNoise:
    @pytest.mark.parametrize("scale", [0.05, 0.5, 2.0])
    @pytest.mark.parametrize("beta", [1.0, 4.0])
    def test_a_fixed_scale_is_a_beta_beside_squared_errors(self, scale: float, beta: float) -> None:
        (line,) = [line for line in lint(gaussian(scale, elbo(beta=beta))) if line.startswith("noise: ")]
        unit, squared = re.findall(r"([\d.e-]+) beside", line)
        assert float(unit) == pytest.approx(scale**2 * beta, rel=1e-3)
        assert float(squared) == pytest.approx(2 * scale**2 * beta, rel=1e-3)
        same = re.search(r"minimize -ELBO with scale = ([\d.]+)", line)
        assert (same is None) == (beta == 1)
        assert same is None or float(same[1]) == pytest.approx(scale * math.sqrt(beta), rel=1e-3)

    def test_gradients_of_the_equivalent_models_are_parallel(self) -> None:
        """The equivalences that the line tells: beta with one scale, none with another, and a sum of squares."""
        images = torch.rand(10, 1, 8, 8, generator=Generator().manual_seed(0))
        scale, beta = 0.2, 4.0

        def gradient(sigma: float, weight: float, squares: float | None = None) -> torch.Tensor:
            torch.manual_seed(0)  # the layers draw their weights from the global generator
            config = gaussian(sigma)
            model = VAE(config.model, config.image.shape)
            noise = torch.randn(10, 3, generator=Generator().manual_seed(1))
            if squares is None:
                loss = Elbo(weight).loss(model, images, Generator().manual_seed(1), autocast=False).objective
            else:
                reconstruction = model.mean_image(model.posterior(images).draw(noise).latent)
                error = (images - reconstruction).square().sum((1, 2, 3)).mean()
                loss = error + squares * model.elbo(images, noise).rate.mean()
            return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])

        weighted = gradient(scale, beta)
        for other in (
            gradient(scale * math.sqrt(beta), 1.0) * beta,
            gradient(scale, 1.0, squares=2 * scale**2 * beta) / (2 * scale**2),
        ):
            torch.testing.assert_close(weighted, other, rtol=1e-3, atol=1e-2)

    def test_a_learned_scale_and_a_bernoulli_say_what_a_nat_costs(self) -> None:
        (line,) = [line for line in lint(gaussian(None, elbo(beta=2.0))) if line.startswith("noise: ")]
        assert "the scale is learned" in line
        assert "one nat of rate must save 2 nats" in line
        (line,) = [line for line in lint(config_of(elbo(beta=4.0))) if line.startswith("noise: ")]
        assert line == (
            "noise: one nat of rate must save 4 nats of distortion, as if each pixel counted 0.25 times: no bernoulli "
            "likelihood has that for its -ELBO"
        )

    def test_parts_of_the_rate_that_weigh_the_same_are_the_rate(self) -> None:
        same = {"kind": "beta-tc", "alpha": 2.0, "beta": 2.0, "gamma": 2.0}
        for scale in (None, 0.1):
            lines = [
                [line for line in lint(gaussian(scale, objective)) if line.startswith("noise: ")]
                for objective in (same, elbo(beta=2.0))
            ]
            assert lines[0] == lines[1] != []

    def test_parts_of_the_rate_have_a_weight_each(self) -> None:
        parts = {"kind": "beta-tc", "alpha": 1.0, "beta": 6.0, "gamma": 0.5}
        (line,) = [line for line in lint(gaussian(0.1, parts)) if line.startswith("noise: ")]
        assert line == (
            "noise: a fixed scale of 0.1 makes the weights alpha 0.01, beta 0.06, gamma 0.005 beside unit variance, "
            "and alpha 0.02, beta 0.12, gamma 0.01 beside a plain sum of squared errors"
        )
        (line,) = [line for line in lint(gaussian(None, parts)) if line.startswith("noise: ")]
        assert "the scale is learned" in line
        assert "alpha 1, beta 6, gamma 0.5) of a calibrated distortion" in line
        (line,) = [line for line in lint(config_of(parts)) if line.startswith("noise: ")]
        assert line.endswith("no bernoulli likelihood has that for its -ELBO")


class TestAverages:
    @pytest.mark.parametrize(
        ("weight", "share"),
        [
            (PIXELS, "C*H*W"),
            (PIXELS / DIMENSIONS, "C*H*W / D"),
            (1 / PIXELS, "1 / (C*H*W)"),
            (DIMENSIONS / PIXELS, "D / (C*H*W)"),
        ],
    )
    def test_weights_that_only_averages_would_explain_are_named(self, weight: float, share: str) -> None:
        for near in (weight, 1.009 * weight, 0.991 * weight):
            (found,) = warnings(config_of(elbo(beta=near)))
            assert f" is {share}: this is " in found
        for far in (1.02 * weight, 0.98 * weight):
            assert warnings(config_of(elbo(beta=far))) == []
        (found,) = warnings(config_of(elbo(beta=1.0, distortion_weight=1 / weight)))
        assert f" is {share}: " in found

    def test_so_are_scales(self) -> None:
        """2 scale^2 = 1 / 64: a mean of squared errors, and a rate that is no more than it."""
        (found,) = warnings(gaussian(math.sqrt(1 / 128)))
        assert found.startswith("2 scale^2 beta / distortion_weight = 0.0156")
        assert " is 1 / (C*H*W): " in found
        assert warnings(gaussian(0.1)) == []

    def test_so_are_weights_of_parts_of_the_rate(self) -> None:
        (found,) = warnings(config_of({"kind": "beta-tc", "alpha": 1.0, "beta": PIXELS, "gamma": 1.0}))
        assert found.startswith("beta = 64 is C*H*W: ")

    def test_as_many_dimensions_as_pixels_are_no_weight(self) -> None:
        assert warnings(config_of(model={"latent_dim": PIXELS})) == []


class TestFreeBits:
    def test_above_what_pixels_can_hold(self) -> None:
        most = PIXELS * math.log(2) / DIMENSIONS
        (found,) = warnings(config_of(elbo(free_bits=1.01 * most)))
        assert "is above any rate that pays" in found
        assert warnings(config_of(elbo(free_bits=0.99 * most))) == []
        grey = gaussian(None, elbo(free_bits=0.99 * PIXELS * math.log(256) / DIMENSIONS))
        assert warnings(grey) == []

    def test_above_what_the_mean_image_costs(self) -> None:
        """Data that are nearly always black have little to tell."""
        images = np.zeros((100, 8, 8, 1), np.uint8)
        images[:10] = 255
        data, most = dataset(images), 64 * (-0.1 * math.log(0.1) - 0.9 * math.log(0.9)) / DIMENSIONS
        (found,) = lint_data(config_of(elbo(free_bits=1.01 * most)), data, data, SeenImages())
        assert "that the mean image costs without latents" in found
        assert lint_data(config_of(elbo(free_bits=0.99 * most)), data, data, SeenImages()) == []
        above = config_of(elbo(free_bits=PIXELS * math.log(2)))
        assert lint_data(above, data, data, SeenImages()) == []  # the configuration alone has told


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        (elbo(beta=0.0), {}, r"beta = 0: only the distortion"),
        (elbo(distortion_weight=0.0), {}, r"distortion_weight = 0: the decoder is not trained"),
        (elbo(schedule={"kind": "warmup", "over_epochs": 3}), {}, r"takes 3 epochs and the run 3"),
        (elbo(schedule={"kind": "warmup", "over_epochs": 2.9}), {}, None),
        (
            elbo(schedule={"kind": "warmup", "over_epochs": 2.5}),
            {"optimization": {"early_stopping": 2}},
            r"early stopping waits for 2 epochs, the warm-up of beta takes 2\.5",
        ),
        (elbo(schedule={"kind": "warmup", "over_epochs": 2}), {"optimization": {"early_stopping": 2}}, None),
        (elbo(schedule={"kind": "cyclical", "cycles": 4}), {}, r"4 cycles of beta in 3 epochs"),
        (
            elbo(schedule={"kind": "cyclical", "cycles": 3}),
            {"optimization": {"early_stopping": 2}},
            "early stopping may end the run within a cycle",
        ),
        ({"kind": "iwae", "samples": 5, "gradient": "stl"}, {}, "'stl' is biased for 5 samples"),
        ({"kind": "iwae", "samples": 1, "gradient": "stl"}, {}, None),
        ({"kind": "iwae", "samples": 5, "gradient": "dreg"}, {"optimization": {"early_stopping": 2}}, None),
        ({"kind": "iwae", "samples": 9, "gradient_samples": 5}, {}, None),
        ({"kind": "iwae", "samples": 9, "gradient_samples": 6}, {}, "gradient_samples = 6 saves nothing"),
        ({"kind": "beta-tc", "beta": 6.0}, {}, None),
        ({"kind": "autoencoder"}, {}, "an autoencoder has no likelihood and no prior"),
        (elbo(), {"data": {"binarization": "none"}}, "grey or colour values under a Bernoulli"),
    ],
)
def test_warnings(objective: dict[str, Any], changes: dict[str, Any], words: str | None) -> None:
    found = warnings(config_of(objective, **changes))
    if words is None:
        assert found == []
    else:
        (one,) = found
        assert re.search(words, one)


def dataset(images: np.ndarray, split: str = "train") -> Dataset:
    return Dataset.of(images, name="noise", split=split)


class TestImages:
    NOISE = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)

    def test_that_test_and_validation_share_are_counted(self) -> None:
        tests = SeenImages()
        tests.add(self.NOISE[:12])
        config = config_of()
        apart = dataset(self.NOISE[12:30]), dataset(self.NOISE[30:], "validation")
        assert lint_data(config, *apart, tests) == []
        (found,) = lint_data(config, apart[0], dataset(self.NOISE[11:20], "validation"), tests)
        assert found.startswith("warning: 1 of 9 validation images is among the test images, pixel for pixel")
        (found,) = lint_data(config, dataset(self.NOISE[:20]), apart[1], tests)
        assert found.startswith("warning: 12 of 20 training images are among the test images, pixel for pixel")

    def test_test_images_that_validate_are_found_before_training(self, tmp_path: Path) -> None:
        """One array under two names."""
        np.savez(
            tmp_path / "a.npz", allow_pickle=False, train=self.NOISE[:30], valid=self.NOISE[30:], test=self.NOISE[30:]
        )
        document = config_of(optimization={"epochs": 1, "batch_size": 10}).model_dump(mode="json")
        document["data"] = {"source": "arrays", "path": str(tmp_path / "a.npz"), "binarization": "dynamic"}
        _, _, printed = run_digits(tmp_path / "run", RunConfig.model_validate(document))
        assert "warning: 20 of 20 validation images are among the test images" in printed
        assert "training images are among" not in printed

    def test_binary_pixels_that_are_said_to_be_grey(self) -> None:
        grey = config_of(data={"binarization": "none"})
        binary = dataset(255 * (self.NOISE > 127).astype(np.uint8))
        (found,) = lint_data(grey, binary, binary, SeenImages())
        assert "all pixels are 0 or 255: data.binarization = 'static' says so" in found
        assert lint_data(grey, dataset(self.NOISE), dataset(self.NOISE), SeenImages()) == []
        assert lint_data(config_of(), binary, binary, SeenImages()) == []
