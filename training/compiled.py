"""Steps that PyTorch's compiler has fused: ``optimization.compile``.

What is compiled is the loss of a batch, from the images to the scalar, with it its backward pass, and on a CPU the
update: element-wise work becomes one loop where it was many, and copies to bfloat16 happen on the way. Noise comes from
the same generator in the same order, so that a compiled run is an uncompiled one but for rounding. Where
latents are chosen by weight (``objective.gradient_samples``), rounding may choose another; the mean of the gradient
stays.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

from training.errors import CompilationFailed, ConfigError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def compiled(function: Callable[_Arguments, _Result], *, whole: bool = False) -> Callable[_Arguments, _Result]:
    """A function of tensors, compiled at its first call for the shapes it is given; to be called inside of `compiling`.

    A number that only enters arithmetic, as beta does on its schedule, becomes an argument of the compiled code at its
    second value; for each value of others it is compiled again, and they have to be tensors. What this process compiled
    before is forgotten: PyTorch compiles a function for a few models only, and goes on uncompiled with the next.

    Args:
        whole: all of it, or none: what PyTorch would have to compile in pieces is an error before any of it has run.
    """
    torch.compiler.reset()
    return torch.compile(function, fullgraph=whole)


@contextmanager
def compiling() -> Iterator[None]:
    """While entered, what is to be compiled is compiled or an error: otherwise PyTorch goes on uncompiled, and says
    nothing, with a function that it would have to compile again and again.

    Raises:
        CompilationFailed: in the place of PyTorch's own errors.
    """
    # Here, since to import PyTorch's compiler takes as long as to import the rest of it.
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        raise CompilationFailed(
            f"optimization.compile: PyTorch failed to compile a step ({_reason(error)}); start another run without it"
        ) from error


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that what is missing is told before a run begins.

    Raises:
        ConfigError: PyTorch cannot compile for this device on this machine, or was told not to.
    """
    # Code for a size that is in none of PyTorch's caches: one may have been filled before the compiler went.
    zeros = torch.zeros(8 + time.time_ns() % 1_000_000, device=device)
    try:
        result = torch.compile(_whether_compiled, dynamic=False)(zeros)
    except (RuntimeError, OSError, ImportError) as error:
        on_cpu = device.type == "cpu"
        needed = "g++, or what CXX names, and the headers of Python" if on_cpu else "Triton and a C compiler"
        raise ConfigError(
            f"optimization.compile = true: PyTorch cannot compile for {device.type} here ({_reason(error)}). "
            f"It takes {needed}; or leave optimization.compile out"
        ) from error
    if not result.all():
        raise ConfigError(
            "optimization.compile = true: PyTorch was told to compile nothing (TORCH_COMPILE_DISABLE or another of its "
            "settings); take that back, or leave optimization.compile out"
        )


def compiler_of(device: torch.device) -> str | None:
    """The version of what compiles for a CPU, as it says it; its code decides about rounding. None for others, whose
    compiler is a part of PyTorch."""
    if device.type != "cpu":
        return None
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    try:
        done = subprocess.run(  # noqa: S603 (whoever trains says what compiles)
            [compiler, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return compiler
    return done.stdout.partition("\n")[0].strip()


def _whether_compiled(zeros: torch.Tensor) -> torch.Tensor:
    return zeros.exp() if torch.compiler.is_compiling() else zeros


def _reason(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
