"""What is found in ONNX files, compared with what the onnx package built."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.bundle.graphs import RANDOM_OPERATORS, inspect_graph
from model.bundle.manifest import ImageSpec, LatentSpec
from tests.support.tiny import decoder_graph, tiny_weights

IMAGE, LATENT = ImageSpec(height=8, width=8, channels=1), LatentSpec(dim=2)
WEIGHTS = tiny_weights(IMAGE, LATENT)
DECODER = decoder_graph(IMAGE, LATENT, WEIGHTS).SerializeToString()


def external() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def model(node: onnx.NodeProto | None = None, initializer: onnx.TensorProto | None = None) -> onnx.ModelProto:
    graph = helper.make_graph([node] if node else [], "g", [], [], [initializer] if initializer else [])
    return helper.make_model(graph)


def in_branch(node: onnx.NodeProto | None, tensor: onnx.TensorProto | None) -> onnx.ModelProto:
    branch = model(node, tensor).graph
    return model(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=model().graph))


def in_function(node: onnx.NodeProto | None, tensor: onnx.TensorProto | None) -> onnx.ModelProto:
    nodes = [node] if node else [helper.make_node("Constant", [], ["y"], value=tensor)]
    outer = model()
    outer.functions.append(helper.make_function("local", "f", [], ["y"], nodes, [helper.make_opsetid("", 18)]))
    return outer


def in_attribute(node: onnx.NodeProto | None, tensor: onnx.TensorProto | None) -> onnx.ModelProto:
    return model(node or helper.make_node("Constant", [], ["y"], value=tensor))


Place = Callable[[onnx.NodeProto | None, onnx.TensorProto | None], onnx.ModelProto]
PLACES: list[Place] = [model, in_branch, in_function, in_attribute]


def test_operators_are_those_of_the_graph_and_its_subgraphs() -> None:
    slow = decoder_graph(IMAGE, LATENT, WEIGHTS, "slow")
    found = inspect_graph(slow.SerializeToString())
    assert found.operators == {"Loop", "Identity", "MatMul", "Sigmoid", "Reshape"}
    assert not found.external_data
    assert found.random == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("operator", sorted(RANDOM_OPERATORS))
def test_random_operators_are_found_wherever_they_hide(place: Place, operator: str) -> None:
    assert inspect_graph(place(helper.make_node(operator, [], ["y"]), None).SerializeToString()).random == [operator]


def test_dropout_counts_as_random() -> None:
    """It draws where its third input says "training", which the graph may compute."""
    dropout = helper.make_node("Dropout", ["latent", "ratio", "training"], ["y"])
    assert inspect_graph(model(dropout).SerializeToString()).random == ["Dropout"]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_are_found_wherever_they_hide(place: Place) -> None:
    assert inspect_graph(place(None, external()).SerializeToString()).external_data


def test_either_mark_of_external_data_is_enough() -> None:
    only_location, only_entry = external(), external()
    only_location.ClearField("external_data")
    only_entry.ClearField("data_location")
    for tensor in (only_location, only_entry):
        assert inspect_graph(model(None, tensor).SerializeToString()).external_data


def test_external_data_of_sparse_tensors_are_found() -> None:
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(external())
    outer = model()
    outer.graph.sparse_initializer.append(sparse)
    assert inspect_graph(outer.SerializeToString()).external_data


def test_a_graph_given_twice_is_read_twice() -> None:
    """Protobuf merges repeated single fields, so the second part counts as much as the first."""
    hidden = model(helper.make_node("RandomNormal", [], ["y"])).SerializeToString()
    assert inspect_graph(DECODER + hidden).random == ["RandomNormal"]


def test_bottomless_graphs_are_refused() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(15):
        node = helper.make_node("If", ["c"], ["y"], then_branch=model(node).graph)
    with pytest.raises(ValueError, match="deep"):
        inspect_graph(model(node).SerializeToString())


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello", b"PK\x03\x04", b"\x0b\x0c", b"\x3a\xff", b"\x08" + b"\xff" * 11]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        inspect_graph(data)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_arbitrary_bytes_raise_nothing_but_value_errors(data: st.DataObject) -> None:
    file = bytearray(DECODER)
    for position in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=5)):
        file[position] = data.draw(st.integers(0, 255))
    file = file[: data.draw(st.integers(0, len(file)))]
    try:
        inspect_graph(bytes(file))
    except ValueError as error:
        reason = str(error)
    else:
        reason = "read"
    assert reason
