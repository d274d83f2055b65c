"""Calls of a session whose inputs and outputs stay on a device: I/O binding of ONNX Runtime.

    rows (N, ...) --one copy each--> device inputs --graph--> device outputs --one copy each--> float32 (N, ...)

A plain run allocates both sides anew for each call, and brings what comes back to the host twice. Here the buffers of a
batch size are made once and used again. A buffer serves one call at a time, and calls may come from several threads.

The device is a parameter, so that the tests run this very code where there is no GPU. Host memory is not pinned here:
ONNX Runtime's Python API gives such memory for providers that are plug-ins alone, which its CUDA provider is not, and
newer versions stage large copies through pinned memory of their own.
"""

from collections import OrderedDict
from threading import Lock
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from model.bundle.manifest import GraphSpec
from model.bundle.onnx_runtime import onnx_runtime

Floats = NDArray[np.float32]
Device = Literal["cpu", "cuda"]

# Device memory that a graph keeps for calls to come: every batch size up to 64 of a small model, a few of a large one.
KEPT_BYTES = 64 << 20


class Binding:
    """A session with buffers on its device, by batch size; those used longest ago go first when they grow too large."""

    def __init__(self, session: Any, spec: GraphSpec, device: Device, *, kept_bytes: int = KEPT_BYTES) -> None:
        """`session` runs on `device`, and its signature is `spec`. Nothing is allocated before the first call."""
        self._session, self._spec, self._device = session, spec, device
        self._shapes = [tensor.shape[1:] for tensor in spec.inputs]
        tensors = (*spec.inputs, *spec.outputs)
        row_bytes = sum(4 * int(np.prod(cast(tuple[int, ...], tensor.shape[1:]))) for tensor in tensors)
        self._most_rows = kept_bytes // row_bytes
        self._kept: OrderedDict[int, _Buffers] = OrderedDict()
        self._kept_rows = 0
        self._lock = Lock()

    def run(self, *inputs: Floats) -> list[Floats]:
        """The graph's outputs (N, ...), arrays of the caller's own, for inputs (N, ...) with N at least 1.

        Raises ValueError where inputs are not what the graph takes, and what ONNX Runtime raises where it fails.
        """
        count = len(inputs[0])
        # ONNX Runtime copies any bytes of the right number into a bound input.
        for rows, shape in zip(inputs, self._shapes, strict=True):
            if rows.dtype != np.float32 or rows.shape != (count, *shape):
                raise ValueError(f"rows are {rows.dtype} {rows.shape} and not float32 {(count, *shape)}")
        buffers = self._take(count) or _Buffers(self._session, self._spec, self._device, count)
        results = buffers.run(*inputs)
        self._keep(buffers)  # not those of a call that failed
        return results

    def _take(self, count: int) -> "_Buffers | None":
        with self._lock:
            buffers = self._kept.pop(count, None)
            if buffers is not None:
                self._kept_rows -= count
            return buffers

    def _keep(self, buffers: "_Buffers") -> None:
        with self._lock:
            if buffers.count in self._kept:  # another thread's call of this size was sooner
                return
            self._kept[buffers.count] = buffers
            self._kept_rows += buffers.count
            while self._kept_rows > self._most_rows:
                count, _ = self._kept.popitem(last=False)
                self._kept_rows -= count


class _Buffers:
    """Inputs and outputs on the device for batches of one size, bound to a session."""

    def __init__(self, session: Any, spec: GraphSpec, device: Device, count: int) -> None:
        self.count = count
        self._session = session
        self._binding = session.io_binding()
        self._inputs = [_allocate(tensor.shape, device, count) for tensor in spec.inputs]
        self._outputs = [_allocate(tensor.shape, device, count) for tensor in spec.outputs]
        for tensor, value in zip(spec.inputs, self._inputs, strict=True):
            self._binding.bind_ortvalue_input(tensor.name, value)
        for tensor, value in zip(spec.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(tensor.name, value)

    def run(self, *inputs: Floats) -> list[Floats]:
        # It returns when the rows are on the device: the graph runs on a stream that would not wait for them.
        for value, rows in zip(self._inputs, inputs, strict=True):
            value.update_inplace(np.ascontiguousarray(rows))
        self._session.run_with_iobinding(self._binding)
        return [_fetch(value) for value in self._outputs]


def _allocate(shape: tuple[int | str, ...], device: Device, count: int) -> Any:
    return onnx_runtime().OrtValue.ortvalue_from_shape_and_type((count, *shape[1:]), np.float32, device)


def _fetch(value: Any) -> Floats:
    """A copy on the host: of what lies there already ONNX Runtime gives a view, which the next call would overwrite."""
    array = cast(Floats, value.numpy())
    return array if array.flags.owndata else array.copy()
