"""The compiled update against PyTorch's own AdamW, norm and average, whose places it keeps to."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tests.support.digits import digits_config
from training.checkpoint import Trainee
from training.compiled import compiling
from training.config import RunConfig
from training.loop import build_trainee
from training.update import CompiledUpdate, Update

# PyTorch, of itself, when it imports its compiler.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

CPU = torch.device("cpu")
STEPS = 12


@pytest.fixture(autouse=True)
def _captured_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that the compiler does but to write C++."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def configured(**optimization: Any) -> RunConfig:
    """Of a network with few tensors: capturing takes its time for each."""
    return digits_config(optimization=optimization, model={"network": {"kind": "mlp", "hidden": [6]}})


def moved(config: RunConfig, *updates: type[Update] | type[CompiledUpdate]) -> tuple[Trainee, list[float]]:
    """A trainee after some updates of each kind by gradients that are drawn, and the norm that each update told."""
    trainee = build_trainee(config, CPU)
    random, norms = Generator().manual_seed(0), []
    for moves in (update(trainee, config.optimization) for update in updates):
        for _ in range(STEPS // len(updates)):
            for parameter in trainee.model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=random) * 0.01
            with compiling():
                norms.append(moves.move(1e-2 / (1 + trainee.progress.step)).item())
            trainee.progress.step += 1
    return trainee, norms


def tensors(trainee: Trainee) -> dict[str, Tensor]:
    """All that an update changes and a checkpoint keeps."""
    found = {f"model.{name}": tensor for name, tensor in trainee.model.state_dict().items()}
    found |= {f"average.{name}": tensor for name, tensor in trainee.average.state_dict().items()}
    for index, state in trainee.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.5},
        {"weight_decay": 0.0, "gradient_clip": None},
        {"gradient_clip": 0.05},
        {"betas": [0.5, 0.9], "epsilon": 1e-3},
        {"ema_decay": 0.0},
        {"ema_decay": 0.2},
    ],
    ids=str,
)
def test_a_compiled_update_is_an_uncompiled_one(changes: dict[str, Any]) -> None:
    config = configured(**changes)
    (plain, told), (fused, also_told) = moved(config, Update), moved(config, CompiledUpdate)
    assert also_told == pytest.approx(told, rel=1e-5)
    torch.testing.assert_close(tensors(fused), tensors(plain), rtol=2e-5, atol=1e-6)
    assert fused.optimizer.param_groups[0]["lr"] == plain.optimizer.param_groups[0]["lr"] == 1e-2 / STEPS


def test_what_a_model_has_that_is_not_learned_goes_into_the_average_too() -> None:
    """As PyTorch's own average has it."""
    config = configured()
    trainee = build_trainee(config, CPU)
    trainee.model.register_buffer("count", torch.zeros(()))
    trainee.average.module.register_buffer("count", torch.zeros(()))
    moves = CompiledUpdate(trainee, config.optimization)
    for step in range(3):
        for parameter in trainee.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        trainee.model.get_buffer("count").fill_(step)
        with compiling():
            moves.move(1e-3)
        trainee.progress.step += 1
    assert trainee.average.module.get_buffer("count") == 2


def test_it_is_compiled_once() -> None:
    """Though the learning rate, the bias corrections and the share of the average are others at every step."""
    moved(configured(), CompiledUpdate)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_either_goes_on_where_the_other_left_off() -> None:
    """Moments and counts are where AdamW has them."""
    config = configured(weight_decay=0.1)
    expected = tensors(moved(config, Update)[0])
    for updates in ((CompiledUpdate, Update), (Update, CompiledUpdate)):
        torch.testing.assert_close(tensors(moved(config, *updates)[0]), expected, rtol=2e-5, atol=1e-6)
