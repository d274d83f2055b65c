"""I/O binding: the code that runs on a GPU, run on the CPU, against plain runs of the same sessions."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from model.bundle import binding
from model.bundle.binding import Binding
from model.bundle.errors import BundleError, ModelFault
from model.bundle.latents import prior_latents
from model.bundle.onnx_runtime import onnx_runtime
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle
from tests.support.tiny import write_tiny_bundle

PLAIN = RuntimeOptions(threads=1)
BOUND = RuntimeOptions(threads=1, binding=True)
CUDA = RuntimeOptions("cuda", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", height=10, width=8, channels=3, latent_dim=4)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Bundle:
    return open_bundle(folder, PLAIN)


@pytest.fixture(scope="module")
def bound(folder: Path) -> Bundle:
    return open_bundle(folder, BOUND)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 10, 8), np.float32)


def session_of(folder: Path) -> Any:
    return onnx_runtime().InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])


def kept(of: Binding) -> list[int]:
    """The batch sizes whose buffers wait for a call, those used longest ago first."""
    assert sum(of._kept) == of._kept_rows
    return list(of._kept)


def test_all_batch_sizes_in_any_order_give_what_a_plain_run_gives(plain: Bundle, bound: Bundle) -> None:
    sizes = [1, 2, 3, 4096, 1, 2, 64, 63, 65, 1000, 7, 1, 4095, 3]
    for seed, size in enumerate(sizes):
        images, latents = pictures(size, seed), prior_latents(size, 4, seed=seed)
        for got, wanted in zip(bound.encode(images), plain.encode(images), strict=True):
            assert_array_equal(got, wanted)
            assert got.dtype == np.float32
        assert_array_equal(bound.decode(latents), plain.decode(latents))
    assert bound.decode(np.zeros((0, 4), np.float32)).shape == (0, 3, 10, 8)


def test_graphs_with_several_inputs_give_what_a_plain_run_gives(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "flow", height=10, width=8, channels=3, latent_dim=4, flow=True, scores=True)
    plain, bound = open_bundle(folder, PLAIN), open_bundle(folder, BOUND)
    for size in (1, 7, 3, 7):
        images, noise = pictures(size, size), prior_latents(size, 4, seed=size)
        posterior = plain.encode(images)
        for got, wanted in zip(bound.draw(posterior, noise), plain.draw(posterior, noise), strict=True):
            assert_array_equal(got, wanted)
        assert_array_equal(bound.log_likelihood(noise, images), plain.log_likelihood(noise, images))
    with pytest.raises(ModelFault, match="the likelihood failed"):
        bound.log_likelihood(noise, images[:-1])


def test_what_was_answered_stays_as_it_was(plain: Bundle, bound: Bundle) -> None:
    latents = [prior_latents(5, 4, seed=seed) for seed in range(4)]
    answers = [bound.decode(rows) for rows in latents]
    for rows, answer in zip(latents, answers, strict=True):
        assert_array_equal(answer, plain.decode(rows))
        assert answer.flags.owndata
        assert answer.flags.writeable


def test_rows_that_do_not_lie_in_one_piece(plain: Bundle, bound: Bundle) -> None:
    rows = prior_latents(12, 4, seed=1)[::2]
    assert_array_equal(bound.decode(rows), plain.decode(np.ascontiguousarray(rows)))


def test_concurrent_calls_of_one_and_of_many_sizes(plain: Bundle, bound: Bundle) -> None:
    def decode(seed: int) -> bool:
        rows = prior_latents(1 + seed % 3 * 7, 4, seed=seed)
        return bool(np.array_equal(bound.decode(rows), plain.decode(rows)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(decode, range(400)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 8, 10), np.float32),  # as many bytes
        np.zeros((2, 3, 10, 4), np.float32),
        np.zeros((1, 240), np.float32),
        np.zeros((1, 3, 10, 8)),
        np.zeros((1, 3, 10, 8), np.int32),
    ],
)
def test_what_a_graph_cannot_take_is_a_model_fault(bound: Bundle, wrong: np.ndarray) -> None:
    with pytest.raises(ModelFault, match="the encoder failed"):
        bound.encode(wrong)


def test_buffers_are_used_again_and_their_memory_is_bounded(plain: Bundle, folder: Path) -> None:
    row = 4 * (4 + 240)
    of = Binding(session_of(folder), plain.manifest.graphs.decoder, "cpu", kept_bytes=10 * row)
    of.run(prior_latents(3, 4, seed=0))
    first = of._kept[3]
    for size in (3, 4, 3):
        of.run(prior_latents(size, 4, seed=0))
    assert of._kept[3] is first
    assert kept(of) == [4, 3]
    of.run(prior_latents(5, 4, seed=0))  # 12 rows: those of 4 were used longest ago
    assert kept(of) == [3, 5]
    of.run(prior_latents(11, 4, seed=0))  # more than may be kept at all
    assert kept(of) == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: of.run(prior_latents(1 + seed % 5, 4, seed=seed)), range(200)))
    assert sum(kept(of)) <= 10


def test_buffers_of_a_failed_call_are_not_used_again(
    plain: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(folder)
    of = Binding(session, plain.manifest.graphs.decoder, "cpu")
    rows = prior_latents(2, 4, seed=0)
    of.run(rows)

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(session, "run_with_iobinding", broken)
        with pytest.raises(RuntimeError):
            of.run(rows)
    assert kept(of) == []
    assert_array_equal(of.run(rows)[0], plain.decode(rows))


# --- CUDA, played by the CPU's sessions under its name


@pytest.fixture
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions start on "CUDA". Memory is asked for on the device, which this machine has not unless patched."""

    class Session(onnx_runtime().InferenceSession):  # type: ignore[misc]
        def __init__(self, *args: object, providers: list[object], **options: object) -> None:
            self.pretends = len(providers) > 1
            super().__init__(*args, providers=["CPUExecutionProvider"], **options)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"] if self.pretends else ["CPUExecutionProvider"]

    monkeypatch.setattr(onnx_runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnx_runtime(), "preload_dlls", lambda: None)
    monkeypatch.setattr(onnx_runtime(), "InferenceSession", Session)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which memory was asked for; the CPU's is given."""
    asked: list[str] = []
    allocate = binding._allocate

    def on_the_cpu(shape: tuple[int | str, ...], device: str, count: int) -> Any:
        asked.append(device)
        return allocate(shape, "cpu", count)

    monkeypatch.setattr(binding, "_allocate", on_the_cpu)
    return asked


