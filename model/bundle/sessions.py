"""Graphs that run: opening ONNX Runtime sessions where they are wanted, and calling them.

What a session accepts and gives is held against the manifest when it is opened, and the shape of each answer when it is
run. A graph takes any number of concurrent calls. On a GPU it is called with buffers that stay there (`binding`).
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from model.bundle.binding import Binding
from model.bundle.errors import BundleError, ModelFault
from model.bundle.manifest import GraphSpec, TensorSpec
from model.bundle.onnx_runtime import onnx_runtime

Floats = NDArray[np.float32]
Provider = Literal["cpu", "cuda"]
Session = Any  # onnxruntime ships no types

_CUDA = "CUDAExecutionProvider"
# TF32 would round to 10 bits, and an exhaustive search would stall each new batch size for seconds.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

_LEAST_AT_A_TIME = 8
_TUNING_SECONDS = 0.1
_TRIES = 3
_WORTH_A_CALL = 1.03  # a smaller part has to be faster by this factor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how the graphs run.

    - provider: "cpu"; "cuda", which falls back to the CPU with a warning; "auto", CUDA where it works, which does so
      with a mere remark. With `require_provider` neither of the two falls back.
    - threads: within one operator; 0 lets ONNX Runtime take every core.
    - binding: whether the graphs are called with I/O binding; None takes it on CUDA only. On the CPU it copies what a
      plain run does not, a few microseconds of each call, and gains nothing (`benchmarks.gpu --device cpu` shows both).
    """

    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = 0
    require_provider: bool = False
    binding: bool | None = None


class Graph:
    """One graph of a bundle, ready to run."""

    def __init__(self, spec: GraphSpec, session: Session, binding: Binding | None = None) -> None:
        self._session, self._binding = session, binding
        self._name = Path(spec.file).stem
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._input_shapes = [cast(tuple[int, ...], tensor.shape[1:]) for tensor in spec.inputs]  # only N is dynamic
        self._shapes = [cast(tuple[int, ...], tensor.shape[1:]) for tensor in spec.outputs]
        self._at_a_time: int | None = None

    def run(self, *inputs: Floats) -> list[Floats]:
        """Its outputs, float32 (N, ...) each, for N rows of each input. Raises ModelFault where it fails."""
        count = len(inputs[0])
        shapes = [(count, *shape) for shape in self._shapes]
        if count == 0:
            return [np.empty(shape, np.float32) for shape in shapes]
        try:
            results = self._call_in_parts(inputs, shapes)
        except Exception as error:  # its own types share no base but this
            raise ModelFault(f"the {self._name} failed") from error
        if [result.shape for result in results] != shapes:
            raise ModelFault(f"the {self._name} gave another shape than it promised")
        return results

    def try_out(self, count: int = 1) -> None:
        """Run it on ``count`` rows of zeros. Raises ModelFault where it fails."""
        self.run(*self._zeros(count))

    def tune(self, most: int) -> int | None:
        """Find out how many rows at a time are the fastest, up to ``most``, and give no more to one call from now on;
        None, and no bound, if nothing says that more are slower. Raises ModelFault where the graph fails.

        What a layer makes of many rows does not fit into the cache where the next one would find it: the largest batch
        is not always the best. Sizes are tried from small to large, and none that would take longer than a fraction of
        a second, or memory in proportion: a large model is not tuned at all.
        """
        self._at_a_time = None
        sizes = [most]
        while sizes[0] // 2 >= _LEAST_AT_A_TIME:
            sizes.insert(0, sizes[0] // 2)
        ends = time.perf_counter() + _TUNING_SECONDS
        pace = self._seconds(1)
        paces: dict[int, float] = {}
        for size in sizes:
            if time.perf_counter() + _TRIES * size * pace > ends:
                break
            pace = min(self._seconds(size) for _ in range(_TRIES)) / size
            paces[size] = pace
        if paces:
            self._give_back()
            worth = min(paces.values()) * _WORTH_A_CALL
            best = max(size for size, pace in paces.items() if pace <= worth)
            if best < max(paces):
                self._at_a_time = best
        return self._at_a_time

    def bound(self, rows: int | None) -> None:
        """Give no more rows than these to one call from now on; None: no bound."""
        self._at_a_time = rows

    def _give_back(self) -> None:
        """Let a small run free what large ones needed: a server that is not busy should not look so."""
        if self._binding is None:
            options = onnx_runtime().RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._session.run(self._outputs, dict(zip(self._inputs, self._zeros(1), strict=True)), options)

    def _seconds(self, count: int) -> float:
        inputs = self._zeros(count)
        began = time.perf_counter()
        self.run(*inputs)
        return time.perf_counter() - began

    def _zeros(self, count: int) -> list[Floats]:
        return [np.zeros((count, *shape), np.float32) for shape in self._input_shapes]

    def _call_in_parts(self, inputs: tuple[Floats, ...], shapes: list[tuple[int, ...]]) -> list[Floats]:
        count, step = len(inputs[0]), self._at_a_time
        if step is None or 2 * count < 3 * step:  # one that is a little larger is not worth another call
            return self._call(inputs)
        outputs = [np.empty(shape, np.float32) for shape in shapes]
        for start in range(0, count, step):
            rows = slice(start, start + step)
            for output, part in zip(outputs, self._call(tuple(array[rows] for array in inputs)), strict=True):
                output[rows] = part
        return outputs

    def _call(self, inputs: tuple[Floats, ...]) -> list[Floats]:
        if self._binding is not None:
            return self._binding.run(*inputs)
        return cast("list[Floats]", self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True))))


