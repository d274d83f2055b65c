"""ONNX Runtime and its tools, imported when they are first used, and silent."""

import os
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from model.bundle.interrupts import quick_exit


@cache
def onnx_runtime() -> ModuleType:
    """The module ``onnxruntime``.

    Its Linux packages have telemetry since 1.32: the import writes an identity of the machine under HOME and starts a
    thread that reports to its makers. Only a variable that is set before the import keeps it from that (its
    Privacy.md), so that no module here may import it by itself. Whoever wants to report sets ORT_DISABLE_TELEMETRY=0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with quick_exit():
        import onnxruntime

    module: ModuleType = onnxruntime
    return module


@cache
def quantization() -> ModuleType:
    """The module ``onnxruntime.quantization``, which only exporting needs: it imports onnx, and no server has that."""
    return _tool("quantization")


@cache
def float16() -> ModuleType:
    """The module ``onnxruntime.transformers.float16``; as `quantization`."""
    return _tool("transformers.float16")


def _tool(name: str) -> ModuleType:
    runtime = onnx_runtime()  # first, since it silences what all of them import
    before = list(sys.path)
    # Its modules import each other by their bare names, from a folder that their package puts on the path when it is
    # imported. There it would stay, and be found by whoever imports something called `float16` or `optimizer`.
    sys.path.append(str(Path(str(runtime.__file__)).parent / "transformers"))
    try:
        with quick_exit():
            return import_module(f"onnxruntime.{name}")
    finally:
        sys.path[:] = before
