"""A VampPrior trains, is evaluated, drawn and resumed like any other prior; what it is not defined for is refused."""

import io
import json
import math
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Generator

from model.bundle import prior as served
from model.bundle.latents import prior_latents
from model.bundle.manifest import LatentSpec, LikelihoodSpec, Manifest, PriorSpec, graph_signatures
from model.bundle.measurements import Metrics
from model.bundle.store import open_bundle
from model.priors import Mixture
from model.vae import VAE, Architecture
from tests.support.digits import digits_config, digits_document, restored, run_digits, weights
from tests.support.linear import LinearVAE
from training import anatomy
from training.ais import AnnealingSettings, Initial, ais_images
from training.config import RunConfig, load
from training.data.dataset import Dataset
from training.data.load import load_training
from training.data.seen import SeenImages
from training.errors import ConfigError, DataError, ExportError
from training.estimators import estimate_images
from training.evaluate import evaluate_run
from training.export import export
from training.figures import draw_bundle, draw_run
from training.lint import lint, lint_data
from training.loop import Loop, build_trainee
from training.objectives.elbo import FreeBits
from training.objectives.iwae import Iwae
from training.objectives.total_correlation import BetaTC
from training.objectives.words import paragraph
from training.optimization import build_optimizer
from training.precision.lowering import lower
from training.pseudo_inputs import first_pseudo_inputs
from training.run import RunFolder
from training.simulate import simulate
from training.trained import TorchModel, load_best, prior_components

COMPONENTS = 7


