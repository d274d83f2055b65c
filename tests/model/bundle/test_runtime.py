"""An open bundle against what NumPy computes with the same weights."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from model.bundle.errors import BundleError, ModelFault
from model.bundle.latents import prior_latents
from model.bundle.onnx_runtime import float16, onnx_runtime, quantization
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle, RuntimeOptions, finite
from model.bundle.sessions import open_graphs
from model.bundle.store import open_bundle
from tests.support.tiny import tiny_decode, tiny_encode, tiny_weights, write_tiny_bundle

ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "color"
    return open_bundle(write_tiny_bundle(folder, height=10, width=8, channels=3, latent_dim=4), ONE_THREAD)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "overflowing"
    return open_bundle(write_tiny_bundle(folder, decoder="overflowing"), ONE_THREAD)


def images(bundle: Bundle, count: int) -> np.ndarray:
    channels, height, width = bundle.manifest.image.shape
    return to_network(np.random.default_rng(5).integers(0, 256, (count, height, width, channels)).astype(np.uint8))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_graphs_compute_what_numpy_does(bundle: Bundle, count: int) -> None:
    weights = tiny_weights(bundle.manifest.image, bundle.manifest.latent)
    x, z = images(bundle, count), prior_latents(count, 4, seed=0)
    posterior, decoded = bundle.encode(x), bundle.decode(z)
    mean, log_variance = tiny_encode(weights, x)
    assert_allclose(posterior.mean, mean, atol=1e-5)
    assert_allclose(posterior.log_variance, log_variance, atol=1e-5)
    assert_allclose(decoded, tiny_decode(weights, z, bundle.manifest.image), atol=1e-5)
    assert posterior.mean.dtype == posterior.log_variance.dtype == decoded.dtype == np.float32


def test_an_open_graph_does_not_keep_its_file(bundle: Bundle) -> None:
    """The weights would be in memory twice."""
    spec = bundle.manifest.graphs.encoder
    data = (bundle.folder / spec.file).read_bytes()
    before = sys.getrefcount(data)
    opened, _ = open_graphs(bundle.folder, [(spec, data)], ONE_THREAD)
    assert sys.getrefcount(data) == before
    assert opened[0].run(images(bundle, 1))


def test_nothing_in_gives_nothing_out(bundle: Bundle) -> None:
    assert bundle.encode(images(bundle, 0)).mean.shape == (0, 4)
    assert bundle.decode(np.zeros((0, 4), np.float32)).shape == (0, 3, 10, 8)


def test_chunks_change_nothing_and_are_reported(bundle: Bundle) -> None:
    x, z = images(bundle, 7), prior_latents(7, 4, seed=0)
    encoded: list[int] = []
    decoded: list[int] = []
    posterior = bundle.encode_all(x, batch_size=3, progress=encoded.append)
    pictures = bundle.decode_all(z, batch_size=3, progress=decoded.append)
    assert encoded == decoded == [3, 3, 1]
    for got, expected in zip((*posterior, pictures), (*bundle.encode(x), bundle.decode(z)), strict=True):
        assert_allclose(got, expected, atol=1e-6)
    assert_array_equal(bundle.decode_all(z), pictures)
    with pytest.raises(ValueError, match="batch_size"):
        bundle.decode_all(z, batch_size=0)


def test_numbers_that_are_none_pass_one_by_one_and_stop_offline_work(overflowing: Bundle) -> None:
    z = np.array([[0, 1], [500, 0], [1, 0]], np.float32)
    pictures = overflowing.decode(z)
    assert finite(pictures).tolist() == [True, False, True]
    assert_array_equal(pictures[[0, 2]], overflowing.decode(z[[0, 2]]))
    with pytest.raises(ModelFault, match="decoder gave NaN or infinity"):
        overflowing.decode_all(z)
    x = np.full((1, 1, 8, 8), np.inf, np.float32)
    with pytest.raises(ModelFault, match="encoder gave NaN or infinity"):
        overflowing.encode_all(x)


def test_finite_needs_every_array() -> None:
    a, b = np.zeros((3, 2), np.float32), np.zeros((3, 1, 2, 2), np.float32)
    a[0, 1], b[2, 0, 1, 1] = np.nan, -np.inf
    assert finite(a, b).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 1, 10, 8), np.float32), np.zeros((1, 240), np.float32), np.zeros((1, 3, 10, 8))]
)
def test_what_a_graph_cannot_take_is_a_model_fault(
    bundle: Bundle, wrong: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelFault, match="the encoder failed"):
        bundle.encode(wrong)
    assert capfd.readouterr() == ("", "")


def test_warm_up_and_self_test_pass(bundle: Bundle) -> None:
    bundle.warm_up()
    bundle.warm_up((1, 5))
    bundle.self_test()


def test_slow_decoder_gives_the_same(tmp_path: Path) -> None:
    slow = open_bundle(write_tiny_bundle(tmp_path / "slow", decoder="slow"), ONE_THREAD)
    plain = open_bundle(write_tiny_bundle(tmp_path / "plain"), ONE_THREAD)
    z = prior_latents(2, 2, seed=0)
    assert_allclose(slow.decode(z), plain.decode(z), atol=1e-6)


# --- providers, on machines that have no CUDA and on those that do


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_with_a_mere_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    with caplog.at_level(logging.INFO):
        assert open_bundle(folder, RuntimeOptions(provider="auto", threads=1)).provider == "cpu"
    assert [(record.levelno, "tiny runs on the CPU" in record.message) for record in caplog.records] == [
        (logging.INFO, True)
    ]


@pytest.mark.usefixtures("no_cuda")
def test_cuda_falls_back_with_a_warning_unless_required(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    assert open_bundle(folder, RuntimeOptions(provider="cuda", threads=1)).provider == "cpu"
    assert [(record.levelno, "tiny runs on the CPU" in record.message) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    for options in (RuntimeOptions("cuda", 1, require_provider=True), RuntimeOptions("auto", 1, require_provider=True)):
        with pytest.raises(BundleError, match="CUDA was required"):
            open_bundle(folder, options)
    assert open_bundle(folder, RuntimeOptions(threads=1, require_provider=True)).provider == "cpu"


def test_libraries_that_cannot_be_loaded_are_a_lack_of_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no such library")

    monkeypatch.setattr(onnx_runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnx_runtime(), "preload_dlls", broken)
    folder = write_tiny_bundle(tmp_path / "tiny")
    assert open_bundle(folder, RuntimeOptions(provider="auto", threads=1)).provider == "cpu"


def test_a_provider_that_is_offered_and_does_not_start_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime-gpu does on a machine without a driver: it lists CUDA and cannot use it."""
    session = onnx_runtime().InferenceSession

    def without_cuda(*args: object, providers: list[object], **options: object) -> object:
        if len(providers) > 1:
            raise RuntimeError("no device")
        return session(*args, providers=providers, **options)

    monkeypatch.setattr(onnx_runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnx_runtime(), "preload_dlls", lambda: None)
    monkeypatch.setattr(onnx_runtime(), "InferenceSession", without_cuda)
    folder = write_tiny_bundle(tmp_path / "tiny")
    assert open_bundle(folder, RuntimeOptions(provider="auto", threads=1)).provider == "cpu"
    with pytest.raises(BundleError, match="CUDA was required"):
        open_bundle(folder, RuntimeOptions(provider="cuda", threads=1, require_provider=True))


