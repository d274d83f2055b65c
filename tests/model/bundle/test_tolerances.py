"""A bundle of reduced precision is held to what was recorded of it, and what may be recorded is bounded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import load, numpy_helper, save
from pydantic import ValidationError

from model.bundle.errors import BundleError
from model.bundle.manifest import DECODER, ENCODER
from model.bundle.precision import LIMITS, Lower, Precision
from model.bundle.runtime import RuntimeOptions
from model.bundle.store import open_bundle
from model.bundle.tolerances import deviations, within
from tests.support.tiny import rewrite, write_tiny_bundle

ONE_THREAD = RuntimeOptions(threads=1)
ESTIMATE = {"value": 0.1, "low": 0.05, "high": 0.15}
PROTOCOL = {"dataset": "waves", "split": "validation", "images": 9, "binarization": "none", "seed": 0}


def recorded(kind: Lower = "int8", *, largest: float = 0.02, average: float = 0.01) -> dict[str, Any]:
    """A manifest's precision, as JSON has it, with one deviation for all outputs."""
    deviation = {"largest": largest, "mean": average / 2, "worst_average": average}
    return {
        "kind": kind,
        "parity": {"mean": deviation, "log_variance": deviation, "pixel": deviation, "images": 9},
        "negative_elbo_difference": ESTIMATE,
        "protocol": PROTOCOL,
        "calibration": {"images": 5, "seed": 0} if kind == "int8" else None,
        "speed": {"processor": "a CPU", "library": "ONNX Runtime 1.32.0", "threads": 1, "timings": []},
    }


def precision(**options: Any) -> Precision:
    return Precision.model_validate(recorded(**options))


def tiny(folder: Path, declared: dict[str, Any] | None, *, scale: float = 1.0, graph: str = ENCODER) -> Path:
    """A tiny bundle that declares a precision, with the weights of one graph times `scale`."""
    write_tiny_bundle(folder)
    model = load(folder / graph)
    for tensor in model.graph.initializer:
        if tensor.name in "ABW":
            tensor.CopyFrom(numpy_helper.from_array(scale * numpy_helper.to_array(tensor), tensor.name))
    save(model, folder / graph)
    rewrite(folder, lambda raw: raw.update(precision=declared))
    return folder


@pytest.mark.parametrize("graph", [ENCODER, DECODER])
def test_a_slightly_different_graph_opens_only_where_it_is_declared(tmp_path: Path, graph: str) -> None:
    """What a reduced graph is a little off by is no reason to refuse it, and in float32 it is one."""
    opened = open_bundle(tiny(tmp_path / "declared", recorded(), scale=1.01, graph=graph), ONE_THREAD)
    assert opened.manifest.precision == precision()
    with pytest.raises(BundleError, match="differs from the golden sample"):
        open_bundle(tiny(tmp_path / "silent", None, scale=1.01, graph=graph), ONE_THREAD)


@pytest.mark.parametrize("graph", [ENCODER, DECODER])
def test_a_broken_graph_is_refused_whatever_is_declared(tmp_path: Path, graph: str) -> None:
    most = recorded(largest=LIMITS["int8"]["pixel"].largest, average=LIMITS["int8"]["pixel"].average)
    for number, declared in enumerate((recorded(), most)):
        for scale in (-3.0, float("nan")):
            with pytest.raises(BundleError, match="differs from the golden sample"):
                open_bundle(tiny(tmp_path / f"{number} {scale}", declared, scale=scale, graph=graph), ONE_THREAD)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_manifest_cannot_declare_what_it_likes(kind: Lower) -> None:
    limit = LIMITS[kind]["pixel"]
    assert precision(kind=kind, largest=limit.largest, average=limit.average)
    for options in ({"largest": 1.01 * limit.largest}, {"largest": limit.largest, "average": 1.01 * limit.average}):
        with pytest.raises(ValidationError, match=f"the deviation of .* is more than {kind} graphs may have"):
            precision(kind=kind, **options)


def test_only_int8_is_calibrated() -> None:
    for kind, other in (("int8", "float16"), ("float16", "int8")):
        with pytest.raises(ValidationError, match="calibrated"):
            Precision.model_validate({**recorded(kind), "calibration": recorded(other)["calibration"]})  # type: ignore[arg-type]


def test_twice_what_was_recorded_passes_by_number_and_on_average() -> None:
    wanted = np.zeros((3, 20), np.float32)
    one, all_numbers = wanted.copy(), wanted.copy()
    one[1, 4] = 0.04
    all_numbers[2] = 0.02
    for found in (one, all_numbers, wanted):
        assert within("mean", found, wanted, precision())
    for found in (one * 1.2, all_numbers * 1.2, wanted + np.nan):
        assert not within("mean", found.astype(np.float32), wanted, precision())


def test_twice_what_was_recorded_is_no_way_beyond_the_limit() -> None:
    limit = LIMITS["int8"]["pixel"]
    most = precision(largest=limit.largest, average=limit.average)
    wanted = np.zeros((2, 1, 8, 8), np.float32)
    assert within("pixel", wanted + np.float32(limit.average), wanted, most)
    assert not within("pixel", wanted + np.float32(1.1 * limit.average), wanted, most)


def test_latents_are_compared_by_their_size_and_pixels_are_not() -> None:
    found, wanted = np.full((1, 2), 11, np.float32), np.full((1, 2), 10, np.float32)
    assert deviations("log_variance", found, wanted).tolist() == [[0.1, 0.1]]
    assert deviations("pixel", found, wanted).tolist() == [[1.0, 1.0]]
