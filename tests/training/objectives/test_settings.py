"""The `[objective]` section of a configuration: what it says, what it refuses, and what its absence means."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.digits import digits_config, digits_document
from training.config import RunConfig, check, load
from training.errors import ConfigError
from training.objectives.settings import ElboSettings

TOML = """
name = "small"
[image]
height = 8
width = 8
channels = 1
[model]
latent_dim = 2
network = { kind = "mlp", hidden = [8] }
likelihood = { family = "bernoulli" }
[data]
source = "digits"
binarization = "dynamic"
[optimization]
epochs = 1
"""
OBJECTIVES: list[dict[str, Any]] = [
    {"kind": "elbo", "beta": 4.0, "distortion_weight": 0.5, "free_bits": 0.1},
    {"kind": "elbo", "schedule": {"kind": "warmup", "over_epochs": 0.5}},
    {"kind": "elbo", "schedule": {"kind": "cyclical", "cycles": 3, "rising": 0.25}},
    {"kind": "iwae", "samples": 50, "gradient": "stl"},
    {"kind": "beta-tc", "alpha": 0.0, "beta": 6.0, "gamma": 2.0},
    {"kind": "autoencoder"},
]


def write(folder: Path) -> Path:
    """A file that says nothing of an objective."""
    (folder / "small.toml").write_text(TOML, encoding="utf-8")
    return folder / "small.toml"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_is_read_as_it_is_written_and_survives_json(objective: dict[str, Any]) -> None:
    config = digits_config(objective=objective)
    written = config.model_dump(mode="json")["objective"]
    assert written | objective == written
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_of_a_file_that_has_none_is_the_elbo(tmp_path: Path) -> None:
    """As it was before there were others; so is that of an older config.json."""
    config = load(write(tmp_path))
    assert config.objective.model_dump() == {
        "kind": "elbo",
        "beta": 1.0,
        "distortion_weight": 1.0,
        "free_bits": 0.0,
        "schedule": {"kind": "constant"},
    }
    document = json.loads(config.model_dump_json())
    del document["objective"]
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(document), encoding="utf-8")
    assert load(stored) == config
    assert RunConfig.model_validate_json(stored.read_text(encoding="utf-8")) == config


def test_can_be_set_and_stays_what_it_is_in_a_config_json(tmp_path: Path) -> None:
    config = load(write(tmp_path), ["objective.kind=elbo", "objective.beta=4"])
    stored = tmp_path / "config.json"
    stored.write_text(config.model_dump_json(), encoding="utf-8")
    assert load(stored) == config
    assert load(stored, ["objective.beta=2"]).objective == ElboSettings(kind="elbo", beta=2)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"kind": "elbo", "beta": -1.0}, r"objective\.beta must be 0\.0 or more"),
        ({"kind": "elbo", "samples": 5}, r"objective\.samples does not go with 'elbo'"),
        ({"kind": "iwae", "beta": 4.0}, r"objective\.beta does not go with 'iwae'"),
        ({"kind": "iwae", "samples": 0}, r"objective\.samples must be 1 or more"),
        ({"kind": "beta-tc"}, r"objective\.beta is missing"),
        ({"kind": "autoencoder", "beta": 0.0}, r"objective\.beta does not go with 'autoencoder'"),
        ({"kind": "elbo", "beta": 0.0, "distortion_weight": 0.0}, "nothing is minimized"),
        ({"kind": "elbo", "beta": 0.0, "free_bits": 0.1}, "without effect"),
        ({"kind": "elbo", "beta": 0.0, "schedule": {"kind": "warmup", "over_epochs": 1}}, "without effect"),
        ({"kind": "elbo", "schedule": {"kind": "warmup"}}, r"objective\.schedule\.over_epochs is missing"),
        (
            {"kind": "elbo", "schedule": {"kind": "warmup", "over_epochs": 1, "cycles": 2}},
            r"objective\.schedule\.cycles does not go with 'warmup'",
        ),
    ],
)
def test_what_would_be_ignored_or_mean_nothing_is_refused(objective: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        digits_config(objective=objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("posterior", ["diagonal", "full", "planar"])
def test_each_is_refused_the_posteriors_it_is_not_defined_for(objective: dict[str, Any], posterior: str) -> None:
    allowed = {
        "elbo": ("diagonal",) if "free_bits" in objective else ("diagonal", "full", "planar"),
        "iwae": ("diagonal", "full"),  # for a gradient without the score of q
        "beta-tc": ("diagonal",),
        "autoencoder": ("diagonal",),
    }[objective["kind"]]
    document = digits_document() | {"objective": objective}
    document["model"] = document["model"] | {"posterior": {"kind": posterior}}
    if posterior in allowed:
        assert check(document, "test").model.posterior.kind == posterior
    else:
        words = f"is defined for a posterior of kind .*: model.posterior.kind is '{posterior}'"
        with pytest.raises(ConfigError, match=words):
            check(document, "test")


def test_a_batch_of_one_says_nothing_of_the_correlation_of_latents() -> None:
    with pytest.raises(ConfigError, match=r"set optimization\.batch_size to 2 or more"):
        digits_config(objective={"kind": "beta-tc", "beta": 2.0}, optimization={"batch_size": 1})
