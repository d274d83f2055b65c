"""What a manifest may say."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from model.bundle.manifest import (
    NAME_PATTERN,
    ImageSpec,
    LatentSpec,
    LikelihoodSpec,
    Manifest,
    PriorSpec,
    graph_signatures,
)
from model.bundle.measurements import Estimate, Metrics, Protocol

IMAGE, LATENT = ImageSpec(height=28, width=20, channels=1), LatentSpec(dim=2)
NATS = Estimate(value=80.0, low=79.5, high=80.5)
METRICS = Metrics(
    rate=NATS,
    distortion=NATS,
    negative_elbo=NATS,
    active_units=2,
    kl_per_dimension=(1.5, 0.0),
    reconstruction_error=NATS,
    protocol=Protocol(dataset="MNIST", split="test", images=10_000, binarization="dynamic", seed=0),
)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0",
        "created": datetime(2025, 1, 1, tzinfo=UTC),
        "image": IMAGE,
        "latent": LATENT,
        "likelihood": LikelihoodSpec(family="gaussian", scale=0.1),
        "graphs": graph_signatures(IMAGE, LATENT),
    }
    return Manifest.model_validate(values | changes)


@pytest.mark.parametrize("metrics", [None, METRICS])
def test_json_and_back_is_the_identity(metrics: Metrics | None) -> None:
    there = manifest(metrics=metrics, files={"a.onnx": "0" * 64})
    assert Manifest.model_validate_json(there.model_dump_json(), strict=True) == there


def test_a_manifest_from_before_there_were_precisions_is_one_of_float32() -> None:
    raw = json.loads(manifest().model_dump_json())
    del raw["precision"]
    assert Manifest.model_validate_json(json.dumps(raw), strict=True).precision is None


def test_a_manifest_from_before_there_were_priors_is_one_of_the_standard_normal() -> None:
    raw = json.loads(manifest().model_dump_json())
    del raw["prior"]
    assert Manifest.model_validate_json(json.dumps(raw), strict=True).prior == PriorSpec()


def test_under_a_mixture_the_rate_is_no_sum_over_dimensions() -> None:
    undivided = METRICS.model_copy(update={"kl_per_dimension": ()})
    vamp = PriorSpec(family="vamp", components=500)
    assert manifest(prior=vamp, metrics=undivided).metrics == undivided
    for prior, metrics in ((vamp, METRICS), (PriorSpec(), undivided)):
        with pytest.raises(ValidationError, match="kl_per_dimension"):
            manifest(prior=prior, metrics=metrics)


def keys(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths to all objects in a JSON value but the free dictionaries."""
    if isinstance(value, list):
        return [path for i, item in enumerate(value) for path in keys(item, (*at, i))]
    if not isinstance(value, dict) or at[-1:] in (("files",), ("libraries",)):
        return []
    return [at] + [path for key, item in value.items() for path in keys(item, (*at, key))]


@pytest.mark.parametrize("path", keys(json.loads(manifest(metrics=METRICS).model_dump_json())))
def test_unknown_keys_are_refused_everywhere(path: tuple[str | int, ...]) -> None:
    raw = json.loads(manifest(metrics=METRICS).model_dump_json())
    target = raw
    for key in path:
        target = target[key]
    target["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        Manifest.model_validate(raw)


@pytest.mark.parametrize("field", Manifest.model_fields)
def test_manifests_are_frozen(field: str) -> None:
    with pytest.raises(ValidationError):
        setattr(manifest(), field, None)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="aZ0._-/\\ \n\0é", max_size=8) | st.from_regex(NAME_PATTERN) | st.just("a" * 64))
def test_names_are_safe_in_paths_urls_and_headers(name: str) -> None:
    allowed = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) is not None
    for key in ("name", "version"):
        if allowed:
            assert getattr(manifest(**{key: name}), key) == name
        else:
            with pytest.raises(ValidationError):
                manifest(**{key: name})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "A", "a" * 65, "a\n", "a b", "é"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError):
        manifest(name=name)


IMAGE_JSON = IMAGE.model_dump()
METRICS_JSON = METRICS.model_dump()


@pytest.mark.parametrize(
    ("model", "raw", "message"),
    [
        (ImageSpec, IMAGE_JSON | {"height": 7}, "height"),
        (ImageSpec, IMAGE_JSON | {"width": 257}, "width"),
        (ImageSpec, IMAGE_JSON | {"channels": 2}, "channels"),
        (ImageSpec, IMAGE_JSON | {"background": (0, 0, 256)}, "background"),
        (ImageSpec, IMAGE_JSON | {"fit": "squeeze"}, "fit"),
        (LatentSpec, {"dim": 0}, "dim"),
        (PriorSpec, {"family": "flow"}, "family"),
        (PriorSpec, {"family": "vamp"}, "number of components"),
        (PriorSpec, {"family": "vamp", "components": 0}, "components"),
        (PriorSpec, {"components": 3}, "number of components"),
        (LikelihoodSpec, {"family": "poisson"}, "family"),
        (LikelihoodSpec, {"family": "gaussian"}, "needs its scale"),
        (LikelihoodSpec, {"family": "gaussian", "scale": 0.0}, "scale"),
        (LikelihoodSpec, {"family": "gaussian", "scale": float("inf")}, "scale"),
        (LikelihoodSpec, {"family": "gaussian", "scale": 1.0, "binarization": "dynamic"}, "no binarization"),
        (LikelihoodSpec, {"family": "bernoulli", "scale": 1.0}, "no scale"),
        (LikelihoodSpec, {"family": "continuous-bernoulli", "scale": 1.0}, "no scale"),
        (LikelihoodSpec, {"family": "categorical", "scales": [1.0]}, "no scales"),
        (LikelihoodSpec, {"family": "discretized-logistic", "scales": [0.0]}, "scales"),
        (LikelihoodSpec, {"family": "discretized-logistic", "binarization": "static"}, "no binarization"),
        (LikelihoodSpec, {"family": "categorical", "binarization": "dynamic"}, "no binarization"),
        (Metrics, METRICS_JSON | {"active_units": -1}, "active_units"),
        (Metrics, METRICS_JSON | {"rate": {"value": float("nan"), "low": 0.0, "high": 0.0}}, "rate.value"),
    ],
)
def test_specs_out_of_bounds_are_refused(model: type[BaseModel], raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"created": "2025-01-01T00:00:00"}, "timezone"),
        ({"image": ImageSpec(height=28, width=28, channels=1)}, "signatures"),
        ({"latent": LatentSpec(dim=3)}, "signatures"),
        ({"posterior": {"family": "flow"}}, "posterior"),
        ({"files": {"../a": "0" * 64}}, "files"),
        ({"files": {".a": "0" * 64}}, "files"),
        ({"files": {"a": "0" * 63}}, "files"),
        ({"files": {"a": "G" * 64}}, "files"),
        ({"files": {"manifest.json": "0" * 64}}, "list the manifest"),
        ({"metrics": METRICS.model_copy(update={"kl_per_dimension": (1.0,)})}, "kl_per_dimension"),
        (
            {"likelihood": LikelihoodSpec(family="discretized-logistic", scales=(0.1,) * 2)},
            "one number for each channel",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(**changes)


def test_the_pattern_is_the_documented_one() -> None:
    assert NAME_PATTERN == "^[a-z0-9][a-z0-9._-]{0,63}$"