def test_the_tools_of_onnx_runtime_leave_the_import_path_alone() -> None:
    before = list(sys.path)
    assert float16().convert_float_to_float16
    assert quantization().quantize_static  # which needs a part of the other's package
    assert sys.path == before


@pytest.mark.parametrize("count", [1, 8, 11, 12, 13, 64, 70])
def test_parts_are_the_whole(bundle: Bundle, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).random((count, *bundle.manifest.image.shape), np.float32)
    latents = np.random.default_rng(2).standard_normal((count, bundle.manifest.latent.dim), np.float32)
    expected = (*bundle.encode(rows), bundle.decode(latents))
    for graph in bundle._graphs.values():
        monkeypatch.setattr(graph, "_at_a_time", 8)
    for found, wanted in zip((*bundle.encode(rows), bundle.decode(latents)), expected, strict=True):
        assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert found.shape == wanted.shape


FAST = 1e-6  # seconds a row


@pytest.mark.parametrize(
    ("paces", "most", "best"),
    [
        ({8: 1.1, 16: 1.0, 32: 1.0, 64: 1.0}, 64, None),
        ({8: 1.2, 16: 1.0, 32: 1.3, 64: 1.3}, 64, 16),
        ({8: 1.0, 16: 1.01, 32: 1.02, 64: 1.1}, 64, 32),
        ({12: 1.0, 24: 1.2, 48: 1.3}, 48, 12),
        ({4: 1.0}, 4, None),
        ({8: 1.0, 16: 2000.0}, 64, 8),  # after which there is no time for more
        ({8: 9000.0}, 64, None),
    ],
    ids=["larger is better", "middle", "about as fast", "no power of two", "few", "slow", "very slow"],
)
def test_tuning_takes_the_fastest_size_and_little_time(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, paces: dict[int, float], most: int, best: int | None
) -> None:
    clock, tried = [0.0], []

    def seconds(count: int) -> float:
        tried.append(count)
        spent = FAST * count * paces.get(count, paces[min(paces)])
        clock[0] += spent
        return spent

    monkeypatch.setattr("model.bundle.sessions.time.perf_counter", lambda: clock[0])
    graph = bundle._graphs["encoder"]
    monkeypatch.setattr(graph, "_seconds", seconds)
    monkeypatch.setattr(graph, "_at_a_time", None)
    assert graph.tune(most) == graph._at_a_time == best
    assert max(tried) <= most
    assert clock[0] < 0.3


def test_tuning_runs_the_graphs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for graph in bundle._graphs.values():
        monkeypatch.setattr(graph, "_at_a_time", 5)
    bundle.tune(64)
    assert all(graph._at_a_time in (None, 8, 16, 32) for graph in bundle._graphs.values())


def test_the_likelihood_takes_as_many_rows_as_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = open_bundle(write_tiny_bundle(tmp_path / "tiny", scores=True), ONE_THREAD)
    monkeypatch.setattr(scoring._graphs["decoder"], "tune", lambda most: 24)
    scoring.tune(64)
    assert scoring._graphs["likelihood"]._at_a_time == 24
