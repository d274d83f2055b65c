"""What a device does at its best, what a model asks of it, and times taken in turns: parts of `benchmarks.gpu`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Device = Literal["cpu", "cuda"]
Work = Callable[[], Any]


@dataclass(frozen=True)
class Limits:
    """What the device does at its best: floating-point operations and bytes, a second."""

    flops: float
    bandwidth: float


def flops_of(module: nn.Module, rows: Tensor) -> int:
    """Floating-point operations of products and convolutions in one call; a multiplication and an addition are two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(rows)
    return int(counter.get_total_flops())


def traffic_of(module: nn.Module, rows: Tensor) -> int:
    """Bytes of one call if each layer with weights reads them and its input, and writes its output, once: the work that
    is left when everything between those layers is fused into them."""
    total = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, output))

    layers = [layer for layer in module.modules() if not any(layer.children()) and list(layer.parameters())]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            module(rows)
    finally:
        for handle in handles:
            handle.remove()
    return total


def measure_limits(device: Device, *, side: int, megabytes: int) -> Limits:
    """From the best of several products of two matrices (side, side), and of several copies of so many megabytes."""
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    source = torch.zeros(megabytes << 18, device=device)  # 4 bytes each
    target = torch.empty_like(source)
    product = min(seconds(lambda: torch.mm(a, b), device, calls=3) for _ in range(5))
    copy = min(seconds(lambda: target.copy_(source), device, calls=3) for _ in range(5))
    return Limits(flops=2 * side**3 / product, bandwidth=2 * 4 * source.numel() / copy)


def seconds(work: Work, device: Device, *, calls: int) -> float:
    """Of one call, until the device has done it."""
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(calls):
        work()
    _synchronize(device)
    return (time.perf_counter() - began) / calls


def take_turns(ways: dict[str, Work], device: Device, *, rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds of a call of each way in each round, `budget` seconds of calls at a time; the order of ways rotates."""
    calls = {}
    for name, work in ways.items():
        for _ in range(2):  # what is allocated, chosen or compiled at the first calls
            work()
        calls[name] = max(1, round(budget / seconds(work, device, calls=1)))
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(ways[name], device, calls=calls[name]))
    return times


def _synchronize(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
