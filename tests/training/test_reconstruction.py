"""A plain autoencoder has reconstructions, and nothing else that could be measured."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from model.bundle.prior import Prior
from model.vae import VAE
from tests.support.digits import digits_config, restored, run_digits
from training.checkpoint import save_checkpoint
from training.data.dataset import Dataset
from training.errors import ConfigError, ExportError, NonFiniteMetric
from training.evaluate import evaluate_run
from training.export import export
from training.figures.draw import draw_run
from training.figures.page import Panel
from training.figures.panels import Bytes, Importance, Model, traversals
from training.publish import check_publication
from training.reconstruction import Reconstruction, measure_reconstruction
from training.run import RunFolder

CPU = torch.device("cpu")


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    """What evaluation reads of a run, in another folder."""
    for file in (run.config_file, run.provenance_file, run.best):
        (folder / file.name).write_bytes(file.read_bytes())
    return RunFolder(folder)


def pictures(count: int) -> Dataset:
    """Noise, black and white."""
    pixels = 255 * np.random.default_rng(0).integers(0, 2, (count, 8, 8, 1), dtype=np.uint8)
    return Dataset.of(pixels, name="noise", split="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    before = torch.get_num_threads()
    run, _, _ = run_digits(tmp_path_factory.mktemp("plain") / "run", digits_config(objective={"kind": "autoencoder"}))
    torch.set_num_threads(before)
    return run


def test_its_reconstruction_error_is_all_that_is_measured(run: RunFolder) -> None:
    printed = io.StringIO()
    measured = evaluate_run(run, data_dir=None, console=Console(file=printed, width=120))
    assert isinstance(measured, Reconstruction)
    assert Reconstruction.model_validate_json(run.metrics_file.read_bytes()) == measured
    assert (measured.protocol.images, measured.protocol.importance_samples) == (100, None)
    error = measured.reconstruction_error
    assert error.low < error.value < error.high
    assert f"{error.value:.4f}" in printed.getvalue()
    assert "no rate, no ELBO and no likelihood" in printed.getvalue()
    for word in ("nats", "-L_", "bits", "active units"):
        assert word not in printed.getvalue()


def test_it_is_that_of_the_decoded_means(run: RunFolder) -> None:
    config = run.config()
    model = VAE(config.model, config.image.shape)
    test = pictures(30)
    measured = measure_reconstruction(model, test, config, CPU, step=0, advance=lambda count: None)
    with torch.no_grad():
        images = torch.from_numpy(test.images).permute(0, 3, 1, 2) / 255
        errors = (model.mean_image(model.posterior(images).center()) - images).square().mean()
    assert measured.reconstruction_error.value == pytest.approx(errors.item(), rel=1e-5)


def test_a_quick_look_does_not_cost_the_measurement(run: RunFolder, tmp_path: Path) -> None:
    run = copy_of(run, tmp_path)
    evaluate_run(run, data_dir=None, console=Console(file=io.StringIO()))
    before, printed = run.metrics_file.read_bytes(), io.StringIO()
    evaluate_run(run, data_dir=None, console=Console(file=printed, width=1000), images=7)
    assert "keeps what was measured on 100 images.\n" in printed.getvalue()
    assert run.metrics_file.read_bytes() == before


def test_importance_samples_are_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="an autoencoder has no bound that takes importance samples"):
        evaluate_run(run, data_dir=None, console=Console(file=io.StringIO()), importance_samples=5)


def test_what_is_not_finite_is_named(run: RunFolder, tmp_path: Path) -> None:
    run = copy_of(run, tmp_path)
    best = restored(run.best, run.config())
    with torch.no_grad():
        next(best.average.module.parameters()).fill_(math.nan)
    save_checkpoint(run.best, best)
    with pytest.raises(NonFiniteMetric, match=r"^reconstruction error: NaN or infinite for 100 of 100 test images"):
        evaluate_run(run, data_dir=None, console=Console(file=io.StringIO()))
    assert not run.metrics_file.exists()


def test_there_is_no_bundle_of_it(run: RunFolder, tmp_path: Path) -> None:
    """Which would have to say q(z|x)."""
    console = Console(file=io.StringIO())
    with pytest.raises(ExportError, match="an autoencoder has none: there is no bundle of it"):
        export(run, tmp_path / "bundle", "1", data_dir=None, console=console)
    with pytest.raises(ConfigError, match="there is no bundle of it"):
        check_publication(run.config(), tmp_path / "bundle", "1")
    assert not (tmp_path / "bundle").exists()


def test_its_dimensions_are_drawn_by_their_spread_and_not_by_a_divergence(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would be that of a log_variance nobody trained."""
    measures: list[str] = []

    def watched(model: Model, prior: Prior, image: Bytes, importance: Importance) -> Panel:
        measures.append(importance.measure)
        return traversals(model, prior, image, importance)

    monkeypatch.setattr("training.figures.draw.traversals", watched)
    said = io.StringIO()
    drawn = draw_run(run, tmp_path, data_dir=None, console=Console(file=said, width=500))
    assert measures == ["variance over images"]
    assert "no posteriors.png" in said.getvalue()
    assert "a plain autoencoder has no p(x), and no true posterior" in said.getvalue()
    assert {path.stem for path in drawn} >= {"reconstructions", "traversals", "training_curves"}
