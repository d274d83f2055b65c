"""Bundles in less than float32: what they hold, what is recorded of them, and which are refused."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import training.export
from model.bundle.graphs import inspect_graph
from model.bundle.latents import posterior_noise, prior_latents
from model.bundle.manifest import DECODER, ENCODER, LikelihoodSpec
from model.bundle.measurements import Estimate, Metrics, Protocol
from model.bundle.pixels import to_network
from model.bundle.precision import Lower, Precision
from model.bundle.runtime import Bundle, Posterior
from model.bundle.store import open_bundle
from model.bundle.tolerances import deviations
from tests.support.runs import BERNOULLI, CONV, GAUSSIAN, MLP, pictures, write_run
from training.data.load import load_training
from training.errors import ExportError
from training.export import export
from training.precision import lowering, measurement
from training.precision.graphs import float16_graph, int8_graph
from training.precision.measurement import negative_elbo, parity
from training.precision.words import lines
from training.run import RunFolder
from training.trained import TorchModel, load_best
from vae import cli

FLOAT, INT8, INT32, HALF = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT8", "INT32", "FLOAT16"))
KINDS: tuple[Lower, ...] = ("float16", "int8")
# Wide enough that weights outweigh the graph around them.
RUNS: dict[str, dict[str, Any]] = {
    "conv": {"network": {**CONV, "hidden": 64}, "likelihood": BERNOULLI, "binarization": "dynamic"},
    "mlp": {"network": {**MLP, "hidden": [48, 48]}, "likelihood": GAUSSIAN, "shape": (8, 10, 3)},
}


@dataclass(frozen=True)
class Exported:
    run: RunFolder
    float32: Bundle
    bundle: Bundle
    said: str

    @property
    def precision(self) -> Precision:
        assert self.bundle.manifest.precision is not None
        return self.bundle.manifest.precision

    def graph(self, file: str) -> onnx.ModelProto:
        return onnx.load(self.bundle.folder / file)


def exported_as(run: RunFolder, place: Path, kind: Any, float32: Bundle | None = None) -> tuple[Bundle, str]:
    """A run exported in a precision; with the graphs of its bundle in float32, where PyTorch's exporter made them."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for role, spec in float32.manifest.graphs.present().items() if float32 else ():
            data = (float32.folder / spec.file).read_bytes() if float32 else b""
            patch.setattr(training.export, f"{role}_graph", lambda vae, spec, data=data: data)
        export(run, place, "1", kind, data_dir=None, console=Console(file=said, width=500))
    return open_bundle(place), said.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunFolder, Bundle]]:
    folder = tmp_path_factory.mktemp("runs")
    made = {name: write_run(folder / name, **case) for name, case in RUNS.items()}
    return {name: (run, exported_as(run, folder / f"{name}-float32", "float32")[0]) for name, run in made.items()}


@pytest.fixture(scope="module", params=[(kind, name) for kind in KINDS for name in RUNS], ids=" ".join)
def exported(
    request: pytest.FixtureRequest,
    runs: dict[str, tuple[RunFolder, Bundle]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    kind, name = request.param
    run, float32 = runs[name]
    return Exported(run, float32, *exported_as(run, tmp_path_factory.mktemp("exported") / "bundle", kind, float32))


@pytest.fixture
def conv(runs: dict[str, tuple[RunFolder, Bundle]]) -> tuple[RunFolder, Bundle]:
    return runs["conv"]


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "ROUNDS", (1, 1))


def validation_of(run: RunFolder) -> np.ndarray:
    config = run.config()
    return np.asarray(load_training(config.data, config.image, seed=config.seed)[1].images)


# --- what they hold


def test_weights_are_what_the_precision_says_and_the_rest_is_as_ever(exported: Exported) -> None:
    for file in (ENCODER, DECODER):
        graph = exported.graph(file)
        onnx.checker.check_model(graph, full_check=True)
        assert {tensor.type.tensor_type.elem_type for tensor in (*graph.graph.input, *graph.graph.output)} == {FLOAT}
        assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 20)]
        assert not inspect_graph(graph.SerializeToString()).random
        assert (exported.bundle.folder / file).stat().st_size < (exported.float32.folder / file).stat().st_size
        operators = {node.op_type for node in graph.graph.node}
        types = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) > 1}
        if exported.precision.kind == "float16":
            assert types == {HALF}
        else:
            assert {"QuantizeLinear", "DequantizeLinear"} <= operators
            assert INT8 in types
            weights = [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.data_type == INT8]
            assert max(np.abs(each.astype(int)).max() for each in weights) <= 64, "more would saturate without VNNI"
            scales = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("weight_scale")]
            assert scales
            assert all(len(tensor.dims) == 1 and tensor.dims[0] > 1 for tensor in scales), "a scale for each channel"


