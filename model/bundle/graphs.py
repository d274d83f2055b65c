"""What an ONNX file holds that a bundle must not: random nodes and data outside the file.

ONNX Runtime does not say, and the onnx package is no part of serving; so this reads the few protobuf fields that
matter (onnx.proto, ONNX IR version 3 and later) and skips the rest unread. Both checks are on the bytes that are run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

# Operators whose result is not, or need not be, a function of their inputs: Dropout draws if an input says "training",
# which may be computed, and in what is exported for inference it has no use.
RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)

_MAX_DEPTH = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation

# message -> field number -> what lies there. Only messages on the way to a node or a tensor are followed.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}


@dataclass(slots=True)
class GraphContents:
    """What was met in an ONNX file, subgraphs and functions included."""

    operators: set[str] = field(default_factory=set)
    external_data: bool = False
    graphs: int = 0

    @property
    def random(self) -> list[str]:
        """The random operators among them."""
        return sorted(self.operators & RANDOM_OPERATORS)


def inspect_graph(data: bytes) -> GraphContents:
    """Read an ONNX file. Raises ValueError where the bytes are no protobuf, or hold no graph."""
    contents = GraphContents()
    _walk("Model", memoryview(data), contents, 0)
    if contents.graphs == 0:
        raise ValueError("no graph")
    return contents


def _walk(message: str, data: memoryview, contents: GraphContents, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    contents.graphs += message == "Graph"
    for number, wire, value in _fields(data):
        if isinstance(value, int):
            contents.external_data |= message == "Tensor" and number == 14 and value == _EXTERNAL
        elif wire != _BYTES:
            continue
        elif message == "Node" and number == 4:
            contents.operators.add(bytes(value).decode())
        elif message == "Tensor" and number == 13:
            contents.external_data = True
        elif number in _FIELDS[message]:
            _walk(_FIELDS[message][number], value, contents, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of a message's fields, in order; groups, long dead, are refused."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("field 0")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")
        if at + size > len(data):
            raise ValueError("truncated")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("varint too long")
