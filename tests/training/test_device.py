"""Which device and precision; what cannot be had is refused by name."""

from typing import Any

import pytest
import torch

from training.device import choose_device, choose_precision, prepare
from training.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_cuda_that_is_not_there_is_refused(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=f"device = '{name}': PyTorch sees {count} CUDA devices here"):
        choose_device(name)


def test_cuda_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "mps", "cpu cpu"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("wish", "network", "native", "chosen"),
    [
        ("auto", "conv", True, torch.bfloat16),
        ("auto", "conv", False, torch.float32),
        ("auto", "mlp", True, torch.float32),
        ("bfloat16", "mlp", False, torch.bfloat16),
        ("float32", "conv", True, torch.float32),
    ],
)
def test_auto_precision_is_bfloat16_where_it_is_faster(
    wish: str, network: str, native: bool, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert choose_precision(wish, network, CPU) == chosen  # type: ignore[arg-type]  # pytest knows no literals


@pytest.mark.parametrize(("emulated", "chosen"), [(True, torch.float32), (False, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    emulated: bool, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", "conv", torch.device("cuda")) == chosen


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has no such mode")
def test_numbers_that_would_slow_a_cpu_down_are_zero() -> None:
    assert (torch.full((8,), 1e-39) / 10).count_nonzero() == 8
    prepare(CPU, None)
    assert (torch.full((8,), 1e-39) / 10).count_nonzero() == 0
    assert (torch.full((8,), 2e-38) / 1).count_nonzero() == 8


def test_prepare_sets_threads_where_told_and_fixes_the_order_of_sums_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    prepare(CPU, None)
    prepare(CPU, 3)
    assert threads == [3]
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    prepare(torch.device("cuda"), None)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("part", [torch.backends.cudnn, torch.backends.cuda.matmul], ids=["convolutions", "products"])
def test_float32_on_cuda_has_all_its_bits(part: Any) -> None:
    before = part.allow_tf32
    part.allow_tf32 = True
    try:
        prepare(torch.device("cuda"), None)
        assert not part.allow_tf32
    finally:
        part.allow_tf32 = before