def test_what_touches_a_latent_is_not_quantized(exported: Exported) -> None:
    if exported.precision.kind != "int8":
        return
    encoder, decoder = exported.graph(ENCODER).graph, exported.graph(DECODER).graph
    names = [node.op_type for node in decoder.node if "latent" in node.input]
    assert names == ["Gemm"], "a latent goes into its layer as it is"
    last = [node for node in encoder.node if node.op_type == "Gemm"][-1]
    assert last.input[1] in {tensor.name for tensor in encoder.initializer if tensor.data_type == FLOAT}
    scales = [tensor for tensor in encoder.initializer if tensor.name.endswith("_scale") and not tensor.dims]
    assert np.float32(1 / 255) in [onnx.numpy_helper.to_array(scale) for scale in scales], (
        "8-bit pixels stay as they are"
    )


def test_latents_far_from_the_prior_are_not_cut_off(exported: Exported) -> None:
    """What calibration never saw: temperatures and traversals reach it."""
    near, far = (np.full((1, exported.bundle.manifest.latent.dim), value, np.float32) for value in (4, 40))
    assert np.abs(exported.bundle.decode(far) - exported.bundle.decode(near)).max() > 0.01


def test_the_same_weights_give_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again, _ = exported_as(exported.run, tmp_path / "again", exported.precision.kind, exported.float32)
    for file in (ENCODER, DECODER, "golden.npz"):
        assert (again.folder / file).read_bytes() == (exported.bundle.folder / file).read_bytes()


def test_the_golden_sample_is_what_float32_gave(exported: Exported) -> None:
    one, other = exported.bundle.golden, exported.float32.golden
    assert all(np.array_equal(getattr(one, field), getattr(other, field)) for field in one._fields)


# --- what is recorded


def test_parity_is_what_it_measures(exported: Exported) -> None:
    model, _ = load_best(exported.run)
    images = to_network(validation_of(exported.run))
    wanted, found = model.encode(images), exported.bundle.encode(images)
    prior = prior_latents(len(images), model.vae.latent_dim, seed=exported.run.config().seed)
    latents = np.concatenate([wanted.mean, prior])
    recorded = exported.precision.parity
    assert recorded.images == len(images)
    for deviation, off in (
        (recorded.mean, deviations("mean", found.mean, wanted.mean)),
        (recorded.log_variance, deviations("log_variance", found.log_variance, wanted.log_variance)),
        (recorded.pixel, deviations("pixel", exported.bundle.decode(latents), model.decode(latents))),
    ):
        assert deviation.largest == pytest.approx(off.max(), rel=0.02)
        assert deviation.mean == pytest.approx(off.mean(), rel=0.02)
        assert deviation.worst_average == pytest.approx(off.mean(axis=1).max(), rel=0.02)
        assert 0 < deviation.mean <= deviation.worst_average <= deviation.largest


def test_the_effect_on_the_elbo_is_of_validation_images_and_paired(exported: Exported) -> None:
    images, likelihood = validation_of(exported.run), exported.bundle.manifest.likelihood
    lost = negative_elbo(exported.bundle, images, likelihood, seed=0) - negative_elbo(
        exported.float32, images, likelihood, seed=0
    )
    effect, protocol = exported.precision.negative_elbo_difference, exported.precision.protocol
    assert effect.value == pytest.approx(lost.mean(), rel=0.05, abs=1e-3)
    assert effect.low < effect.value < effect.high
    assert (protocol.split, protocol.images, protocol.binarization) == (
        "validation",
        len(images),
        likelihood.binarization,
    )


