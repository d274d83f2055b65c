"""Metrics are what they are called, of the images they claim, with the protocol they were measured under."""

import dataclasses
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Generator, Tensor, nn

from model.bundle.measurements import Metrics
from model.vae import VAE
from tests.support.digits import digits_config, restored, run_digits
from training import evaluate as module
from training.ais import AnnealingSettings
from training.checkpoint import save_checkpoint
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.load import load_test
from training.errors import CheckpointError, ConfigError, DataError, NonFiniteMetric
from training.estimators import mean_over_images
from training.evaluate import Wishes, evaluate_run
from training.measure import measure
from training.measured import require_finite
from training.memory import images_at_a_time
from training.run import RunFolder
from training.summary import summary

CPU = torch.device("cpu")


def evaluated(run: RunFolder, **options: Any) -> tuple[Metrics, str]:
    """The metrics, and what was printed."""
    printed = io.StringIO()
    metrics = evaluate_run(run, data_dir=None, console=Console(file=printed, width=120), **options)
    assert isinstance(metrics, Metrics)
    return metrics, printed.getvalue()


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    """What evaluation reads of a run, in another folder."""
    for file in (run.config_file, run.provenance_file, run.best):
        (folder / file.name).write_bytes(file.read_bytes())
    return RunFolder(folder)


@pytest.fixture(scope="module")
def evaluation(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Metrics, str]:
    run = copy_of(finished, tmp_path_factory.mktemp("evaluated"))
    before = torch.get_num_threads()
    metrics, printed = evaluated(run)
    torch.set_num_threads(before)
    return run, metrics, printed


def with_step(metrics: Metrics, step: int | None) -> str:
    """metrics.json of the weights of another step."""
    protocol = metrics.protocol.model_copy(update={"step": step})
    return metrics.model_copy(update={"protocol": protocol}).model_dump_json()