def config_of(components: int = COMPONENTS, start: str = "images", **changes: object) -> RunConfig:
    prior = {"kind": "vamp", "components": components, "start": start}
    return digits_config(model=digits_document()["model"] | {"prior": prior}, **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def build(components: int = 5) -> VAE:
    """Fresh weights, and components that differ."""
    model = digits_document()["model"] | {
        "prior": {"kind": "vamp", "components": components},
        "network": {"kind": "mlp", "hidden": [16]},
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = VAE(Architecture.model_validate(model), (1, 8, 8))
        assert vae.pseudo_inputs is not None
        torch.nn.init.normal_(vae.pseudo_inputs.raw, std=4.0)
        *_, last = (module for module in vae.encoder.modules() if isinstance(module, torch.nn.Linear))
        with torch.no_grad():
            last.weight[:3] *= 4  # of the means
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run, complete, _ = run_digits(tmp_path_factory.mktemp("vamp") / "run", config_of())
    assert complete
    return run


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> VAE:
    """Small and trained, so that its encoder finds the latents of its images."""
    model = config_of().model.model_dump() | {"network": {"kind": "mlp", "hidden": [16]}}
    run, _, _ = run_digits(
        tmp_path_factory.mktemp("small") / "run",
        digits_config(model=model, optimization={"epochs": 20, "ema_decay": 0.0, "learning_rate": 1e-2}),
    )
    return load_best(run)[0].vae


class TestRun:
    @pytest.mark.usefixtures("few_moves")
    def test_is_evaluated_and_drawn_and_exported(self, finished: RunFolder, tmp_path: Path) -> None:
        metrics = evaluate_run(finished, data_dir=None, console=quiet())
        assert isinstance(metrics, Metrics)
        assert metrics.kl_per_dimension == ()
        assert metrics.negative_log_likelihood is not None
        assert metrics.negative_log_likelihood.value < metrics.negative_elbo.value
        assert metrics.negative_elbo.value == pytest.approx(metrics.rate.value + metrics.distortion.value)
        drawn = draw_run(finished, tmp_path / "figures", data_dir=None, console=quiet())
        assert {path.name for path in drawn} >= {"samples.png", "traversals.png", "latents.png", "posteriors.png"}
        with pytest.raises(ExportError, match="standard normal prior, and this one is vamp"):
            export(finished, tmp_path / "bundle", "1", "int8", data_dir=None, console=quiet())
        assert not (tmp_path / "bundle").exists()
        bundle = open_bundle(export(finished, tmp_path / "bundle", "1", data_dir=None, console=quiet()))
        wanted, _ = load_best(finished)
        np.testing.assert_allclose(bundle.prior.draw(9, seed=1), wanted.prior.draw(9, seed=1), rtol=1e-6)
        drawn = draw_bundle(bundle, tmp_path / "drawn", console=quiet())
        assert {path.name for path in drawn} >= {"overview.png", "samples.png"}

    def test_pseudo_inputs_start_at_images_and_are_trained(self, finished: RunFolder) -> None:
        config = finished.config()
        training, _ = load_training(config.data, config.image, seed=config.seed)
        start = first_pseudo_inputs(config.model.prior, training, config.seed)
        fresh = weights(build_trainee(config, torch.device("cpu"), pseudo_inputs=start))
        trained = weights(restored(finished.last, config))
        assert start is not None
        before = torch.sigmoid(fresh["pseudo_inputs.raw"]).numpy()
        np.testing.assert_allclose(before, start.transpose(0, 3, 1, 2), atol=0.12)
        moved = (trained["pseudo_inputs.raw"] - fresh["pseudo_inputs.raw"]).abs()
        assert (moved.flatten(1).amax(1) > 1e-3).all()

    def test_training_lowers_the_bound(self, tmp_path: Path) -> None:
        few, many = (
            run_digits(tmp_path / name, config_of(optimization={"epochs": epochs, "ema_decay": 0.0}))[0]
            for name, epochs in (("few", 1), ("many", 12))
        )
        first, last = (evaluate_run(run, data_dir=None, console=quiet()) for run in (few, many))
        assert isinstance(first, Metrics)
        assert isinstance(last, Metrics)
        assert last.negative_elbo.value < first.negative_elbo.value

    def test_resumes_bit_for_bit(self, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the middle of an epoch; the optimizer's moments of the pseudo-inputs included."""
        original = Loop._step

        def interrupted(self: Loop, *arguments: Any) -> None:
            original(self, *arguments)
            if self.trainee.progress.step == 9:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_step", interrupted)
            run, complete, _ = run_digits(tmp_path / "run", config_of())
        assert not complete
        assert restored(run.last, config_of()).progress.step == 9
        run, complete, _ = run_digits(tmp_path / "run", config_of(), resume=True)
        assert complete
        for file in ("last", "best"):
            ours, theirs = load_file(getattr(run, file)), load_file(getattr(finished, file))
            assert ours.keys() == theirs.keys()
            assert any(name.startswith("optimizer.") for name in ours)
            for name, tensor in theirs.items():
                assert ours[name].numpy().tobytes() == tensor.numpy().tobytes(), f"{file}: {name}"

    def test_the_prior_is_encoded_once_for_all_batches(
        self, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        original = VAE.prior

        def watched(self: VAE, **options: Any) -> Any:
            calls.append(1)
            return original(self, **options)

        monkeypatch.setattr(VAE, "prior", watched)
        evaluate_run(finished, data_dir=None, console=quiet())
        assert len(calls) == 1

    def test_a_config_json_from_before_there_were_priors_is_one_of_the_standard_normal(self, tmp_path: Path) -> None:
        document = json.loads(digits_config().model_dump_json())
        del document["model"]["prior"]
        (tmp_path / "config.json").write_text(json.dumps(document), encoding="utf-8")
        assert load(tmp_path / "config.json") == digits_config()
        assert RunConfig.model_validate_json(json.dumps(document)) == digits_config()


class TestStart:
    @pytest.fixture
    def digits(self) -> Dataset:
        images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        return Dataset.of(images, name="noise", split="train")

    def test_at_different_training_images_or_near_their_mean(self, digits: Dataset) -> None:
        chosen = first_pseudo_inputs(config_of().model.prior, digits, 3)
        assert chosen is not None
        assert chosen.shape == (COMPONENTS, 8, 8, 1)
        originals = {image.tobytes() for image in digits.images}
        found = {np.rint(255 * image).astype(np.uint8).tobytes() for image in chosen}
        assert len(found & originals) == COMPONENTS
        mean = first_pseudo_inputs(config_of(start="mean").model.prior, digits, 3)
        assert mean is not None
        np.testing.assert_array_equal(mean, digits.mean_image()[None])
        assert first_pseudo_inputs(digits_config().model.prior, digits, 3) is None

    def test_more_than_there_are_images_is_refused(self, digits: Dataset, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"components = 41 start at as many training images, and there are 40"):
            first_pseudo_inputs(config_of(41).model.prior, digits, 3)
        with pytest.raises(DataError, match=r"set model\.prior\.components lower"):
            run_digits(tmp_path / "run", config_of(2000))
        assert not (tmp_path / "run").exists()

    def test_pseudo_inputs_do_not_decay(self) -> None:
        optimizer = build_optimizer(build().requires_grad_(True), config_of().optimization)
        decaying, steady = optimizer.param_groups
        assert decaying["weight_decay"] > 0 == steady["weight_decay"]
        shape = (5, 1, 8, 8)
        assert [tuple(each.shape) for each in steady["params"]].count(shape) == 1
        assert shape not in [tuple(each.shape) for each in decaying["params"]]


class TestRefused:
    @pytest.mark.parametrize(
        ("objective", "words"),
        [
            ({"kind": "beta-tc", "beta": 2.0}, "compares each dimension with its own prior"),
            ({"kind": "elbo", "free_bits": 0.1}, "free_bits are of each dimension's own KL"),
            ({"kind": "elbo", "beta": 0.0}, "drops the rate, which is all that trains pseudo-inputs"),
            ({"kind": "autoencoder"}, "has no rate, which is all that trains pseudo-inputs"),
        ],
    )
    def test_objectives_that_need_a_product_or_train_no_pseudo_inputs(
        self, objective: dict[str, Any], words: str
    ) -> None:
        digits_config(objective=objective)
        with pytest.raises(ConfigError, match=rf"'vamp' does not go with this objective: .*{words}"):
            config_of(objective=objective)

    def test_objectives_that_need_neither_are_not(self) -> None:
        for objective in (
            {"kind": "elbo", "beta": 4.0, "schedule": {"kind": "warmup", "over_epochs": 1}},
            {"kind": "elbo", "distortion_weight": 0.0},
            {"kind": "iwae", "samples": 3, "gradient": "dreg"},
        ):
            config_of(objective=objective)

    @pytest.mark.parametrize("kind", ["full", "iaf"])
    def test_other_posteriors(self, kind: str) -> None:
        model = digits_document()["model"] | {"prior": {"kind": "vamp"}, "posterior": {"kind": kind}}
        with pytest.raises(ConfigError, match=rf"diagonal Gaussians: model\.posterior\.kind is '{kind}'"):
            digits_config(model=model)

    @pytest.mark.parametrize(
        ("prior", "words"),
        [
            ({"kind": "flow"}, r"model\.prior\.kind must be one of"),
            ({"kind": "vamp", "components": 0}, r"model\.prior\.components must be greater than 0"),
            ({"kind": "vamp", "start": "noise"}, r"model\.prior\.start must be"),
            ({"kind": "standard-normal", "components": 3}, r"model\.prior\.components does not go with"),
        ],
    )
    def test_settings_that_mean_nothing(self, prior: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            digits_config(model=digits_document()["model"] | {"prior": prior})

    @pytest.mark.parametrize("objective", [FreeBits(0.1), BetaTC(1, 2, 1, 100)])
    def test_their_losses_refuse_too(self, objective: FreeBits | BetaTC) -> None:
        with pytest.raises(TypeError, match="standard normal prior only"):
            objective.loss(build(), torch.rand(4, 1, 8, 8), Generator().manual_seed(0), autocast=False)


class TestSaid:
    def test_what_the_prior_is(self) -> None:
        said = [line for line in lint(config_of()) if line.startswith("prior: ")]
        assert len(said) == 1
        assert "posteriors of 7 pseudo-inputs" in said[0]
        assert not [line for line in lint(digits_config()) if line.startswith("prior: ")]

    def test_a_component_for_each_image_is_warned_of(self) -> None:
        images = Dataset.of(np.full((7, 8, 8, 1), 9, np.uint8), name="few", split="train")
        others = replace(images, split="validation")
        said = lint_data(config_of(), images, others, SeenImages())
        assert [line for line in said if "model.prior.components = 7 for 7 training images" in line]
        assert not [line for line in lint_data(config_of(6), images, others, SeenImages()) if "components" in line]


class TestEstimates:
    def test_the_simulated_latents_are_draws_of_the_mixture(self, vae: VAE) -> None:
        prior = vae.prior()
        assert isinstance(prior, Mixture)
        latents = simulate(vae, 20_000, Generator().manual_seed(0)).latents
        error = 4 * latents.std(0) / math.sqrt(len(latents))
        assert ((latents.mean(0) - prior.mean.mean(0)).abs() < error).all()
        assert prior.mean.std(0).max() > 0.3

    @pytest.mark.parametrize("initial", ["prior", "posterior"])
    def test_importance_sampling_and_annealing_agree(self, initial: Initial, vae: VAE) -> None:
        """L_k, AIS from either end, and importance sampling from the prior: log p(x) of all three."""
        images, _ = simulate(vae, 5, Generator().manual_seed(0))
        annealed = ais_images(
            vae, images, Generator().manual_seed(1), AnnealingSettings(50, 60, 3, initial)
        ).log_likelihood
        bound = estimate_images(vae, images, 10_000, Generator().manual_seed(2), chunk=2500).log_likelihood
        with torch.no_grad():
            latents = vae.prior().sample(20_000, Generator().manual_seed(3))
            log_likelihood = vae.likelihood.log_prob(vae.decode(latents)[:, None], images)
        expected = torch.logsumexp(log_likelihood.double(), 0) - math.log(len(latents))
        torch.testing.assert_close(annealed, expected, rtol=0, atol=0.2)
        torch.testing.assert_close(bound, expected, rtol=0, atol=0.2)

    def test_chains_from_the_prior_start_at_its_draws(self, vae: VAE) -> None:
        """With one temperature nothing moves: what is left is importance sampling from where chains start."""
        images, _ = simulate(vae, 5, Generator().manual_seed(0))
        found = ais_images(vae, images, Generator().manual_seed(1), AnnealingSettings(6, 1, 10, "prior")).log_likelihood
        generator = Generator().manual_seed(1)
        vae.prior().sample(4 * 5, generator)  # the chains that find step sizes come first
        latents = torch.unflatten(vae.prior().sample(6 * 5, generator), 0, (6, 5))
        densities = [vae.likelihood.log_prob(vae.decode(each), images) for each in latents]
        torch.testing.assert_close(found, torch.stack(densities).double().logsumexp(0) - math.log(6))

    def test_the_rate_is_estimated_from_the_same_draws(self, vae: VAE) -> None:
        images = torch.rand(3, 1, 8, 8, generator=Generator().manual_seed(1)).round()
        found = estimate_images(vae, images, 4000, Generator().manual_seed(2), chunk=1000)
        with torch.no_grad():
            noise = torch.randn(20_000, 3, 3, generator=Generator().manual_seed(3))
            latents, density = vae.posterior(images).draw(noise)
            ratio = density - vae.prior().log_density(latents)
        error = ratio.std(0) * (1 / 4000 + 1 / 20_000) ** 0.5
        assert ((found.rate - ratio.mean(0)).abs() < 4 * error).all()


class SharedVAE(LinearVAE):
    """Its prior is a mixture of the posterior of its one image and of another component."""

    def prior(self, *, autocast: bool = False, at_a_time: int | None = None) -> Mixture:
        other = torch.full_like(self.mean, 0.3)
        return Mixture(torch.cat([self.mean, other]), torch.cat([self.log_variance, 0.5 * other]))


@pytest.mark.parametrize("objective", [Iwae(3, "dreg"), Iwae(1, "stl"), Iwae(1, "dreg"), Iwae(3, "dreg", 1)])
def test_gradients_without_the_score_of_q_keep_that_of_the_prior(objective: Iwae) -> None:
    """Where prior and posterior share their parameters, unbiased gradients have the mean of the whole derivative."""
    vae = SharedVAE()
    image = vae.draw_images(1, seed=0)
    vae.set_posterior(image, shift=0.3, widening=0.4)
    means, errors = [], []
    for each in (Iwae(objective.samples), objective):
        generator, found = Generator().manual_seed(5), []
        for _ in range(700):
            vae.set_posterior(image, shift=0.3, widening=0.4)
            torch.autograd.backward(each.loss(vae, image, generator, autocast=False).objective)
            assert vae.mean.grad is not None
            assert vae.log_variance.grad is not None
            found.append(torch.cat([vae.mean.grad[0], vae.log_variance.grad[0]]))
        stacked = torch.stack(found)
        means.append(stacked.mean(0))
        errors.append(stacked.std(0) / math.sqrt(len(found)))
    assert ((means[0] - means[1]).abs() < 4.5 * (errors[0] ** 2 + errors[1] ** 2).sqrt()).all()


class TestServed:
    def test_numpy_and_torch_have_one_density(self) -> None:
        vae = build()
        latents = simulate(vae, 50, Generator().manual_seed(0)).latents
        numbers = TorchModel(vae).prior.log_density(latents.numpy())
        np.testing.assert_allclose(numbers, vae.prior().log_density(latents).numpy(), rtol=1e-5, atol=1e-5)

    def test_components_are_the_posteriors_of_the_pseudo_inputs(self, finished: RunFolder) -> None:
        model, _ = load_best(finished)
        mean, log_variance = prior_components(model.vae)
        assert mean.shape == log_variance.shape == (COMPONENTS, 3)
        assert mean.dtype == log_variance.dtype == np.float32
        assert model.vae.pseudo_inputs is not None
        wanted = model.encode(model.vae.pseudo_inputs().numpy())
        np.testing.assert_allclose(mean, wanted.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(log_variance, wanted.log_variance, rtol=1e-5, atol=1e-5)
        prior = served.Mixture(mean, log_variance)
        assert prior.draw(3, seed=1).shape == (3, 3)

    def test_what_a_card_says_of_it(self) -> None:
        config = config_of(components=500)
        assert anatomy.prior(config.model.prior, 3) == (
            "VampPrior (Tomczak and Welling, 2018) over 3 dimensions: the mean of the posteriors of 500 learned images"
        )
        assert anatomy.prior_parameters(config.model.prior, config.image) == 500 * 64
        assert anatomy.prior_parameters(digits_config().model.prior, config.image) == 0
        assert "rate is KL(q(z|x) || p(z)) estimated from the same latent" in paragraph(
            config.objective, closed_rate=False
        )

    def test_nothing_of_it_is_lowered_yet(self, finished: RunFolder) -> None:
        """What is measured of a lowered bundle takes N(0, I) for granted."""
        model, step = load_best(finished)
        config = finished.config()
        latent = LatentSpec(dim=3)
        manifest = Manifest(
            name="vamp",
            version="1",
            created=datetime(2025, 1, 1, tzinfo=UTC),
            image=config.image,
            latent=latent,
            prior=PriorSpec(family="vamp", components=COMPONENTS),
            likelihood=LikelihoodSpec(family="bernoulli"),
            graphs=graph_signatures(config.image, latent),
        )
        images = load_training(config.data, config.image, seed=config.seed)
        with pytest.raises(ExportError, match="float16 is measured under a standard normal prior"):
            lower("float16", model, {}, manifest, *images, also=np.arange(2), seed=0, step=step)

    def test_of_the_standard_normal_there_are_none(self) -> None:
        config = digits_config()
        model = TorchModel(VAE(config.model, config.image.shape))
        assert model.prior == served.StandardNormal(3)
        np.testing.assert_array_equal(model.prior.draw(4, seed=2), prior_latents(4, 3, seed=2))
        with pytest.raises(ValueError, match="no components"):
            prior_components(model.vae)
