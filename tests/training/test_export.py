"""train -> export -> serve: the bundle gives PyTorch's numbers, or there is no bundle."""

import getpass
import io
import json
import os
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

import training.export
import training.parity
from model.bundle.graphs import RANDOM_OPERATORS
from model.bundle.latents import prior_latents
from model.bundle.manifest import CARD, DECODER, ENCODER, GOLDEN, LIKELIHOOD, MANIFEST, POSTERIOR, SCORES
from model.bundle.measurements import Estimate, Metrics, Protocol
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle
from model.bundle.store import open_bundle
from model.likelihoods import DiscretizedLogistic, Gaussian
from tests.support.runs import BERNOULLI, CONV, GAUSSIAN, MLP, pictures, write_run
from training.checkpoint import save_checkpoint
from training.data.load import load_test, load_training
from training.errors import CheckpointError, ConfigError, DataError, ExportError
from training.export import export
from training.graphs import OPSET, decoder_graph, encoder_graph
from training.loop import build_trainee
from training.parity import BATCH_SIZES, check_parity
from training.run import RunFolder
from training.trained import load_best

CASES: dict[str, dict[str, Any]] = {
    "mlp, bernoulli, grey 8x8": {"network": MLP, "likelihood": BERNOULLI, "binarization": "dynamic"},
    "conv, gaussian, color 28x20": {"network": CONV, "likelihood": GAUSSIAN, "shape": (28, 20, 3)},
    "conv, bernoulli, grey 9x8, one latent": {
        "network": CONV,
        "likelihood": BERNOULLI,
        "shape": (9, 8, 1),
        "latent_dim": 1,
    },
    "mlp, fixed scale, color 8x10": {"network": MLP, "likelihood": {**GAUSSIAN, "scale": 0.1}, "shape": (8, 10, 3)},
    "gated-conv, categorical, color 12x8": {
        "network": {"kind": "gated-conv", "channels": 4, "features": 12},
        "likelihood": {"family": "categorical"},
        "shape": (12, 8, 3),
        "shake": 0.1,  # products of features grow fast, and with logits in the thousands float32 has no digits left
    },
    "resnet, discretized logistic, color 9x8": {
        "network": {"kind": "resnet", "channels": 8, "multipliers": [1, 2], "blocks": 1},
        "likelihood": {"family": "discretized-logistic"},
        "shape": (9, 8, 3),
    },
    "mlp, discretized logistic with scales of pixels, grey 8x8": {
        "network": MLP,
        "likelihood": {"family": "discretized-logistic", "scale_per": "pixel"},
    },
    **{
        f"mlp, posterior {kind}": {
            "network": MLP,
            "likelihood": BERNOULLI,
            "latent_dim": 4,
            "posterior": {"kind": kind, **settings},
        }
        for kind, settings in {
            "full": {},
            "planar": {"steps": 3},
            "radial": {"steps": 3},
            "iaf": {"steps": 2, "hidden": 8, "context": 5},
            "sylvester-orthogonal": {"steps": 2, "bottleneck": 3},
            "sylvester-householder": {"steps": 2, "reflections": 3},
            "sylvester-triangular": {"steps": 3},
        }.items()
    },
    "mlp, vamp prior": {"network": MLP, "likelihood": BERNOULLI, "prior": {"kind": "vamp", "components": 7}},
    "conv, continuous bernoulli, grey 8x9": {
        "network": CONV,
        "likelihood": {"family": "continuous-bernoulli"},
        "shape": (8, 9, 1),
    },
}


@dataclass(frozen=True)
class Exported:
    run: RunFolder
    folder: Path
    bundle: Bundle
    said: str


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory.mktemp("exported"), CASES[request.param])


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory.mktemp("simple"), {})


