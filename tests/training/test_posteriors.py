"""Every posterior trains, is evaluated, drawn and resumed like any other, and says what it cannot give."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from model.bundle.manifest import CARD
from model.bundle.measurements import Metrics
from model.posteriors import standard_normal_log_density
from model.vae import VAE
from tests.support.digits import digits_config, digits_document, restored, run_digits, weights
from training import anatomy
from training.ais import AnnealingSettings
from training.config import RunConfig
from training.errors import ConfigError, ExportError
from training.estimators import estimate_images
from training.evaluate import Wishes, evaluate_run
from training.export import export
from training.figures import draw_run

POSTERIORS: list[dict[str, Any]] = [
    {"kind": "full"},
    {"kind": "planar", "steps": 2},
    {"kind": "radial", "steps": 2},
    {"kind": "iaf", "steps": 2, "hidden": 8, "context": 4},
    {"kind": "sylvester-orthogonal", "steps": 2, "bottleneck": 2},
    {"kind": "sylvester-householder", "steps": 2, "reflections": 2},
    {"kind": "sylvester-triangular", "steps": 2},
]
on_all = pytest.mark.parametrize("posterior", POSTERIORS, ids=lambda posterior: posterior["kind"])


def config_of(posterior: dict[str, Any], **changes: object) -> RunConfig:
    return digits_config(model=digits_document()["model"] | {"posterior": posterior}, **changes)


@pytest.mark.usefixtures("few_tuning_moves", "few_moves")
@on_all
def test_a_run_from_end_to_end(posterior: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(posterior)
    run, complete, _ = run_digits(tmp_path / "run", config)
    assert complete
    assert run.config() == config
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    wishes = Wishes(AnnealingSettings(chains=2, temperatures=3, leapfrog_steps=1), gaps=4, subset=5)
    metrics = evaluate_run(run, data_dir=None, console=console, wishes=wishes)
    assert isinstance(metrics, Metrics)
    assert metrics.annealing is not None
    # A flow's chains go back to the prior only.
    assert metrics.annealing.protocol.simulated_initial == ("posterior" if posterior["kind"] == "full" else "prior")
    assert metrics.gaps is not None
    assert metrics.gaps.diagonal is not None
    assert metrics.gaps.gain is not None
    gain = metrics.gaps.diagonal.value - metrics.gaps.approximation.value
    assert metrics.gaps.gain.value == pytest.approx(gain)
    assert metrics.kl_per_dimension == ()
    assert metrics.negative_log_likelihood is not None
    assert metrics.negative_log_likelihood.value < metrics.negative_elbo.value
    assert metrics.negative_elbo.value == pytest.approx(metrics.rate.value + metrics.distortion.value)
    assert "latent dimensions" in printed.getvalue()
    drawn = draw_run(run, tmp_path / "figures", data_dir=None, console=console)
    assert {path.name for path in drawn} >= {"reconstructions.png", "traversals.png", "latents.png", "posteriors.png"}
    with pytest.raises(ExportError, match=f"diagonal Gaussian posteriors, and this one is {posterior['kind']}"):
        export(run, tmp_path / "bundle", "1", "int8", data_dir=None, console=console)
    assert not (tmp_path / "bundle").exists()
    card = (export(run, tmp_path / "bundle", "1", data_dir=None, console=console) / CARD).read_text(encoding="utf-8")
    assert anatomy.posterior(run.config().model.posterior) in card
    assert " | | of 3 dimensions |" in card
    assert "| `posterior.onnx` | `mean` [N, 3], `log_variance` [N, 3], `parameters` [N, " in card
    assert ("in closed form" in card) == (posterior["kind"] == "full")


@on_all
def test_training_lowers_the_bound(posterior: dict[str, Any], tmp_path: Path) -> None:
    few, many = (
        run_digits(tmp_path / name, config_of(posterior, optimization={"epochs": epochs, "ema_decay": 0.0}))[0]
        for name, epochs in (("few", 1), ("many", 12))
    )
    first, last = (evaluate_run(run, data_dir=None, console=Console(file=io.StringIO())) for run in (few, many))
    assert isinstance(first, Metrics)
    assert isinstance(last, Metrics)
    assert last.negative_elbo.value < first.negative_elbo.value


@pytest.mark.parametrize("posterior", POSTERIORS[3:4], ids=["iaf"])
def test_weights_of_a_posterior_are_trained_kept_and_resumed(posterior: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(posterior)
    run, _, _ = run_digits(tmp_path / "run", config)
    again, _, _ = run_digits(tmp_path / "again", config)
    one, other = (weights(restored(each.last, config)) for each in (run, again))
    assert any(name.startswith("family.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


@on_all
def test_the_rate_without_a_closed_form_is_that_of_the_draws(posterior: dict[str, Any]) -> None:
    config = config_of(posterior)
    torch.manual_seed(0)
    vae = VAE(config.model, config.image.shape)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    estimates = estimate_images(vae, images, 4000, torch.Generator().manual_seed(2), chunk=1000)
    with torch.no_grad():
        noise = torch.randn(20_000, 5, 3, generator=torch.Generator().manual_seed(3))
        latent, log_density = vae.posterior(images).draw(noise)
        ratio = log_density - standard_normal_log_density(latent)
        elbo = vae.elbo(images, noise[0])
    error = ratio.std(0) * (1 / 4000 + 1 / 20_000) ** 0.5
    assert ((estimates.rate - ratio.mean(0)).abs() < 4 * error + 1e-4).all()
    closed = vae.posterior(images).rate()
    torch.testing.assert_close(elbo.rate, ratio[0] if closed is None else closed)
    assert (estimates.log_likelihood >= -(estimates.distortion + estimates.rate) - 1e-6).all()


def test_what_does_not_fit_is_refused_with_the_configuration() -> None:
    with pytest.raises(ConfigError, match="bottleneck"):
        config_of({"kind": "sylvester-orthogonal", "bottleneck": 4})
    with pytest.raises(ConfigError, match="steps"):
        config_of({"kind": "planar", "step": 4})
