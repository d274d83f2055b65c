"""Runs are compared on the same pixels or not at all, and a plain autoencoder has no numbers that it has not."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from model.vae import VAE
from tests.support.runs import GAUSSIAN, write_run
from training.comparison import (
    DASH,
    LATENTS_PER_IMAGE,
    Comparison,
    RunNumbers,
    check_comparable,
    compared,
    comparison_table,
    names_of,
    numbers_of,
    rows_of,
    write_comparison,
)
from training.config import check
from training.data.dataset import Dataset
from training.errors import ConfigError, DataError, NonFiniteMetric
from training.images import training_images
from training.run import RunFolder
from training.trained import load_best

PLAIN = {"objective": {"kind": "autoencoder"}}


def changed(run: RunFolder, **changes: Any) -> RunFolder:
    """The same weights, as of another configuration."""
    config = check(run.config().model_dump() | changes, "test")
    run.config_file.write_text(config.model_dump_json())
    return run


def validation_of(run: RunFolder) -> Dataset:
    return training_images(run, data_dir=None, console=Console(file=io.StringIO()))[1]


def numbers(run: RunFolder, *, seed: int = 0, name: str = "run") -> RunNumbers:
    model, step = load_best(run)
    images = validation_of(run)
    return numbers_of(name, run.config(), model.vae, step, images, seed=seed, advance=lambda done: None)


@torch.no_grad()
def by_hand(run: RunFolder) -> tuple[VAE, Tensor]:
    """The model, and its validation images as they are."""
    images = torch.from_numpy(validation_of(run).images).permute(0, 3, 1, 2) / 255
    return load_best(run)[0].vae, images


class TestNumbers:
    def test_are_those_of_the_elbo(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", likelihood=GAUSSIAN, images=80)
        found = numbers(run)
        model, images = by_hand(run)
        assert found.rate is not None
        assert found.negative_elbo is not None
        posterior = model.posterior(images)
        rate = posterior.rate()
        assert rate is not None
        assert found.rate.value == pytest.approx(rate.double().mean().item(), rel=1e-6)
        draws = torch.stack([model.elbo(images, torch.randn(len(images), 3)).distortion for _ in range(2000)])
        error = draws.std(0).mean() / math.sqrt(LATENTS_PER_IMAGE * len(images))
        assert abs(found.distortion.value - draws.mean().item()) < 4 * error.item()
        assert found.negative_elbo.value == pytest.approx(found.distortion.value + found.rate.value, rel=1e-9)
        assert found.distortion.low < found.distortion.value < found.distortion.high
        squared = (model.mean_image(posterior.mean) - images).square().mean()
        assert found.reconstruction_error.value == pytest.approx(squared.item(), rel=1e-5)
        assert found.active_units == int((posterior.mean.var(0) > 0.01).sum()) > 0

    def test_an_autoencoder_has_a_distortion_at_its_latent_and_no_rate(self, tmp_path: Path) -> None:
        run = changed(write_run(tmp_path / "run", likelihood=GAUSSIAN), **PLAIN)
        found = numbers(run)
        assert (found.rate, found.negative_elbo, found.active_units) == (None, None, None)
        assert [name for name, value in rows_of(found).items() if value == DASH] == ["rate", "−ELBO", "active units"]
        model, images = by_hand(run)
        at_the_mean = -model.likelihood.log_prob(model.decode(model.posterior(images).center()), images)
        assert found.distortion.value == pytest.approx(at_the_mean.mean().item(), rel=1e-5)
        # Its posteriors have a variance, which was not trained: with noise the distortion would be another.
        assert found.distortion.value != pytest.approx(
            numbers(changed(run, objective={"kind": "elbo"})).distortion.value
        )

    @pytest.mark.parametrize("plain", [False, True])
    def test_pixels_and_noise_are_those_of_the_seed(self, plain: bool, tmp_path: Path) -> None:
        """The same weights give the same numbers, whichever run they are called; other pixels, others."""
        run = write_run(tmp_path / "run", binarization="dynamic")
        if plain:
            changed(run, **PLAIN)
        assert numbers(run) == numbers(run)
        assert numbers(run).distortion != numbers(run, seed=1).distortion

    def test_what_is_not_finite_is_refused_and_named(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", shake=1e30)
        with pytest.raises(NonFiniteMetric, match="spoiled: its distortions"):
            numbers(run, name="spoiled")


class TestComparable:
    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFolder:
        return write_run(tmp_path / "run")

    def test_runs_of_the_same_images_are(self, run: RunFolder, tmp_path: Path) -> None:
        other = write_run(tmp_path / "other", latent_dim=5)
        check_comparable([run, other, changed(write_run(tmp_path / "plain"), **PLAIN)])

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda folder: write_run(folder, shape=(8, 12, 1)), "images are 8x8 with 1 channel and 8x12 with 1"),
            (lambda folder: write_run(folder, shape=(8, 8, 3)), "8x8 with 1 channel and 8x8 with 3 channels"),
            (lambda folder: write_run(folder, images=41), "were not trained and validated on the same images$"),
            (lambda folder: write_run(folder, seed=1), r"the same images \(their seeds.*are 0 and 1\)"),
            (lambda folder: write_run(folder, binarization="dynamic"), "binarizations are none and dynamic"),
            (lambda folder: write_run(folder, likelihood=GAUSSIAN), "binary under bernoulli and of interval under"),
        ],
    )
    def test_others_are_not(
        self, make: Callable[[Path], RunFolder], words: str, run: RunFolder, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=words) as refused:
            check_comparable([run, run_beside(run), make(tmp_path / "other")])
        assert str(refused.value).startswith(f"{run.folder} and {tmp_path / 'other'} cannot be compared: ")
        assert "\n" not in str(refused.value)

    def test_one_run_has_nothing_beside_it(self, run: RunFolder) -> None:
        with pytest.raises(ConfigError, match="two runs or more"):
            check_comparable([run])

    def test_a_run_is_not_compared_with_itself(self, run: RunFolder) -> None:
        again = RunFolder(run.folder / ".." / run.folder.name)
        with pytest.raises(ConfigError, match="named twice"):
            check_comparable([run, again])

    def test_a_folder_without_a_run_is_named(self, run: RunFolder, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nowhere: there is no run"):
            check_comparable([run, RunFolder(tmp_path / "nowhere")])


def run_beside(run: RunFolder) -> RunFolder:
    """Another run that may be compared with it."""
    return write_run(run.folder.parent / "beside")


def test_runs_are_called_by_their_folders_as_far_as_these_differ(tmp_path: Path) -> None:
    one, two, three = (RunFolder(tmp_path / name) for name in ("a/run", "b/run", "c/third"))
    assert names_of([one, three]) == ["run", "third"]
    assert names_of([one, two]) == [str(one.folder), str(two.folder)]


class TestTold:
    @pytest.fixture
    def comparison(self, tmp_path: Path) -> Comparison:
        run = write_run(tmp_path / "run")
        vae = numbers(run, name="vae")
        plain = numbers(changed(run, **PLAIN), name="plain")
        return compared(validation_of(run), run.config(), [vae, plain])

    def test_the_table_has_a_row_for_each_run_and_its_protocol(self, comparison: Comparison) -> None:
        printed = io.StringIO()
        Console(file=printed, width=200).print(comparison_table(comparison))
        shown = printed.getvalue()
        vae, plain = comparison.runs
        assert f"run, validation split, {comparison.protocol.images} images, binarization none" in shown
        assert f"{vae.distortion.value:.2f}" in shown
        assert f"{plain.reconstruction_error.value:.4f}" in shown
        (line,) = [line for line in shown.splitlines() if "plain" in line]
        assert line.count(DASH) == 3
        assert "distortion at the mean" in shown

    def test_what_is_written_is_what_was_measured(self, comparison: Comparison, tmp_path: Path) -> None:
        path = write_comparison(comparison, tmp_path)
        assert path == tmp_path / "comparison.json"
        assert Comparison.model_validate_json(path.read_bytes()) == comparison
        assert comparison.protocol.split == "validation"

    def test_a_folder_that_cannot_be_written_is_an_error_of_the_project(
        self, comparison: Comparison, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="cannot be written"):
            write_comparison(comparison, tmp_path / "nowhere")