def open_graphs(
    folder: Path, graphs: list[tuple[GraphSpec, bytes]], options: RuntimeOptions
) -> tuple[list[Graph], Provider]:
    """Start a session for each (spec, bytes of the ONNX file), all on one provider, which is named.

    Raises BundleError, one line, where a file cannot be loaded or is not what its spec says.
    """
    if options.provider != "cpu":
        opened = _open_on_cuda(folder, graphs, options)
        if opened is not None:
            return opened, "cuda"
        if options.require_provider:
            raise BundleError(f"{folder}: CUDA was required and ONNX Runtime cannot use it here")
        level = logging.WARNING if options.provider == "cuda" else logging.INFO
        logger.log(level, "ONNX Runtime cannot use CUDA here; %s runs on the CPU", folder.name)
    opened = []
    for spec, data in graphs:
        try:
            session = _session(data, options, cuda=False)
        except Exception as error:
            raise BundleError(f"{folder}/{spec.file}: ONNX Runtime cannot load it") from error
        opened.append(_graph(folder, spec, session, options, "cpu"))
    return opened, "cpu"


def _open_on_cuda(folder: Path, graphs: list[tuple[GraphSpec, bytes]], options: RuntimeOptions) -> list[Graph] | None:
    """The graphs, tried out; None where CUDA cannot be used, for whatever reason."""
    if _CUDA not in onnx_runtime().get_available_providers():
        return None
    try:
        onnx_runtime().preload_dlls()
        sessions = [_session(data, options, cuda=True) for _, data in graphs]
        if not all(_CUDA in session.get_providers() for session in sessions):
            return None
        opened = [
            _graph(folder, spec, session, options, "cuda") for (spec, _), session in zip(graphs, sessions, strict=True)
        ]
        # A card that is too old for the kernels, or has no memory left, fails now or at a client's request.
        for graph in opened:
            graph.try_out()
    except BundleError:  # a graph that is not what its spec says is no lack of CUDA
        raise
    except Exception:  # no device, no driver, no library: whatever it is, the CPU is tried and the lack reported
        logger.debug("CUDA sessions failed", exc_info=True)
        return None
    return opened


def _graph(folder: Path, spec: GraphSpec, session: Session, options: RuntimeOptions, device: Provider) -> Graph:
    _check_signature(folder, spec, session)
    bound = device == "cuda" if options.binding is None else options.binding
    return Graph(spec, session, Binding(session, spec, device) if bound else None)


def _session(data: bytes, options: RuntimeOptions, *, cuda: bool) -> Any:
    settings = onnx_runtime().SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnx_runtime().ExecutionMode.ORT_SEQUENTIAL
    # Spinning threads burn the cores that decode pictures.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 4  # failures reach us as exceptions; nothing is printed
    providers: list[Any] = [(_CUDA, _CUDA_OPTIONS)] if cuda else []
    session = onnx_runtime().InferenceSession(
        data, settings, providers=[*providers, "CPUExecutionProvider"], enable_fallback=False
    )
    # It would keep the file, as large as the weights again, to open itself anew on other providers: nobody asks it to.
    session._model_bytes = None
    return session


def _check_signature(folder: Path, spec: GraphSpec, session: Any) -> None:
    for role, promised, found in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        if len(promised) != len(found) or not all(map(_matches, promised, found)):
            shown = ", ".join(f"{tensor.name} {tensor.type} {tensor.shape}" for tensor in found)
            raise BundleError(f"{folder}/{spec.file}: its {role} are not what the manifest says, but {shown}")


def _matches(spec: TensorSpec, found: Any) -> bool:
    if found.name != spec.name or found.type != "tensor(float)" or len(found.shape) != len(spec.shape):
        return False
    # A dynamic axis may have any name, or none; it must not be a number.
    return all(
        axis == size if isinstance(size, int) else not isinstance(axis, int)
        for size, axis in zip(spec.shape, found.shape, strict=True)
    )
