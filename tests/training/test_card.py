"""The card says what was measured and how, and says so where nothing was."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from model.bundle.manifest import LatentSpec, LikelihoodSpec, Manifest, graph_signatures
from model.bundle.measurements import (
    Annealing,
    AnnealingProtocol,
    Bound,
    EffectiveSampleSize,
    Estimate,
    GapsProtocol,
    InferenceGaps,
    Metrics,
    Protocol,
)
from training.card import Facts, model_card
from training.config import check
from training.provenance import Provenance, Resumption

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _facts(
    *,
    likelihood: dict[str, Any],
    binarization: str = "none",
    metrics: Metrics | None = None,
    network: dict[str, Any] | None = None,
    channels: int = 1,
    scales: tuple[float, ...] | None = None,
) -> Facts:
    config = check(
        {
            "name": "waves",
            "seed": 7,
            "image": {"height": 28, "width": 20, "channels": channels},
            "model": {
                "latent_dim": 2,
                "network": network or {"kind": "mlp", "hidden": [30, 40]},
                "likelihood": likelihood,
            },
            "data": {"source": "arrays", "path": "/home/someone/secret/waves.npz", "binarization": binarization},
            "optimization": {"epochs": 12, "batch_size": 16, "early_stopping": 5},
        },
        "test",
    )
    latent = LatentSpec(dim=2)
    scale = likelihood.get("scale", 0.25) if likelihood["family"] == "gaussian" else None
    manifest = Manifest(
        name="waves",
        version="3",
        created=datetime(2030, 1, 2, tzinfo=UTC),
        git_commit=COMMIT,
        image=config.image,
        latent=latent,
        likelihood=LikelihoodSpec.model_validate(
            {"family": likelihood["family"], "scale": scale, "scales": scales, "binarization": binarization}
        ),
        graphs=graph_signatures(config.image, latent),
        metrics=metrics,
    )
    provenance = Provenance(
        started="2030-01-01T00:00:00+00:00",
        git_commit=COMMIT,
        python="3.13.1",
        platform="Someone's-laptop",
        libraries={"torch": "2.13.0", "numpy": "2.4.6"},
        device="cpu",
        threads=2,
        precision="float32",
        seed=7,
        data={"name": "waves", "training": "a" * 64, "validation": "b" * 64},
    )
    return Facts(
        config, manifest, provenance, 1234, 56, {"encoder": 98765, "decoder": 4321, "posterior": 0}, 777, COMMIT
    )


def _metrics(binarization: Any, *, likelihood: bool, discrete: bool) -> Metrics:
    def about(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.5, high=value + 0.5)

    return Metrics(
        rate=about(20.0),
        distortion=about(61.0),
        negative_elbo=about(81.0),
        negative_log_likelihood=about(79.0) if likelihood else None,
        effective_sample_size=EffectiveSampleSize(mean=45.6, minimum=1.2) if likelihood else None,
        active_units=1,
        kl_per_dimension=(19.5, 0.5),
        reconstruction_error=Estimate(value=0.0123, low=0.0121, high=0.0125),
        bits_per_dim=Estimate(value=0.2035, low=0.2, high=0.21) if discrete else None,
        protocol=Protocol(
            dataset="waves",
            split="test",
            images=10000,
            binarization=binarization,
            importance_samples=5000,
            seed=7,
            git_commit="f" * 40,
        ),
    )


def test_every_measured_number_stands_beside_its_protocol() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    card = model_card(_facts(likelihood={"family": "bernoulli"}, binarization="dynamic", metrics=metrics))
    assert "On 10,000 images of the test split of waves, dynamic binarization, 5,000 importance samples" in card
    assert "95% confidence interval" in card
    assert "| -ELBO = rate + distortion | 81.00 | 80.50 to 81.50 | nats per image |" in card
    assert "| -L_5000, upper bound of -log p(x) | 79.00 | 78.50 to 79.50 | nats per image |" in card
    assert "| -L_5000 in bits | 0.2035 | 0.2000 to 0.2100 | bits per dimension |" in card
    assert "| squared error of decode(mean), of grey values not binarized | 0.01230 | 0.01210 to 0.01250 | per" in card
    assert "| effective sample size, mean | 45.6 | smallest 1.2 | of 5000 samples |" in card
    assert "| 1 | | of 2 dimensions |" in card
    assert f"| measured from commit | {'f' * 40} |" in card


def _annealing(metrics: Metrics, *, initial: str = "posterior", simulated: str = "posterior") -> Annealing:
    return Annealing(
        negative_log_likelihood=Estimate(value=78.5, low=78.0, high=79.0),
        bits_per_dim=Estimate(value=0.2022, low=0.2, high=0.205),
        difference=Estimate(value=0.51, low=0.25, high=0.77),
        effective_sample_size=EffectiveSampleSize(mean=9.9, minimum=2.2, few=0.5),
        acceptance_rate=0.648,
        gap=Estimate(value=0.04, low=0.01, high=0.07),
        protocol=AnnealingProtocol.model_validate(
            metrics.protocol.model_dump()
            | {"images": 100, "chains": 16, "temperatures": 300, "leapfrog_steps": 10, "initial": initial}
            | {"simulated_images": 100, "simulated_initial": simulated}
        ),
    )


def _gaps(metrics: Metrics, *, last_half: float = 0.01, richer: bool = True) -> InferenceGaps:
    def about(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.125, high=value + 0.125)

    return InferenceGaps(
        negative_log_likelihood=about(78.5),
        total=about(5.5),
        approximation=about(2.25),
        amortization=about(3.25),
        diagonal=about(4.0) if richer else None,
        gain=about(1.75) if richer else None,
        last_half=about(last_half),
        protocol=GapsProtocol.model_validate(
            metrics.protocol.model_dump()
            | {"images": 100, "steps": 1000, "latents": 16, "learning_rate": 0.02, "reference": "annealing"}
        ),
    )


def _card(metrics: Metrics, **parts: Annealing | InferenceGaps) -> str:
    facts = _facts(likelihood={"family": "bernoulli"}, binarization="dynamic", metrics=metrics.model_copy(update=parts))
    return model_card(facts)


def test_annealing_stands_with_its_protocol_and_with_what_it_makes_of_the_bound() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    assert "Annealed importance sampling" not in _card(metrics)
    card = _card(metrics, annealing=_annealing(metrics))
    assert "### Annealed importance sampling" in card
    assert "100 images of the test split, seed 7; 16 chains an image from the encoder's posterior, 300 temp" in card
    assert "| -log p(x) by annealing | 78.50 | 78.00 to 79.00 | nats per image |" in card
    assert "| annealing less L_5000 | +0.51 | +0.25 to +0.77 | nats per image |" in card
    assert "| gap of both bounds, simulated images | 0.04 | 0.01 to 0.07 | nats per image |" in card
    assert "| effective sample size, mean | 9.9 | smallest 2.2 | of 16 |" in card
    assert "| acceptance rate, mean | 0.65 |" in card
    assert "their chains from" not in card
    other = _card(metrics, annealing=_annealing(metrics, simulated="prior"))
    assert "100 simulated images, their chains from the prior." in other
    assert "which a flow does not shorten" in other
    assert "is the tighter one" not in other
    looser = _annealing(metrics).model_copy(update={"difference": Estimate(value=-0.2, low=-0.4, high=0.0)})
    assert "Both are lower bounds, and L_5000 is the tighter one here" in _card(metrics, annealing=looser)


def test_the_curve_of_bounds_has_each_k_that_was_measured() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    assert "as k grows" not in _card(metrics)
    curve = tuple(
        Bound(importance_samples=k, negative=Estimate(value=value, low=value - 0.5, high=value + 0.25))
        for k, value in ((1, 81.0), (100, 79.5), (5000, 79.0))
    )
    card = _card(metrics.model_copy(update={"bounds": curve}))
    title, _, rest = card.partition("### The bound L_k as k grows\n\n")[2].partition("\n\n")
    assert title == "The same images, and the same 5,000 importance samples of each, in groups of k."
    assert rest.partition("\n\n")[0].splitlines()[2:] == [
        "| -L_1 | 81.00 | 80.50 to 81.25 | nats per image |",
        "| -L_100 | 79.50 | 79.00 to 79.75 | nats per image |",
        "| -L_5000 | 79.00 | 78.50 to 79.25 | nats per image |",
    ]
    # One point is no curve.
    assert "as k grows" not in _card(metrics.model_copy(update={"bounds": curve[:1]}))


def test_gaps_stand_with_what_log_likelihood_they_are_from() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    card = _card(metrics, gaps=_gaps(metrics))
    assert "### Gaps of inference" in card
    assert "log p(x) is annealing, the tightest bound at hand; 1,000 steps of Adam an image, 16 latents" in card
    for row in ("total gap: log p(x) - ELBO | 5.50 | 5.38 to 5.62", "approximation gap: best of the family | 2.25"):
        assert f"| {row}" in card
    assert "| amortization gap: the rest | 3.25 |" in card
    assert "| approximation gap: best diagonal Gaussian | 4.00 |" in card
    assert "| what the family saves of that | +1.75 |" in card
    assert "still gained" not in card
    assert "diagonal Gaussian |" not in _card(metrics, gaps=_gaps(metrics, richer=False))
    assert "still gained 0.40 nats in the second half" in _card(metrics, gaps=_gaps(metrics, last_half=0.4))


def test_a_bound_of_few_effective_samples_is_warned_of() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    assert "a few latents make" not in _card(metrics)
    few = metrics.model_copy(update={"effective_sample_size": EffectiveSampleSize(mean=45.6, minimum=1.2, few=0.23)})
    assert "below 10 for 23% of the images: there a few latents make L_5000" in _card(few)


def test_without_metrics_it_says_that_nothing_was_measured() -> None:
    card = model_card(_facts(likelihood={"family": "bernoulli"}, binarization="static"))
    assert "Nothing was measured" in card
    assert "nats per image |" not in card
    assert "measured from commit" not in card


def test_densities_are_not_passed_off_as_probabilities() -> None:
    metrics = _metrics("none", likelihood=True, discrete=False)
    card = model_card(_facts(likelihood={"family": "gaussian"}, metrics=metrics))
    assert "do not compare with discrete likelihoods" in card
    assert "| squared error of decode(mean) | 0.01230 |" in card
    assert "in bits" not in card
    assert "one scale of 0.25 (learned)" in card


@pytest.mark.parametrize(
    ("likelihood", "scales", "words"),
    [
        ({"family": "continuous-bernoulli"}, None, "continuous Bernoulli (Loaiza-Ganem and Cunningham, 2019)"),
        ({"family": "discretized-logistic"}, (0.05,), "scales: 0.05 on [0, 1], learned, one a channel"),
        ({"family": "discretized-logistic", "scale_per": "pixel"}, None, "scales: of each value from the decoder"),
        ({"family": "categorical"}, None, "a probability for each of the 256 levels"),
    ],
)
def test_bits_are_told_of_probabilities_only(
    likelihood: dict[str, Any], scales: tuple[float, ...] | None, words: str
) -> None:
    discrete = likelihood["family"] != "continuous-bernoulli"
    metrics = _metrics("none", likelihood=True, discrete=discrete)
    card = model_card(_facts(likelihood=likelihood, scales=scales, metrics=metrics))
    assert words in card
    assert ("| -L_5000 in bits | 0.2035 |" in card) == discrete
    assert ("Bits per dimension compare with those of other models of the same 8-bit images" in card) == discrete
    assert ("do not compare with discrete likelihoods" in card) != discrete


def test_a_fixed_scale_is_called_fixed() -> None:
    assert "one scale of 0.1 (fixed)" in model_card(_facts(likelihood={"family": "gaussian", "scale": 0.1}))


def test_grey_pixels_under_a_bernoulli_are_no_likelihood() -> None:
    metrics = _metrics("none", likelihood=False, discrete=False)
    card = model_card(_facts(likelihood={"family": "bernoulli"}, metrics=metrics))
    assert "nothing in this table is, or bounds, a likelihood" in card
    assert "-L_" not in card
    assert "in bits" not in card
    assert "effective sample size" not in card


def test_it_says_what_the_model_is_and_where_it_comes_from() -> None:
    card = model_card(_facts(likelihood={"family": "bernoulli"}, binarization="dynamic"))
    for fact in (
        "# waves 3\n",
        "28x20 grey images",
        "1,234 images to train on and 56 validation images",
        "fully connected, 30 and 40 hidden units, tanh | 98,765 |",
        "4,321",
        "12 epochs at most, batches of 16",
        "warm-up over 92 steps",  # a tenth of 12 epochs of 77 batches
        "ending after 5 validations without improvement",
        "of step 777",
        "vae serve --model BUNDLE",
        "curl",
        COMMIT,
        "torch 2.13.0, numpy 2.4.6",
        "| seed | 7 |",
        "cpu, 2 threads, networks in float32",
        "a" * 64,
    ):
        assert fact in card, fact


@pytest.mark.parametrize(
    ("objective", "minimizes", "chosen"),
    [
        (None, "Minimizes -ELBO = distortion + rate, with one latent an image: ", "-ELBO"),
        ({"kind": "elbo", "beta": 4.0}, "Minimizes distortion + 4 rate, with one latent an image: ", "-ELBO"),
        ({"kind": "iwae", "samples": 5}, "Minimizes -L_5, the importance-weighted bound", "-L_5"),
    ],
)
def test_it_says_what_was_minimized_and_what_chose_the_weights(
    objective: dict[str, Any] | None, minimizes: str, chosen: str
) -> None:
    facts = _facts(likelihood={"family": "bernoulli"}, binarization="dynamic")
    if objective is not None:
        document = facts.config.model_dump(mode="json") | {"objective": objective}
        facts = replace(facts, config=check(document, "test"))
    card = model_card(facts)
    assert minimizes in card
    assert f"with the lowest validation {chosen}, of step 777" in card
    assert ("neither is weighted" in card) == (objective is None)


def test_one_is_not_called_several() -> None:
    facts = _facts(likelihood={"family": "bernoulli"})
    one = facts.config.optimization.model_copy(update={"epochs": 1, "early_stopping": 1, "warmup_steps": 1})
    card = model_card(replace(facts, config=facts.config.model_copy(update={"optimization": one})))
    assert "1 epoch at most" in card
    assert "warm-up over 1 step," in card
    assert "ending after 1 validation without" in card


def test_the_name_of_a_folder_is_not_taken_for_what_is_in_it() -> None:
    card = model_card(_facts(likelihood={"family": "bernoulli"}))
    assert "images like those it was trained on; teaching" in card
    assert "images like those it was trained on and nothing else" in card
    assert card.count("waves") == 2  # the title, and the data


def test_training_that_is_not_finished_is_said() -> None:
    facts = _facts(likelihood={"family": "bernoulli"})
    assert "not finished" not in model_card(facts)
    assert "it stood at step 800 of 924." in model_card(replace(facts, stopped=800))


def test_every_commit_that_trained_is_named_once() -> None:
    facts = _facts(likelihood={"family": "bernoulli"})
    again = tuple(Resumption(started="2030-01-02", git_commit=commit, step=1) for commit in (COMMIT, "b" * 40))
    facts = replace(facts, provenance=facts.provenance.model_copy(update={"resumed": again}))
    assert f"| trained from commit | {COMMIT}, then {'b' * 40} |" in model_card(facts)


def test_it_names_no_folder_and_no_machine() -> None:
    card = model_card(_facts(likelihood={"family": "bernoulli"}))
    assert "secret" not in card
    assert "laptop" not in card


def test_convolutional_networks_in_color() -> None:
    conv = {"kind": "conv", "channels": 16, "max_channels": 32, "blocks": 2, "hidden": 99}
    card = model_card(_facts(likelihood={"family": "gaussian"}, network=conv, channels=3))
    assert "28x20 color images" in card
    assert "28x20, 14x10, 7x5, 4x3 pixels, 16 to at most 32 channels, residual blocks at each size: 2" in card
    assert "| decoder | convolutional: 99 hidden units, then the encoder's sizes, channels and residual blocks" in card
    assert "layers in reverse" not in card
    assert "[N, 3, 28, 20]" in card


def test_gated_convolutional_networks() -> None:
    card = model_card(_facts(likelihood={"family": "gaussian"}, network={"kind": "gated-conv", "channels": 16}))
    assert "16 and 32 channels, kernels of 5x5 and the last of 7x5, then 256 features | 98,765 |" in card
    assert "| decoder | gated transposed convolutions of 32 and 16 channels" in card


def test_residual_networks() -> None:
    network = {"kind": "resnet", "channels": 16, "multipliers": [1, 2, 3], "blocks": 4}
    card = model_card(_facts(likelihood={"family": "gaussian"}, network=network))
    assert "residual, 28x20, 14x10, 7x5 pixels with 16, 32, 48 channels, residual blocks at each size: 4 |" in card
    assert "| decoder | residual: the encoder's sizes, channels and residual blocks in reverse" in card


def test_a_fully_connected_decoder_is_the_encoder_in_reverse() -> None:
    assert "| decoder | the encoder's layers in reverse | 4,321 |" in model_card(
        _facts(likelihood={"family": "bernoulli"})
    )


@pytest.mark.parametrize("commit", [None, "abc"])
def test_the_same_facts_give_the_same_text(commit: str | None) -> None:
    facts = replace(_facts(likelihood={"family": "bernoulli"}), exported_from=commit)
    assert model_card(facts) == model_card(facts)
    assert f"| exported from commit | {commit or 'not known'} |" in model_card(facts)


def test_tables_have_as_many_cells_in_every_row() -> None:
    metrics = _metrics("dynamic", likelihood=True, discrete=True)
    card = _card(metrics, annealing=_annealing(metrics), gaps=_gaps(metrics))
    for block in card.split("\n\n"):
        rows = [row.replace("\\|", "/") for row in block.splitlines() if row.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
