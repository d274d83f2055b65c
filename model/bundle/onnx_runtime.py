"""ONNX Runtime, imported when it is first used, and silent."""

import os
from functools import cache
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
