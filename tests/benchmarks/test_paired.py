"""Differences are of pairs: the same images and pixels, measured as an evaluation measures; others are refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Generator, Tensor

from benchmarks import paired
from benchmarks.paired import Costs
from model.bundle.measurements import Metrics
from model.vae import VAE
from tests.support.linear import LATENTS, LinearVAE
from tests.support.runs import GAUSSIAN, write_run
from training.errors import ConfigError, DataError
from training.estimators import ImageEstimates, estimate_images, mean_over_images
from training.evaluate import evaluate_run
from training.run import RunFolder

QUIET = Console(quiet=True)
K = 5


def compared(runs: list[RunFolder], *, images: int | None = None, console: Console = QUIET) -> str:
    return paired.compared(runs, data_dir=None, console=console, images=images, importance_samples=K)


def dynamic(folder: Path, **options: Any) -> RunFolder:
    """A run whose pixels are drawn, with ten test images."""
    with_defaults: dict[str, Any] = {"binarization": "dynamic", "images": 100} | options
    return write_run(folder, **with_defaults)


def changed(run: RunFolder, **sections: dict[str, Any]) -> RunFolder:
    config = json.loads(run.config_file.read_text(encoding="utf-8"))
    for section, values in sections.items():
        config[section] |= values
    run.config_file.write_text(json.dumps(config), encoding="utf-8")
    return run


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def one_latent(model: LinearVAE, images: Tensor, *, shift: float, seed: int) -> Tensor:
    """-ELBO ``(N,)`` of images, of one latent each from their posteriors moved by so much."""
    model.set_posterior(images, shift=shift)
    with torch.no_grad():
        noise = torch.randn(len(images), LATENTS, generator=Generator().manual_seed(seed)).double()
        latents, log_density = model.posterior(images).draw(noise)
        log_joint = model.likelihood.log_prob(model.decode(latents), images) + model.prior(at_a_time=1).log_density(
            latents
        )
        return log_density - log_joint


def test_the_interval_covers_a_difference_that_is_known_as_often_as_it_says() -> None:
    """A posterior that is off by a shift costs its KL to the true one, the same for every image: half of a nat."""
    model, images, times = LinearVAE(), 50, 400
    of_image = model.true_posterior(torch.zeros(1, 1, 2, 4).double())
    shift = (1 / (0.5 * (-of_image.log_variance).exp().sum())).sqrt().item() * 0.5**0.5
    found = []
    for seed in range(times):
        observed = model.draw_images(images, seed=seed)
        true = one_latent(model, observed, shift=0.0, seed=seed)
        moved = one_latent(model, observed, shift=shift, seed=seed + times)
        found.append(paired.saved(moved, true))
    covered = sum(each.low < 0.5 < each.high for each in found) / times
    assert 0.92 < covered < 0.98
    assert sum(each.low < 0.5 + 0.5 < each.high for each in found) / times < 0.9


def test_what_images_have_in_common_is_not_in_the_interval() -> None:
    random = Generator().manual_seed(0)
    hard = 90 + 20 * torch.randn(400, generator=random)
    less = hard - 0.5 + 0.5 * torch.randn(400, generator=random)
    found, own = paired.saved(hard, less), mean_over_images(less)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert own.high - own.low > 20 * (found.high - found.low)
    assert paired.saved(less, hard).value == pytest.approx(-found.value)


def test_each_line_has_its_differences_to_the_first_and_to_that_above() -> None:
    easy = torch.tensor([10.0, 30.0, 20.0, 40.0])
    wave = torch.tensor([0.1, -0.1, 0.1, -0.1])
    costs = [Costs(easy, easy + 5), Costs(easy - 2 + wave, easy + 3), Costs(easy + 1, easy + 6 + wave)]
    first, second, third = rows_of(paired.table(["a", "b", "c"], costs, 7))
    reach = 3.182446 * wave.std().item() / 2
    assert first[:1] + first[3:6] + first[7:] == ["a", "", "", "30.00", "", ""]
    assert first[1:3] == ["25.00", "4.46 to 45.54"]
    assert second[3] == second[4] == f"+2.00 ({2 - reach:+.2f} to {2 + reach:+.2f})"
    assert second[7] == second[8] == "+2.00 (+2.00 to +2.00)"
    assert third[3:5] == ["-1.00 (-1.00 to -1.00)", f"-3.00 ({-3 - reach:+.2f} to {-3 + reach:+.2f})"]
    assert third[7] == f"-1.00 ({-1 - reach:+.2f} to {-1 + reach:+.2f})"
    assert third[8] == f"-3.00 ({-3 - reach:+.2f} to {-3 + reach:+.2f})"


def test_runs_are_measured_as_an_evaluation_does(tmp_path: Path) -> None:
    runs = [dynamic(tmp_path / "one"), dynamic(tmp_path / "other", latent_dim=5, shake=0.4)]
    printed = io.StringIO()
    text = compared(runs, images=7, console=Console(file=printed))
    assert text.startswith("7 images of the test split of one (drawn at random from 10), binarization dynamic, 5 imp")
    assert "other: L_5 of one (drawn at random from 10): 7 of 7 images" in " ".join(printed.getvalue().split())
    for run, row in zip(runs, rows_of(text), strict=True):
        metrics = evaluate_run(run, data_dir=None, console=QUIET, importance_samples=K, images=7)
        assert isinstance(metrics, Metrics)
        bound, elbo = metrics.negative_log_likelihood, metrics.negative_elbo
        assert bound is not None
        assert row[0] == run.folder.name
        assert row[1:3] == [f"{bound.value:.2f}", f"{bound.low:.2f} to {bound.high:.2f}"]
        assert row[5:7] == [f"{elbo.value:.2f}", f"{elbo.low:.2f} to {elbo.high:.2f}"]


def test_all_see_the_same_pixels_whatever_their_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dynamic(tmp_path / "one")
    other = changed(dynamic(tmp_path / "other", latent_dim=5), evaluation={"batch_size": 3})
    seen: list[Tensor] = []

    def spied(model: VAE, images: Tensor, *rest: Any, **options: Any) -> ImageEstimates:
        seen.append(images)
        return estimate_images(model, images, *rest, **options)

    monkeypatch.setattr("training.measure.estimate_images", spied)
    compared([one, other])
    assert [len(images) for images in seen] == [10, 10]
    assert torch.equal(seen[0], seen[1])
    assert 0 < seen[0].mean() < 1
    assert torch.equal(seen[0], seen[0].round())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: dynamic(folder, images=101), "their test images differ"),
        (lambda folder: dynamic(folder, seed=1), "their test images differ"),
        (
            lambda folder: dynamic(folder, binarization="none", likelihood=GAUSSIAN),
            "dynamic and none",
        ),
        (lambda folder: dynamic(folder, shape=(8, 12, 1)), "images are 8x8 with 1 channel and 8x12 with 1"),
    ],
)
def test_others_are_refused_in_one_line(make: Callable[[Path], RunFolder], words: str, tmp_path: Path) -> None:
    one, other = dynamic(tmp_path / "one"), make(tmp_path / "other")
    with pytest.raises(SystemExit, match=words) as refused:
        paired.main([str(one.folder), str(other.folder), "--samples", "2"])
    assert str(refused.value).startswith(f"benchmarks.paired: {one.folder} and {other.folder} cannot be compared: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_without_a_likelihood_is_refused_wherever_it_stands(place: int, tmp_path: Path) -> None:
    autoencoder = dynamic(tmp_path / "autoencoder")
    config = json.loads(autoencoder.config_file.read_text(encoding="utf-8")) | {"objective": {"kind": "autoencoder"}}
    autoencoder.config_file.write_text(json.dumps(config), encoding="utf-8")
    grey = dynamic(tmp_path / "grey", binarization="none")
    one = dynamic(tmp_path / "one")
    for without, words in ((grey, "have no likelihood"), (autoencoder, "a plain autoencoder has no p")):
        runs = [one, without] if place else [without, one]
        with pytest.raises(ConfigError, match=words):
            compared(runs)


def test_one_run_the_same_twice_one_image_and_no_run_are_refused(tmp_path: Path) -> None:
    one, other = dynamic(tmp_path / "one", images=20), dynamic(tmp_path / "other", images=20)
    for runs in ([one], [one, other, RunFolder(one.folder / ".." / "one")]):
        with pytest.raises(ConfigError, match="two runs or more, each once"):
            compared(runs)
    with pytest.raises(ConfigError, match=r"evaluation\.images"):
        compared([one, other], images=1)
    with pytest.raises(SystemExit, match=r"benchmarks\.paired: .*there is no run"):
        paired.main([str(one.folder), str(tmp_path / "nowhere")])
    few = [dynamic(tmp_path / "few", images=10), dynamic(tmp_path / "fewer", images=10)]
    with pytest.raises(DataError, match="two or more are needed"):
        compared(few)