def test_calibration_is_on_training_images(exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = exported.run.config()
    training, _ = load_training(config.data, config.image, seed=config.seed)
    if exported.precision.calibration is None:
        assert exported.precision.kind == "float16"
        return
    assert exported.precision.calibration.images == len(training)  # there are fewer than are wanted
    seen: list[np.ndarray] = []
    inputs = lowering.calibration_inputs

    def watched(model: TorchModel, chosen: np.ndarray, *rest: Any) -> Any:
        seen.append(chosen)
        return inputs(model, chosen, *rest)

    monkeypatch.setattr(lowering, "calibration_inputs", watched)
    monkeypatch.setattr(lowering, "CALIBRATION_IMAGES", 5)
    exported_as(exported.run, tmp_path / "few", "int8", exported.float32)
    assert len(seen[0]) == 5
    assert {image.tobytes() for image in seen[0]} <= {image.tobytes() for image in np.asarray(training.images)}


def test_timings_are_of_both_graphs_on_a_machine_with_a_name(exported: Exported) -> None:
    speed = exported.precision.speed
    assert [(timing.batch, timing.graph) for timing in speed.timings] == [
        (size, graph) for size in (1, 32) for graph in ("encoder", "decoder")
    ]
    assert speed.processor
    assert speed.library.startswith("ONNX Runtime 1.")
    assert f"{speed.processor} ({speed.library}, 1 thread)" in exported.said
    assert f"{speed.processor} ({speed.library}, 1 thread)" in exported.bundle.card()


# --- what is said


def test_terminal_and_card_say_what_it_costs(exported: Exported) -> None:
    effect = exported.precision.negative_elbo_difference
    assert f"-ELBO {effect.value:+.3f} nats an image (95% interval {effect.low:+.3f} to" in exported.said
    card = exported.bundle.card()
    assert f"## Precision: {exported.precision.kind}" in card
    assert f"-ELBO changes by {effect.value:+.3f} nats per image" in card
    assert "of the validation split of" in card
    for block in card.split("\n\n"):
        rows = [row.replace("\\|", "/") for row in block.splitlines() if row.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
    assert "## Precision" not in exported.float32.card()


def test_metrics_of_float32_are_not_passed_off_as_those_of_the_bundle(exported: Exported, tmp_path: Path) -> None:
    nats = Estimate(value=12.25, low=12.0, high=12.5)
    metrics = Metrics(
        rate=nats,
        distortion=nats,
        negative_elbo=nats,
        active_units=2,
        kl_per_dimension=(1.0, 1.0, 1.0),
        reconstruction_error=nats,
        protocol=Protocol(dataset="waves", split="test", images=4, binarization="none", seed=0, step=0),
    )
    exported.run.metrics_file.write_text(metrics.model_dump_json())
    try:
        bundle, _ = exported_as(exported.run, tmp_path / "measured", exported.precision.kind, exported.float32)
    finally:
        exported.run.metrics_file.unlink()
    assert bundle.manifest.metrics == metrics
    assert bundle.manifest.precision is not None
    assert bundle.manifest.precision.metrics_measured_in == "float32"
    measured = bundle.card().partition("## Measured")[2].partition("##")[0]
    assert "not of the graphs in this bundle" in measured.partition("12.25")[0]


@pytest.mark.parametrize("ratio", [0.5, 0.96, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_faster_is_said_in_a_line(exported: Exported, kind: Lower, ratio: float) -> None:
    timings = tuple(timing.model_copy(update={"ratio": ratio}) for timing in exported.precision.speed.timings)
    speed = exported.precision.speed.model_copy(update={"timings": timings})
    warnings = [
        line
        for line in lines(exported.precision.model_copy(update={"speed": speed, "kind": kind}))
        if line.startswith("warning: not faster here: encoder at batch 1, decoder at batch 1")
    ]
    assert len(warnings) == (ratio > 0.95)
    assert all(("GPUs" in line) == (kind == "float16") for line in warnings)


# --- -ELBO in NumPy against the model in torch


@pytest.mark.parametrize("name", RUNS)
def test_negative_elbo_is_that_of_the_model(runs: dict[str, tuple[RunFolder, Bundle]], name: str) -> None:
    run, bundle = runs[name]
    model, _ = load_best(run)
    # Black and white, so that drawing pixels draws what is there.
    images = np.where(validation_of(run) > 127, 255, 0).astype(np.uint8)
    noise = torch.from_numpy(posterior_noise(len(images), 1, model.vae.latent_dim, seed=3)[:, 0])
    with torch.inference_mode():
        wanted = model.vae.elbo(torch.from_numpy(to_network(images)), noise).negative.double().numpy()
    for coder in (bundle, model):
        np.testing.assert_allclose(
            negative_elbo(coder, images, bundle.manifest.likelihood, seed=3), wanted, rtol=1e-4, atol=1e-3
        )


def test_pieces_change_nothing(conv: tuple[RunFolder, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    _, bundle = conv
    images, likelihood = pictures(10, (8, 8, 1)), bundle.manifest.likelihood
    assert likelihood.binarization == "dynamic"
    at_once = negative_elbo(bundle, images, likelihood, seed=0)
    monkeypatch.setattr(measurement, "_PIECE", 3)
    np.testing.assert_allclose(negative_elbo(bundle, images, likelihood, seed=0), at_once, rtol=1e-5)
    assert not np.allclose(negative_elbo(bundle, images, likelihood, seed=1), at_once, rtol=1e-3)


def test_a_pixel_that_is_surely_on_costs_a_finite_number() -> None:
    class Sure:
        def encode(self, images: np.ndarray) -> Posterior:
            return Posterior(*(np.zeros((len(images), width), np.float32) for width in (1, 1, 0)))

        def decode(self, latents: np.ndarray) -> np.ndarray:
            return np.ones((len(latents), 1, 8, 8), np.float32)

    lost = negative_elbo(Sure(), np.zeros((2, 8, 8, 1), np.uint8), LikelihoodSpec(family="bernoulli"), seed=0)
    assert lost == pytest.approx(64 * 24 * np.log(2))


# --- refusals


def ruined(data: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    graph = onnx.load_from_string(data)
    for tensor in graph.graph.initializer:
        if tensor.data_type in (FLOAT, HALF) and len(tensor.dims) > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
    return bytes(graph.SerializeToString())


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            ENCODER,
            r"encoder\.onnx: in float16, its mean deviates from PyTorch by up to [\d.]+, and by [\d.]+ on average",
        ),
        (DECODER, r"decoder\.onnx: in float16, its output image deviates from PyTorch by up to [\d.]+, and by"),
    ],
)
def test_a_ruined_graph_is_refused(
    conv: tuple[RunFolder, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    def bad(data: bytes, spec: Any) -> bytes:
        good = float16_graph(data, spec)
        return ruined(good, lambda weights: weights[::-1].copy()) if spec.file == file else good

    monkeypatch.setattr(lowering, "float16_graph", bad)
    with pytest.raises(ExportError, match=words):
        exported_as(conv[0], tmp_path / "bundles" / "bad", "float16", conv[1])
    assert not list((tmp_path / "bundles").iterdir())


def test_nan_is_refused(conv: tuple[RunFolder, Bundle]) -> None:
    run, bundle = conv
    model, _ = load_best(run)

    class Broken:
        encode = staticmethod(bundle.encode)

        def decode(self, latents: np.ndarray) -> np.ndarray:
            return bundle.decode(latents) * np.float32(np.nan)

    with pytest.raises(ExportError, match=r"decoder\.onnx: in int8, its output image is NaN or infinite"):
        parity(Broken(), model, validation_of(run), kind="int8", dim=3, seed=0)


def test_one_validation_image_is_too_few(conv: tuple[RunFolder, Bundle]) -> None:
    _, bundle = conv
    with pytest.raises(ExportError, match="one validation image"):
        measurement.difference(bundle, bundle, pictures(1, (8, 8, 1)), bundle.manifest.likelihood, seed=0)


def test_a_graph_that_the_tools_cannot_take_is_an_export_error(conv: tuple[RunFolder, Bundle]) -> None:
    spec = conv[1].manifest.graphs.encoder
    node = onnx.helper.make_node("Identity", ["image"], ["mean"])
    info = [onnx.helper.make_tensor_value_info(name, FLOAT, ["N", 1, 8, 8]) for name in ("image", "mean")]
    empty = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:]))
    with pytest.raises(ExportError, match=r"encoder\.onnx: has no layer that int8 would change"):
        int8_graph(empty.SerializeToString(), spec, np.zeros((1, 1, 8, 8), np.float32))
    data = (conv[1].folder / ENCODER).read_bytes()
    with pytest.raises(ExportError, match=r"encoder\.onnx: cannot be quantized"):
        int8_graph(data, spec, np.zeros((1, 5), np.float32))


def test_nothing_is_printed_by_the_tools(
    conv: tuple[RunFolder, Bundle], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for kind in KINDS:
        exported_as(conv[0], tmp_path / kind, kind, conv[1])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_an_unknown_precision_is_wrong_usage() -> None:
    done = CliRunner().invoke(cli, ["export", "runs/x", "-o", "bundles/x", "--precision", "int4"])
    assert done.exit_code == 2
    assert all(word in done.output for word in ("int4", "float32", "float16", "int8"))


def test_a_ratio_below_one_is_faster() -> None:
    assert measurement._ratio(lambda: time.sleep(0.001), lambda: time.sleep(0.02)) < 0.9
    assert measurement._ratio(lambda: time.sleep(0.02), lambda: time.sleep(0.001)) > 1.1