@pytest.fixture
def quick(simple: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Graphs as they were exported once: these tests are about what happens around them. A destination to export to."""
    for name, file in (("encoder_graph", ENCODER), ("decoder_graph", DECODER), ("likelihood_graph", LIKELIHOOD)):
        data = (simple.folder / file).read_bytes()
        monkeypatch.setattr(training.export, name, lambda vae, spec, data=data: data)
    return tmp_path / "bundles" / "tiny"


def _export(folder: Path, case: dict[str, Any]) -> Exported:
    run = write_run(folder / "run", **case)
    said = io.StringIO()
    place = export(run, folder / "bundle", version="1.0", data_dir=None, console=Console(file=said, width=500))
    return Exported(run, place, open_bundle(place), said.getvalue())


def _again(simple: Exported, destination: Path, **options: Any) -> Path:
    console = Console(file=io.StringIO())
    return export(simple.run, destination, **{"version": "2", "data_dir": None, "console": console, **options})


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_the_bundle_gives_the_numbers_of_torch(exported: Exported, batch_size: int) -> None:
    model, _ = load_best(exported.run)
    channels, height, width = exported.bundle.manifest.image.shape
    images = to_network(pictures(batch_size, (height, width, channels)))
    wanted, found = model.encode(images), exported.bundle.encode(images)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    noise = 2 * prior_latents(batch_size, model.vae.latent_dim, seed=2)
    for a, b in zip(exported.bundle.draw(wanted, noise), model.draw(wanted, noise), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(exported.bundle.center(wanted), model.center(wanted), rtol=1e-5, atol=1e-5)
    latents = prior_latents(batch_size, model.vae.latent_dim, seed=1)
    decoded = exported.bundle.decode(latents)
    np.testing.assert_allclose(decoded, model.decode(latents), atol=1e-5)
    np.testing.assert_allclose(exported.bundle.prior.draw(5, seed=3), model.prior.draw(5, seed=3), rtol=1e-6)
    np.testing.assert_allclose(
        exported.bundle.prior.log_density(latents),
        model.vae.prior().log_density(torch.from_numpy(latents)).detach(),
        rtol=1e-4,
    )
    said = exported.bundle.log_likelihood(latents, images)
    np.testing.assert_allclose(said, model.log_likelihood(latents, images), rtol=1e-4)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert np.ptp(decoded) > 0.05, "a decoder that ignores its latent would prove nothing"


def test_graphs_are_self_contained_deterministic_and_small(exported: Exported) -> None:
    for spec in exported.bundle.manifest.graphs.present().values():
        graph = onnx.load(exported.folder / spec.file, load_external_data=False)
        onnx.checker.check_model(graph, full_check=True)
        assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
        assert not graph.functions
        operators = {node.op_type for node in graph.graph.node}
        # Neither chance nor a loop or a branch that depends on data.
        assert not operators & {*RANDOM_OPERATORS, "Loop", "Scan", "If"}
        assert not [tensor.name for tensor in graph.graph.initializer if tensor.external_data]
        for tensor in [*graph.graph.input, *graph.graph.output]:
            assert tensor.type.tensor_type.shape.dim[0].dim_param == "N"
        weights = sum(tensor.ByteSize() for tensor in graph.graph.initializer)
        assert graph.ByteSize() - weights < 40_000


@pytest.mark.parametrize("exported", ["mlp, posterior sylvester-orthogonal"], indirect=True)
def test_matrices_are_made_orthonormal_once_an_image_and_not_once_a_draw(exported: Exported) -> None:
    """Two products of matrices in each of 48 steps, in the encoder's graph; the posterior's has none."""
    encoder, posterior = (
        [node.op_type for node in onnx.load(exported.folder / file).graph.node] for file in (ENCODER, POSTERIOR)
    )
    assert 2 * 48 <= encoder.count("MatMul") < 2 * 48 + 20
    assert "MatMul" not in posterior
    assert "Einsum" in posterior


def test_nothing_in_a_bundle_tells_of_the_machine(exported: Exported, tmp_path: Path) -> None:
    here = [
        Path(__file__).parents[2],
        Path.home(),
        tmp_path.parents[1],
        Path(torch.__file__).parent,
        exported.run.folder,
    ]
    words = [*map(str, here), "site-packages", getpass.getuser(), os.uname().nodename]
    words = [word for word in words if len(word) > 4]  # shorter ones occur in weights by chance
    for path in exported.folder.iterdir():
        data = path.read_bytes()
        assert not [word for word in words if word.encode() in data], path.name
    for spec in exported.bundle.manifest.graphs.present().values():
        graph = onnx.load(exported.folder / spec.file)
        assert not graph.doc_string
        assert not graph.metadata_props
        parts = [*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer, graph.graph]
        assert not [part for part in parts if part.metadata_props or part.doc_string]


def test_the_same_weights_give_the_same_bytes(simple: Exported) -> None:
    model, _ = load_best(simple.run)
    graphs = simple.bundle.manifest.graphs
    assert encoder_graph(model.vae, graphs.encoder) == (simple.folder / ENCODER).read_bytes()
    assert decoder_graph(model.vae, graphs.decoder) == (simple.folder / DECODER).read_bytes()


def test_all_but_the_time_is_the_same_in_another_export(simple: Exported, quick: Path) -> None:
    _again(simple, quick, version="1.0")
    for file in (ENCODER, DECODER, LIKELIHOOD, GOLDEN, CARD, SCORES):
        assert (quick / file).read_bytes() == (simple.folder / file).read_bytes(), file


def test_weights_too_large_for_one_file_are_refused(simple: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.graphs.LARGEST_GRAPH", 100)
    model, _ = load_best(simple.run)
    with pytest.raises(ExportError, match=r"encoder\.onnx: .* GiB of weights"):
        encoder_graph(model.vae, simple.bundle.manifest.graphs.encoder)


def test_the_manifest_says_what_was_trained(exported: Exported) -> None:
    manifest, config = exported.bundle.manifest, exported.run.config()
    assert (manifest.name, manifest.version) == (config.name, "1.0")
    assert manifest.image == config.image
    assert manifest.latent.dim == config.model.latent_dim
    assert manifest.likelihood.binarization == config.data.binarization
    assert manifest.posterior.family.removesuffix("-gaussian") == config.model.posterior.kind
    assert manifest.scores is not None
    assert exported.bundle.validation_scores is not None
    assert len(exported.bundle.validation_scores) == manifest.scores.images > 5
    assert manifest.git_commit == exported.run.provenance().git_commit
    assert manifest.metrics is None
    assert abs((datetime.now(UTC) - manifest.created).total_seconds()) < 600
    likelihood = load_best(exported.run)[0].vae.likelihood
    assert manifest.likelihood.family == config.model.likelihood.family
    scale = float(likelihood.scale()) if isinstance(likelihood, Gaussian) else None
    scales = likelihood.scales() if isinstance(likelihood, DiscretizedLogistic) else None
    assert manifest.likelihood.scale == (scale and pytest.approx(scale))
    assert manifest.likelihood.scales == (scales and tuple(scales))
    per_channel = getattr(config.model.likelihood, "scale_per", None) == "channel"
    assert (manifest.likelihood.scales is not None) == per_channel


def test_the_golden_sample_is_of_the_validation_images_and_of_all_classes(exported: Exported) -> None:
    config = exported.run.config()
    training_images, validation = load_training(config.data, config.image, seed=config.seed)
    test = load_test(config.data, config.image, seed=config.seed)
    golden = [image.tobytes() for image in exported.bundle.golden.images]
    assert len(set(golden)) == len(golden) >= 2
    assert not set(golden) & {image.tobytes() for image in [*test.images, *training_images.images]}
    assert validation.labels is not None
    labels = validation.labels.tolist()
    turns = [(labels[:row].count(label), label) for row, label in enumerate(labels)]
    places = {image.tobytes(): turn for image, turn in zip(validation.images, turns, strict=True)}
    # The first of every class, then the second; not the first images in their order.
    assert [places[image] for image in golden] == sorted(turns)[: len(golden)]
    assert turns[: len(golden)] != sorted(turns)[: len(golden)]


def test_export_says_where_and_how_close(simple: Exported) -> None:
    assert str(simple.folder) in simple.said
    assert "batch sizes 1, 2, 7" in simple.said


def test_nothing_is_printed_by_the_exporter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _export(tmp_path, {})
    assert capfd.readouterr() == ("", "")


# --- failures


def _leaves_nothing(destination: Path) -> None:
    assert not destination.exists()
    assert not destination.parent.exists() or not list(destination.parent.iterdir())


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        ("LATENT_TOLERANCE", r"encoder\.onnx: at batch size 1 its output mean deviates from PyTorch by [\d.e-]+, and"),
        ("PIXEL_TOLERANCE", r"decoder\.onnx: at batch size 1 its output image deviates from PyTorch by [\d.e-]+, and"),
    ],
)
def test_a_deviation_leaves_no_bundle(
    simple: Exported, quick: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str, words: str
) -> None:
    monkeypatch.setattr(training.parity, tolerance, -1.0)
    with pytest.raises(ExportError, match=words):
        _again(simple, quick)
    _leaves_nothing(quick)


def test_parity_names_graph_batch_size_and_deviation(simple: Exported) -> None:
    model, _ = load_best(simple.run)
    config = simple.run.config()
    _, validation = load_training(config.data, config.image, seed=config.seed)
    assert check_parity(simple.bundle, model, validation) < 1e-5
    with torch.no_grad():
        model.vae.decoder[-2].bias += 0.3  # type: ignore[index]  # the last linear layer
    with pytest.raises(ExportError, match=r"decoder\.onnx: at batch size 1 its output image deviates .* by 0\.0[1-9]"):
        check_parity(simple.bundle, model, validation)


def test_nan_is_a_deviation(simple: Exported) -> None:
    model, _ = load_best(simple.run)
    config = simple.run.config()
    _, validation = load_training(config.data, config.image, seed=config.seed)
    with torch.no_grad():
        model.vae.decoder[-2].bias += torch.nan  # type: ignore[index]
    with pytest.raises(ExportError, match="by nan"):
        check_parity(simple.bundle, model, validation)


def test_parity_needs_no_more_images_than_there_are(simple: Exported) -> None:
    model, _ = load_best(simple.run)
    config = simple.run.config()
    _, validation = load_training(config.data, config.image, seed=config.seed)
    assert check_parity(simple.bundle, model, validation.subset(np.arange(1))) < 1e-5


def test_the_wrong_weights_do_not_pass_the_golden_test(
    simple: Exported, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_best(simple.run)
    with torch.no_grad():
        for parameter in model.vae.parameters():
            parameter.mul_(0.5)
    wrong = decoder_graph(model.vae, simple.bundle.manifest.graphs.decoder)
    monkeypatch.setattr(training.export, "decoder_graph", lambda vae, spec: wrong)
    with pytest.raises(ExportError, match="golden"):
        _again(simple, quick)
    _leaves_nothing(quick)


@pytest.mark.parametrize(
    ("step", "crash", "seen"),
    [
        ("encoder_graph", RuntimeError("no such operator"), RuntimeError),
        ("write_bytes_atomically", OSError(28, "No space left on device"), ExportError),
        ("write_manifest", OSError(28, "No space left on device"), ExportError),
        ("open_bundle", KeyboardInterrupt(), KeyboardInterrupt),
        ("publish", OSError(13, "Permission denied"), ExportError),
    ],
)
def test_a_crash_leaves_nothing(
    simple: Exported,
    quick: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    crash: BaseException,
    seen: type[BaseException],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise crash

    monkeypatch.setattr(training.export, step, fail)
    with pytest.raises(seen):
        _again(simple, quick)
    _leaves_nothing(quick)


def test_a_bundle_that_is_there_is_kept_unless_replaced(
    simple: Exported, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _again(simple, quick, version="1")
    with pytest.raises(ExportError, match="exists already"):
        _again(simple, quick, version="2")
    assert open_bundle(quick).version == "1"
    with monkeypatch.context() as patch:
        patch.setattr(training.parity, "PIXEL_TOLERANCE", -1.0)
        with pytest.raises(ExportError, match="deviates"):
            _again(simple, quick, version="2", replace=True)
    assert open_bundle(quick).version == "1"
    _again(simple, quick, version="2", replace=True)
    assert open_bundle(quick).version == "2"
    assert [path.name for path in quick.parent.iterdir()] == [quick.name]


def test_replace_never_takes_the_place_of_other_things(simple: Exported, quick: Path) -> None:
    quick.mkdir(parents=True)
    (quick / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="no bundle"):
        _again(simple, quick, replace=True)
    assert (quick / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", [".", "..", "/", "bundles/.."])
def test_a_place_without_a_name_is_refused(simple: Exported, place: str) -> None:
    with pytest.raises(ExportError, match="bundles/tiny-run"):
        _again(simple, Path(place), replace=True)


def test_what_the_exporter_cannot_do_is_said_in_a_line(simple: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("pages of advice")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model, _ = load_best(simple.run)
    with pytest.raises(ExportError, match=r"^encoder\.onnx: PyTorch's exporter cannot make this graph$"):
        encoder_graph(model.vae, simple.bundle.manifest.graphs.encoder)


def test_what_a_precision_costs_is_not_guessed(tmp_path: Path) -> None:
    """Of what the mean image does not tell, before anything is exported."""
    run = write_run(tmp_path / "run", likelihood={"family": "categorical"})
    with pytest.raises(ExportError, match="precision int8: what it costs a categorical likelihood cannot be measured"):
        export(run, tmp_path / "bundle", "1", "int8", data_dir=None, console=Console(file=io.StringIO()))
    assert not (tmp_path / "bundle").exists()


def test_a_version_that_no_bundle_may_have_is_refused(simple: Exported, quick: Path) -> None:
    with pytest.raises(ExportError, match="version"):
        _again(simple, quick, version="../1")
    _leaves_nothing(quick)


def test_without_a_run_or_a_checkpoint_there_is_no_bundle(simple: Exported, quick: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        _again(replace(simple, run=RunFolder(tmp_path / "nowhere")), quick)
    copy = RunFolder(shutil.copytree(simple.run.folder, tmp_path / "copy"))
    copy.best.unlink()
    with pytest.raises(CheckpointError, match="not validated yet"):
        _again(replace(simple, run=copy), quick)
    _leaves_nothing(quick)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_is_not_finished_is_exported_as_such(
    finished: bool, simple: Exported, quick: Path, tmp_path: Path
) -> None:
    copy = RunFolder(shutil.copytree(simple.run.folder, tmp_path / "copy"))
    trainee = build_trainee(copy.config(), torch.device("cpu"))
    trainee.progress.step, trainee.progress.finished = 3, finished
    save_checkpoint(copy.last, trainee)
    printed = io.StringIO()
    export(copy, quick, version="1", data_dir=None, console=Console(file=printed))
    said = f"{copy.folder}: training is not finished: these are the best weights up to step 3"
    assert (said in printed.getvalue()) is not finished
    assert ("Training was not finished: it stood at step 3 of " in open_bundle(quick).card()) is not finished


def test_other_data_than_the_run_was_trained_on_are_refused(simple: Exported, quick: Path, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(simple.run.folder, tmp_path / "copy"))
    document = json.loads(copy.provenance_file.read_text())
    document["data"]["validation"] = "0" * 64
    copy.provenance_file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="not the images"):
        _again(replace(simple, run=copy), quick)
    _leaves_nothing(quick)


# --- metrics


def _metrics(dim: int = 3, step: int = 0) -> Metrics:
    nats = Estimate(value=12.25, low=12.0, high=12.5)
    protocol = Protocol(
        dataset="waves", split="test", images=4, binarization="none", importance_samples=10, seed=0, step=step
    )
    return Metrics(
        rate=nats,
        distortion=nats,
        negative_elbo=nats,
        active_units=2,
        kl_per_dimension=(1.0,) * dim,
        reconstruction_error=nats,
        protocol=protocol,
    )


def test_measured_metrics_go_into_manifest_and_card(simple: Exported, quick: Path, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(simple.run.folder, tmp_path / "copy"))
    copy.metrics_file.write_text(_metrics().model_dump_json())
    _again(replace(simple, run=copy), quick)
    bundle = open_bundle(quick)
    assert bundle.manifest.metrics == _metrics()
    assert "12.25" in bundle.card()
    assert json.loads((quick / MANIFEST).read_text())["metrics"]["rate"]["value"] == 12.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "evaluate again"),
        (
            _metrics(step=7).model_dump_json(),
            "measured the weights of step 7, and best.safetensors holds those of step 0",
        ),
        (_metrics(dim=5).model_dump_json(), "kl_per_dimension"),
    ],
)
def test_metrics_of_something_else_are_refused(
    simple: Exported, quick: Path, tmp_path: Path, text: str, words: str
) -> None:
    copy = RunFolder(shutil.copytree(simple.run.folder, tmp_path / "copy"))
    copy.metrics_file.write_text(text)
    with pytest.raises(ExportError, match=words):
        _again(replace(simple, run=copy), quick)
    _leaves_nothing(quick)
