"""Steps that PyTorch's compiler has fused: ``optimization.compile``.

What is compiled is the loss of a batch, from the images to the scalar, and with it its backward pass: element-wise work
becomes one loop where it was many, and copies to bfloat16 happen on the way. Noise is drawn outside of it, from the
same generator in the same order, so that a compiled run is an uncompiled one but for rounding. The update stays as it
is: one fused kernel already.
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch

from model.vae import VAE
from training.errors import ConfigError
from training.objectives.loss import Loss

_Rest = ParamSpec("_Rest")


def compiled(loss: Callable[Concatenate[VAE, _Rest], Loss]) -> Callable[Concatenate[VAE, _Rest], Loss]:
    """``training.objective.training_loss``, compiled at its first call; for the shapes of that call.

    Where a number of an objective changes from step to step, as beta does on its schedule, it becomes an argument of
    the compiled code at its second value. Code that would have to be compiled for step after step raises PyTorch's
    FailOnRecompileLimitHit: the default is that a run goes on uncompiled.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(loss)


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that what is missing is told before a run begins.

    Raises:
        ConfigError: PyTorch cannot compile for this device on this machine.
    """
    try:
        torch.compile(_anything)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = (
            "a C++ compiler (g++, clang++) and Python's headers" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise ConfigError(
            f"optimization.compile = true: PyTorch cannot compile for {device.type} here ({reason.strip()}). "
            f"It takes {needed}; install that, or leave optimization.compile out"
        ) from error


def _anything(values: torch.Tensor) -> torch.Tensor:
    return values.exp() + 1