class TestTrainedRun:
    def test_the_file_is_what_was_returned(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        run, metrics, _ = evaluation
        assert Metrics.model_validate_json(run.metrics_file.read_bytes()) == metrics

    def test_the_parts_add_up(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        _, metrics, _ = evaluation
        assert metrics.negative_elbo.value == pytest.approx(metrics.rate.value + metrics.distortion.value)
        assert sum(metrics.kl_per_dimension) == pytest.approx(metrics.rate.value, rel=1e-5)
        assert metrics.negative_log_likelihood is not None
        assert metrics.bits_per_dim is not None
        bits = metrics.negative_log_likelihood.value / math.log(2) / 64
        assert metrics.bits_per_dim.value == pytest.approx(bits)
        assert metrics.effective_sample_size is not None
        assert 1 <= metrics.effective_sample_size.minimum <= metrics.effective_sample_size.mean <= 20

    def test_the_curve_of_bounds_goes_from_the_elbo_to_the_last(
        self, evaluation: tuple[RunFolder, Metrics, str]
    ) -> None:
        _, metrics, _ = evaluation
        assert [bound.importance_samples for bound in metrics.bounds] == [1, 2, 5, 10, 20]
        values = [bound.negative.value for bound in metrics.bounds]
        assert values == sorted(values, reverse=True)
        assert metrics.bounds[-1].negative == metrics.negative_log_likelihood
        assert values[0] == pytest.approx(metrics.negative_elbo.value, abs=0.5)
        assert all(bound.negative.low < bound.negative.value < bound.negative.high for bound in metrics.bounds)

    def test_the_curve_is_printed_with_its_intervals(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path
    ) -> None:
        run, metrics, printed = evaluation
        curve = printed.partition("The bound L_k as k grows")[2]
        assert "the same 20 importance samples of each" in " ".join(curve.split())  # of a title that was broken to fit
        rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in curve.splitlines() if "-L_" in line]
        assert rows == [
            [f"-L_{at}", f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}", "nats per image"]
            for at, found in ((bound.importance_samples, bound.negative) for bound in metrics.bounds)
        ]
        _, printed = evaluated(copy_of(run, tmp_path), importance_samples=1)
        assert "as k grows" not in printed  # one point is no curve

    def test_few_effective_samples_are_counted_and_told(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path
    ) -> None:
        run, metrics, printed = evaluation
        assert metrics.effective_sample_size is not None
        assert metrics.effective_sample_size.few is not None
        assert metrics.effective_sample_size.few <= 0.05
        assert "effective sample size is below" not in printed
        # Of five no ten can be effective.
        metrics, printed = evaluated(copy_of(run, tmp_path), importance_samples=5, images=7)
        assert metrics.effective_sample_size is not None
        assert metrics.effective_sample_size.few == 1
        assert "The effective sample size is below 10 for 100% of the images: there a few latents make L_5" in printed

    def test_the_bound_of_many_samples_is_tighter(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        _, metrics, _ = evaluation
        assert metrics.negative_log_likelihood is not None
        assert metrics.negative_log_likelihood.value < metrics.negative_elbo.value

    def test_intervals_surround_their_values(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        _, metrics, _ = evaluation
        for estimate in (metrics.rate, metrics.distortion, metrics.negative_elbo, metrics.reconstruction_error):
            assert estimate.low < estimate.value < estimate.high

    def test_the_protocol_says_under_what_conditions(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        _, metrics, _ = evaluation
        protocol = metrics.protocol
        assert (protocol.split, protocol.images, protocol.importance_samples) == ("test", 100, 20)
        assert (protocol.binarization, protocol.seed) == ("dynamic", 3)
        assert protocol.dataset == "digits (drawn at random from 719)"
        assert protocol.libraries["torch"] == torch.__version__
        assert protocol.step == restored(evaluation[0].best).progress.step > 0

    def test_the_protocol_has_the_commit_that_measured(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.measured.git_commit", lambda: "f" * 40)
        metrics, _ = evaluated(copy_of(evaluation[0], tmp_path), importance_samples=1)
        assert metrics.protocol.git_commit == "f" * 40

    def test_the_table_has_every_number(self, evaluation: tuple[RunFolder, Metrics, str]) -> None:
        _, metrics, printed = evaluation
        assert metrics.negative_log_likelihood is not None
        for value in (metrics.rate, metrics.distortion, metrics.negative_elbo, metrics.negative_log_likelihood):
            assert f"{value.value:.2f}" in printed
            assert f"{value.low:.2f} .. {value.high:.2f}" in printed
        assert "-L_20" in printed
        assert "squared, per grey pixel" in printed
        assert "digits (drawn at random from 719), test split, 100 images" in printed

    def test_measuring_again_gives_the_same(self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path) -> None:
        run, metrics, _ = evaluation
        assert evaluated(copy_of(run, tmp_path))[0] == metrics

    def test_wishes_replace_the_configuration_and_are_recorded(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path
    ) -> None:
        run, _, _ = evaluation
        metrics, printed = evaluated(copy_of(run, tmp_path), importance_samples=3, images=7)
        assert (metrics.protocol.importance_samples, metrics.protocol.images) == (3, 7)
        assert "-L_3" in printed
        with pytest.raises(ConfigError, match=r"evaluation\.importance_samples"):
            evaluated(run, importance_samples=5001)

    @pytest.mark.parametrize(
        "less", [{"images": 7}, {"importance_samples": 3}, {"images": 200, "importance_samples": 3}]
    )
    def test_a_quick_look_does_not_cost_the_measurement(
        self, less: dict[str, int], evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path
    ) -> None:
        run = copy_of(evaluation[0], tmp_path)
        before = evaluation[0].metrics_file.read_bytes()
        run.metrics_file.write_bytes(before)
        metrics, printed = evaluated(run, **less)
        assert metrics.protocol.images == less.get("images", 100)
        assert f"Not written: {run.metrics_file} keeps what was measured on 100 images with 20 importance" in printed
        assert run.metrics_file.read_bytes() == before

    def test_more_of_it_or_of_other_weights_is_written(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path
    ) -> None:
        run, metrics, _ = evaluation
        run = copy_of(run, tmp_path)
        run.metrics_file.write_text(metrics.model_dump_json(), encoding="utf-8")
        more, printed = evaluated(run, images=101)
        assert "Not written" not in printed
        assert Metrics.model_validate_json(run.metrics_file.read_bytes()) == more
        for text in ("{}", with_step(metrics, 1), with_step(metrics, None)):
            run.metrics_file.write_text(text, encoding="utf-8")
            less, printed = evaluated(run, images=7)
            assert "Not written" not in printed
            assert Metrics.model_validate_json(run.metrics_file.read_bytes()) == less

    def test_a_single_image_has_no_interval_and_is_not_measured(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, _, _ = evaluation
        with pytest.raises(ConfigError, match=r"evaluation\.images"):
            evaluated(copy_of(run, tmp_path), images=1)
        monkeypatch.setattr(module, "held_out_images", lambda *_, **__: pictures(1))
        with pytest.raises(DataError, match="two or more are needed"):
            evaluated(copy_of(run, tmp_path))
        assert not (tmp_path / "metrics.json").exists()

    @pytest.mark.parametrize(("wanted", "name"), [(40, "digits (drawn at random from 719)"), (10_000, "digits")])
    def test_it_is_the_test_split_that_is_opened_or_some_of_it_from_all_over(
        self,
        wanted: int,
        name: str,
        evaluation: tuple[RunFolder, Metrics, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run, metrics, _ = evaluation
        opened: list[Dataset] = []

        def measured(model: VAE, test: Dataset, *arguments: object, **options: object) -> Metrics:
            opened.append(test)
            return metrics

        monkeypatch.setattr(module, "measure", measured)
        evaluated(copy_of(run, tmp_path), images=wanted)
        config = run.config()
        (test,) = opened
        expected = load_test(config.data, config.image, seed=config.seed)
        rows = {image.tobytes(): row for row, image in enumerate(expected.images)}
        assert len(rows) == 719
        found = [rows[image.tobytes()] for image in test.images]
        assert len(found) == min(wanted, 719)
        assert found == sorted(set(found))
        assert max(found) > 600  # the first ones would be those of the first folder
        assert test.name == name

    def test_it_is_the_averaged_weights_of_the_best_step(
        self, evaluation: tuple[RunFolder, Metrics, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copy_of(evaluation[0], tmp_path)
        best = restored(run.best)
        best.progress.step = 7  # not the last one, nor the one of `finished`
        save_checkpoint(run.best, best)
        models: list[VAE] = []

        def watched(model: VAE, *arguments: Any, **options: Any) -> Metrics:
            models.append(model)
            return measure(model, *arguments, **options)

        monkeypatch.setattr(module, "measure", watched)
        metrics, _ = evaluated(run)
        assert metrics.protocol.step == 7
        measured, average, latest = (part.state_dict() for part in (models[0], best.average.module, best.model))
        assert all(torch.equal(tensor, average[name]) for name, tensor in measured.items())
        assert any(not torch.equal(tensor, latest[name]) for name, tensor in measured.items())

    def test_without_a_best_step_nothing_is_measured(
        self, evaluation: tuple[RunFolder, Metrics, str], finished: RunFolder, tmp_path: Path
    ) -> None:
        run = copy_of(evaluation[0], tmp_path)
        run.best.unlink()
        run.last.write_bytes(finished.last.read_bytes())
        with pytest.raises(CheckpointError, match=r"best\.safetensors: there is no checkpoint"):
            evaluated(run)
        last = restored(run.last)
        last.progress.finished = False
        save_checkpoint(run.last, last)
        with pytest.raises(CheckpointError, match=r"not validated yet, .*: resume it first"):
            evaluated(run)
        run.last.unlink()
        with pytest.raises(CheckpointError, match=r"not validated yet"):
            evaluated(run)


@pytest.mark.parametrize(
    ("likelihood", "binarization", "has_likelihood", "is_discrete"),
    [
        ({"family": "bernoulli"}, "dynamic", True, True),
        ({"family": "bernoulli"}, "static", True, True),
        ({"family": "bernoulli"}, "none", False, False),
        ({"family": "gaussian"}, "none", True, False),
        ({"family": "gaussian", "scale": 0.1}, "none", True, False),
        ({"family": "continuous-bernoulli"}, "none", True, False),
        ({"family": "discretized-logistic"}, "none", True, True),
        ({"family": "discretized-logistic", "scale_per": "pixel"}, "none", True, True),
        ({"family": "categorical"}, "none", True, True),
    ],
)
def test_no_likelihood_of_grey_values_under_a_bernoulli_and_no_bits_of_a_density(
    likelihood: dict[str, object], binarization: str, has_likelihood: bool, is_discrete: bool
) -> None:
    config = digits_config(model={"likelihood": likelihood}, data={"binarization": binarization})
    metrics = measured(VAE(config.model, config.image.shape), pictures(20), config)
    assert (metrics.negative_log_likelihood is not None) == has_likelihood
    assert bool(metrics.bounds) == has_likelihood
    assert (metrics.bits_per_dim is not None) == is_discrete
    assert metrics.negative_elbo.value == pytest.approx(metrics.rate.value + metrics.distortion.value)


@pytest.mark.usefixtures("few_tuning_moves")
@pytest.mark.parametrize("likelihood", ["gaussian", "continuous-bernoulli", "discretized-logistic", "categorical"])
def test_every_likelihood_is_annealed_and_has_gaps(likelihood: str, tmp_path: Path) -> None:
    config = digits_config(
        model={"likelihood": {"family": likelihood}}, data={"binarization": "none"}, optimization={"epochs": 1}
    )
    run, _, _ = run_digits(tmp_path / "run", config)
    wishes = Wishes(AnnealingSettings(chains=2, temperatures=3, leapfrog_steps=1), gaps=4, subset=5)
    metrics, _ = evaluated(run, images=5, wishes=wishes)
    assert metrics.annealing is not None
    discrete = likelihood in ("discretized-logistic", "categorical")
    assert (metrics.annealing.bits_per_dim is not None) == discrete
    if metrics.annealing.bits_per_dim is not None:
        bits = metrics.annealing.negative_log_likelihood.value / math.log(2) / 64
        assert metrics.annealing.bits_per_dim.value == pytest.approx(bits)
    assert metrics.gaps is not None
    assert metrics.gaps.diagonal is None


def test_a_run_without_a_likelihood_says_so(tmp_path: Path) -> None:
    config = digits_config(data={"binarization": "none"}, optimization={"epochs": 1})
    run, _, _ = run_digits(tmp_path / "run", config)
    _, printed = evaluated(run)
    assert "bounds no likelihood" in printed
    assert "-L_" not in printed.replace("L_20 of", "")
    assert "bits/dim" not in printed


def test_the_reconstruction_error_is_that_of_the_grey_values_and_says_so() -> None:
    """A coder of constants reconstructs one half: of grey one half that is no error, of drawn pixels a quarter."""
    config = digits_config()
    model = VAE(config.model, config.image.shape)
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    grey = Dataset.of(np.full((30, 8, 8, 1), 127, np.uint8), name="grey", split="test")
    metrics = measured(model, grey, config)
    assert metrics.reconstruction_error.value == pytest.approx(0, abs=1e-5)
    assert metrics.distortion.value == pytest.approx(64 * math.log(2))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_named_and_not_written(
    part: str, bad: float, finished: RunFolder, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path)
    best = restored(run.best)
    with torch.no_grad():
        next(getattr(best.average.module, part).parameters()).fill_(bad)
    save_checkpoint(run.best, best)
    with pytest.raises(NonFiniteMetric, match=r"^log likelihood: NaN or infinite for 100 of 100 test images"):
        evaluated(run)
    assert not run.metrics_file.exists()


@pytest.mark.parametrize("axes", [1, 2])
def test_every_metric_is_looked_at_by_image(axes: int) -> None:
    values = torch.zeros(*(5, 3)[:axes])
    require_finite({"rate": values})
    values[2], values[4] = math.nan, math.inf
    with pytest.raises(NonFiniteMetric, match=r"^effective sample size: NaN or infinite for 2 of 5 test images"):
        require_finite({"rate": torch.zeros(5), "effective_sample_size": values})


def pictures(count: int) -> Dataset:
    """Noise, black and white."""
    pixels = 255 * np.random.default_rng(0).integers(0, 2, (count, 8, 8, 1), dtype=np.uint8)
    return Dataset.of(pixels, name="noise", split="test")


def measured(model: VAE, test: Dataset, config: RunConfig) -> Metrics:
    """All metrics of a model that no run made."""
    return measure(model.requires_grad_(False), test, config, CPU, step=0, advance=lambda count: None)


class FirstPixels(nn.Module):
    """The means are the first pixels times their scales; every log_variance is that of the prior, 0."""

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.scales = torch.tensor(scales)

    def forward(self, images: Tensor) -> Tensor:
        means = images.flatten(1)[:, : len(self.scales)] * self.scales
        return torch.cat([means, torch.zeros_like(means)], 1)


class MovedByFirstPixel(nn.Module):
    """A planar map ``z + u tanh(w z + b)``: u is the first pixel along the first dimension, w that axis, b is 1."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, images: Tensor) -> Tensor:
        first = torch.eye(self.dimension)[0].expand(len(images), -1)
        still = torch.zeros(len(images), 2 * self.dimension)
        return torch.cat([still, images.flatten(1)[:, :1] * first, first, torch.ones(len(images), 1)], 1)


class TestCrafted:
    @pytest.mark.parametrize(
        ("scales", "active"),
        [([0.0, 0.0, 0.0], 0), ([1.0, 0.0, 0.0], 1), ([0.19, 0.21, 5.0], 2), ([1.0, 1.0, 1.0], 3)],
    )
    def test_units_are_active_whose_means_vary_by_more_than_a_hundredth(self, scales: list[float], active: int) -> None:
        """A black or white pixel has variance 1/4: scale 0.2 is the threshold."""
        config = digits_config(data={"binarization": "static"})
        model = VAE(config.model, config.image.shape)
        model.encoder = FirstPixels(scales)
        metrics = measured(model, pictures(1000), config)
        assert metrics.active_units == active
        expected = [0.5 * scale**2 / 2 for scale in scales]  # KL of N(scale x, 1) is scale^2 x^2 / 2
        assert metrics.kl_per_dimension == pytest.approx(expected, rel=0.1, abs=1e-9)

    def test_units_of_a_flow_are_active_where_what_stands_for_an_image_varies(self) -> None:
        """The base's mean is 0 for all images, and the map moves the first dimension by the first pixel."""
        config = digits_config(data={"binarization": "static"}, model={"posterior": {"kind": "planar", "steps": 1}})
        model = VAE(config.model, config.image.shape)
        model.encoder = MovedByFirstPixel(config.model.latent_dim)
        posterior = model.posterior(torch.stack([torch.zeros(config.image.shape), torch.ones(config.image.shape)]))
        assert not posterior.mean.any()
        black, white = posterior.center()
        assert ((white - black).abs() > 0.4).tolist() == [True] + [False] * (config.model.latent_dim - 1)
        assert measured(model, pictures(1000), config).active_units == 1

    def test_the_reconstruction_error_is_per_pixel_and_squared(self) -> None:
        """A decoder that always says one half is wrong by one half everywhere."""
        config = digits_config(data={"binarization": "static"})
        model = VAE(config.model, config.image.shape)
        for parameter in model.decoder.parameters():
            nn.init.zeros_(parameter)
        metrics = measured(model, pictures(30), config)
        assert metrics.reconstruction_error.value == pytest.approx(0.25)
        assert metrics.distortion.value == pytest.approx(64 * math.log(2))
        assert metrics.rate.value > 0

    def test_a_posterior_that_is_the_prior_has_no_rate_and_full_samples(self) -> None:
        config = digits_config(data={"binarization": "static"})
        model = VAE(config.model, config.image.shape)
        model.encoder = FirstPixels([0.0, 0.0, 0.0])
        for parameter in model.decoder.parameters():
            nn.init.zeros_(parameter)
        metrics = measured(model, pictures(30), config)
        assert metrics.rate.value == 0
        assert metrics.negative_log_likelihood is not None
        assert metrics.effective_sample_size is not None
        assert metrics.bits_per_dim is not None
        assert metrics.negative_log_likelihood.value == pytest.approx(64 * math.log(2))
        assert metrics.bits_per_dim.value == pytest.approx(1)
        assert metrics.effective_sample_size.minimum == pytest.approx(20, rel=1e-5)

    def test_who_knows_nothing_takes_eight_bits_for_each_of_256_levels(self) -> None:
        config = digits_config(data={"binarization": "none"}, model={"likelihood": {"family": "categorical"}})
        model = VAE(config.model, config.image.shape)
        model.encoder = FirstPixels([0.0, 0.0, 0.0])
        for parameter in model.decoder.parameters():
            nn.init.zeros_(parameter)
        metrics = measured(model, pictures(30), config)
        assert metrics.bits_per_dim is not None
        assert metrics.bits_per_dim.value == pytest.approx(8)
        assert metrics.reconstruction_error.value == pytest.approx(0.25)
        printed = io.StringIO()
        Console(file=printed, width=120).print(summary(metrics))
        assert "8.0000" in printed.getvalue()

    def test_every_image_is_measured_whatever_the_batches(self) -> None:
        """Deterministic parts do not depend on how the images were divided."""
        config = digits_config(data={"binarization": "static"})
        torch.manual_seed(0)  # the layers draw their weights from the global generator
        model = VAE(config.model, config.image.shape)
        test = pictures(31)
        one, other = (
            measured(model, test, config.model_copy(update={"evaluation": evaluation}))
            for evaluation in (config.evaluation, config.evaluation.model_copy(update={"batch_size": 7}))
        )
        assert one.rate.value == pytest.approx(other.rate.value, rel=1e-5)
        assert one.reconstruction_error.value == pytest.approx(other.reconstruction_error.value, rel=1e-5)
        assert one.active_units == other.active_units
        assert one.protocol.images == other.protocol.images == 31

    def test_threads_do_not_change_the_numbers(self) -> None:
        config = digits_config(evaluation={"batch_size": 7})
        torch.manual_seed(0)  # the layers draw their weights from the global generator
        model = VAE(config.model, config.image.shape)
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(measured(model, pictures(31), config))
        assert results[0] == results[1]
        assert torch.get_num_threads() == 3

    def test_memory_is_bounded_on_all_threads_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither coder ever sees more images than its share of the budget, and the numbers are those without one."""
        config = digits_config(evaluation={"batch_size": 16, "sample_chunk": 8}, data={"binarization": "static"})
        torch.manual_seed(0)
        model = VAE(config.model, config.image.shape)
        without = measured(model, pictures(31), config)
        seen: list[int] = []
        for coder in (model.encoder, model.decoder):
            coder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
        bytes_of_an_image = 4 * 4 * max(8 * 4 * 4, 64)  # four tensors of 8 channels at half the size
        monkeypatch.setattr(
            "training.measure.images_at_a_time", partial(images_at_a_time, budget=30 * bytes_of_an_image)
        )
        torch.set_num_threads(3)
        within = measured(model, pictures(31), config)
        assert max(seen) == 10
        assert within.negative_log_likelihood is not None
        assert without.negative_log_likelihood is not None
        for one, other in (
            (within.negative_log_likelihood, without.negative_log_likelihood),
            (within.distortion, without.distortion),
            (within.rate, without.rate),
            (within.reconstruction_error, without.reconstruction_error),
        ):
            assert one.value == pytest.approx(other.value, rel=1e-5)

    def test_advance_hears_of_every_image(self) -> None:
        config = digits_config(evaluation={"batch_size": 7})
        heard: list[int] = []
        measure(VAE(config.model, config.image.shape), pictures(31), config, CPU, step=0, advance=heard.append)
        assert heard == [7, 7, 7, 7, 3]


@pytest.mark.parametrize("images", [2, 3, 5, 60])
def test_intervals_cover_the_truth_in_nineteen_of_twenty_samples(images: int) -> None:
    samples = torch.randn(2000, images, generator=Generator().manual_seed(0)).mul(3).add(5)
    intervals = [mean_over_images(sample) for sample in samples]
    covered = sum(interval.low <= 5 <= interval.high for interval in intervals) / 2000
    assert covered == pytest.approx(0.95, abs=0.015)


def test_a_dataset_is_not_changed_by_being_measured() -> None:
    config = digits_config()
    test = pictures(10)
    before = dataclasses.replace(test, images=test.images.copy())
    measured(VAE(config.model, config.image.shape), test, config)
    assert np.array_equal(test.images, before.images)
