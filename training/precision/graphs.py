"""Graphs in less than float32, from graphs in float32: bytes to bytes, the same bytes for the same graph.

Inputs and outputs stay float32, and so does all that comes after the last weights (the sigmoid of a pixel, the soft
bound of log_variance): half precision cannot tell 0.9998 from 1, and under a Bernoulli likelihood that is most of the
-ELBO of a pixel that is almost surely on.

float16 turns everything before that to half precision. int8 is static quantization (Jacob et al., 2018), written as
QuantizeLinear and DequantizeLinear pairs around convolutions and matrix products:

- weights int8, symmetric, a scale for each output channel, and within ±64: x86 without VNNI adds two products of a
  uint8 and an int8 in 16 bits, and 2 * 255 * 64 is the most that fits. So a graph gives the same on every CPU, and
  one that was exported with VNNI opens without. On the bundle that ships that costs 0.05 nats of -ELBO an image.
- activations uint8, their ranges from calibration. (With int8 activations, the other choice, the encoder ran at half
  the speed of float32, and in uint8 faster than it.)
- pictures are 8-bit: the encoder's input has the scale 1/255, and is not rounded at all.
- outputs of matrix products are not quantized: the functions that follow are computed in float32 anyway.
- in float32 stay what touches a latent (the layer that gives mean and log_variance, the layer that takes a latent),
  since a latent has no range of its own, and what a client sends must not be cut to what calibration saw; and a last
  convolution, whose logits would be rounded to 8 bits. On the bundle that ships quantizing every layer and its output
  costs 0.41 nats of -ELBO an image (500 validation images), and this 0.20; it keeps 4% of the bytes from shrinking.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from model.bundle import onnx_runtime
from model.bundle.manifest import GraphSpec
from training.errors import ExportError
from training.graphs import serialized

Floats = NDArray[np.float32]

# The operators with weights.
_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_BATCH = 32


def float16_graph(data: bytes, spec: GraphSpec) -> bytes:
    """A float32 graph with its weights and its arithmetic in float16, but for what comes after the last weights.

    Raises:
        ExportError: the converter cannot make it.
    """
    graph = onnx.load_from_string(data)
    try:
        with warnings.catch_warnings():
            # Of weights that float16 rounds to zero or cannot hold: what that does to the outputs is measured.
            warnings.simplefilter("ignore")
            converted = onnx_runtime.float16().convert_float_to_float16(
                graph, keep_io_types=True, node_block_list=sorted(_after_the_weights(graph))
            )
        _sort(converted.graph)  # it appends its casts where it made them
        return serialized(converted)
    except Exception as error:  # its own checks are assertions, and those of protobuf and onnx share no base
        raise ExportError(f"{spec.file}: cannot be converted to float16") from error


def int8_graph(data: bytes, spec: GraphSpec, calibration: Floats) -> bytes:
    """A float32 graph, quantized.

    Args:
        calibration: typical inputs of the graph, ``(N, ...)``; the ranges of activations are the smallest and largest
            values that these give.

    Raises:
        ExportError: the quantizer cannot make it.
    """
    tool = onnx_runtime.quantization()
    graph = onnx.load_from_string(data)
    kept = _kept(graph, spec)
    chosen = [node.name for node in graph.graph.node if node.op_type in _WEIGHTED and node.name not in kept]
    if not chosen:
        raise ExportError(f"{spec.file}: has no layer that int8 would change")
    # Otherwise the quantizer advises to run what the exporter has done already.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    name = spec.inputs[0].name
    taken = {node.input[0] for node in graph.graph.node if node.name in chosen}
    pixels = {tensor: [{"rmin": np.float32(0), "rmax": np.float32(1)}] for tensor in taken & _pixels(graph)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / spec.file
            tool.quantize_static(
                graph,
                file,
                _reader(name, calibration),
                quant_format=tool.QuantFormat.QDQ,
                op_types_to_quantize=sorted(_WEIGHTED),
                nodes_to_quantize=chosen,
                per_channel=True,
                reduce_range=True,
                activation_type=tool.QuantType.QUInt8,
                weight_type=tool.QuantType.QInt8,
                calibrate_method=tool.CalibrationMethod.MinMax,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    "TensorQuantOverrides": pixels,
                },
            )
            return serialized(onnx.load(file))
    except Exception as error:  # it raises whatever its parts do
        raise ExportError(f"{spec.file}: cannot be quantized") from error


def _reader(name: str, inputs: Floats) -> object:
    pieces: Iterator[dict[str, Floats]] = (
        {name: inputs[start : start + _BATCH]} for start in range(0, len(inputs), _BATCH)
    )

    class Reader(onnx_runtime.quantization().CalibrationDataReader):  # type: ignore[misc]  # it comes without types
        def get_next(self) -> dict[str, Floats] | None:
            return next(pieces, None)

    return Reader()


def _sort(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it takes from, and otherwise leave the order as it is."""
    waiting, done = list(graph.node), {tensor.name for tensor in (*graph.input, *graph.initializer)} | {""}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        place = next((at for at, node in enumerate(waiting) if done.issuperset(node.input)), None)
        if place is None:
            raise ValueError("the nodes go round in a circle")
        ordered.append(waiting.pop(place))
        done |= set(ordered[-1].output)
    del graph.node[:]
    graph.node.extend(ordered)


def _kept(graph: onnx.ModelProto, spec: GraphSpec) -> set[str]:
    """The names of the layers that stay float32."""
    kept = set()
    if spec.inputs[0].name == "latent":
        kept |= {node.name for node in _outermost(graph, from_inputs=True)}
    for node in _outermost(graph, from_inputs=False):
        if node.op_type == "Conv" or spec.outputs[0].name != "image":
            kept.add(node.name)
    return kept


def _pixels(graph: onnx.ModelProto) -> set[str]:
    """The names of the tensors that hold the pictures as they came, in one shape or another."""
    names = {tensor.name for tensor in graph.graph.input if tensor.name == "image"}
    for node in graph.graph.node:
        if node.op_type in ("Reshape", "Flatten", "Identity") and node.input[0] in names:
            names.add(node.output[0])
    return names


def _after_the_weights(graph: onnx.ModelProto) -> set[str]:
    """The names of the nodes that come after the last weights on every way to an output."""
    return _walk(graph, from_inputs=False)[1]


def _outermost(graph: onnx.ModelProto, *, from_inputs: bool) -> list[onnx.NodeProto]:
    """The layers with weights that are met first on the ways from the inputs on, or from the outputs back."""
    names = _walk(graph, from_inputs=from_inputs)[0]
    return [node for node in graph.graph.node if node.name in names]


def _walk(graph: onnx.ModelProto, *, from_inputs: bool) -> tuple[set[str], set[str]]:
    """The names of the layers with weights at which the ways from the inputs (or the outputs) end, and of the nodes
    that were passed before."""
    ends = graph.graph.input if from_inputs else graph.graph.output
    reached = {tensor.name for tensor in ends}
    layers: set[str] = set()
    passed: set[str] = set()
    # Nodes are in topological order, so that one pass meets all.
    for node in graph.graph.node if from_inputs else reversed(graph.graph.node):
        here, beyond = (node.input, node.output) if from_inputs else (node.output, node.input)
        if reached.isdisjoint(here):
            continue
        if node.op_type in _WEIGHTED:
            layers.add(node.name)
        else:
            passed.add(node.name)
            reached |= set(beyond)
    return layers, passed