@pytest.mark.usefixtures("pretended_cuda")
def test_cuda_is_called_with_bound_buffers_and_the_cpu_is_not(folder: Path, plain: Bundle, devices: list[str]) -> None:
    latents = prior_latents(3, 4, seed=0)
    on_cuda = open_bundle(folder, CUDA)
    assert on_cuda.provider == "cuda"
    assert set(devices) == {"cuda"}
    assert_array_equal(on_cuda.decode(latents), plain.decode(latents))
    devices.clear()
    open_bundle(folder, PLAIN).decode(latents)
    unbound = open_bundle(folder, RuntimeOptions("cuda", threads=1, binding=False))
    assert unbound.provider == "cuda"
    assert_array_equal(unbound.decode(latents), plain.decode(latents))
    assert devices == []


@pytest.mark.usefixtures("pretended_cuda")
def test_a_device_that_starts_and_cannot_run_is_a_lack_of_cuda(
    folder: Path, plain: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(binding, "_allocate", full)
    latents = prior_latents(3, 4, seed=0)
    fallen_back = open_bundle(folder, CUDA)
    assert fallen_back.provider == "cpu"
    assert_array_equal(fallen_back.decode(latents), plain.decode(latents))
    assert [(record.levelno, "tiny runs on the CPU" in record.message) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    with pytest.raises(BundleError, match="CUDA was required"):
        open_bundle(folder, RuntimeOptions("cuda", threads=1, require_provider=True))
