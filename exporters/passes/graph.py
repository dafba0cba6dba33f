"""What the passes share: files, constants, and the head of a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from edgedsl.errors import ExportError

CONTRIB = "com.microsoft"
# Products of hidden states and a weight, whole or quantised.
PRODUCTS = frozenset({"MatMul", "MatMulIntegerToFloat", "MatMulNBits", "Gemm"})
# What a model may do to its logits: bias, granite's scaling, gemma2's soft cap.
_AFTER_HEAD = frozenset({"Add", "Cast", "Div", "Mul", "Tanh"})
_INLINE_BYTES = 1024


def load_graph(path: Path) -> ir.Model:
    """Read a graph; weights beside it are mapped, not read."""
    return ir.load(path)


def save_graph(model: ir.Model | onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights beside it in NAME.data.

    ``model`` must not be used afterwards where its weights are mapped from that file.
    """
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=_INLINE_BYTES)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or of a Constant node; None for what is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_weight(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def replace(model: ir.Model, old: ir.Node, new: Sequence[ir.Node], output: ir.Value) -> None:
    """Put nodes where ``old`` was; ``output`` takes the place, and the name, of its first output."""
    value = old.outputs[0]
    name = value.name
    model.graph.insert_before(old, new)
    value.replace_all_uses_with(output, replace_graph_outputs=True)
    output.shape, output.type = value.shape, value.type
    model.graph.remove(old, safe=True)
    output.name = name


def replace_output(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """An output of the graph becomes another value, of its name, type and shape; what reads the old one goes on to."""
    new.shape, new.type = old.shape, old.type
    name, old.name = old.name, f"{old.name}.inner"
    outputs = model.graph.outputs
    outputs[outputs.index(old)] = new
    new.name = name


def remove_unused(model: ir.Model) -> None:
    """Drop nodes and weights that no output needs, and bring the rest into topological order."""
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def use_contrib(model: ir.Model) -> None:
    """Declare ONNX Runtime's own operators."""
    model.opset_imports.setdefault(CONTRIB, 1)


def head_of(model: ir.Model) -> ir.Node:
    """The product that the logits come from.

    Raises:
        ExportError: there is none.
    """
    *_, value = behind_head(model)
    node = value.producer()
    assert node is not None
    return node


def behind_head(model: ir.Model) -> Iterator[ir.Value]:
    """The values from the logits back to the output of the head.

    Raises:
        ExportError: the logits come from no product.
    """
    value = logits_of(model)
    while True:
        yield value
        node = value.producer()
        if node is not None and node.op_type in PRODUCTS:
            return
        computed = [v for v in node.inputs if v is not None and constant(v) is None] if node is not None else []
        if node is None or node.op_type not in _AFTER_HEAD or len(computed) != 1:
            raise ExportError("the logits of the graph come from no MatMul", hint="report this with your versions")
        value = computed[0]


def logits_of(model: ir.Model) -> ir.Value:
    """The output ``logits`` [batch, positions, vocab].

    Raises:
        ExportError: there is none.
    """
    for value in model.graph.outputs:
        if value.name == "logits":
            return value
    raise ExportError("the graph has no output 'logits'", hint="report this with your versions")


def set_dim(value: ir.Value, axis: int, dim: int | str) -> None:
    """Declare one axis anew, counted from the end if negative; what has no declared shape is left alone."""
    if value.shape is not None:
        dims: list[Any] = list(value.shape)
        dims[axis] = dim
        value.shape = ir.Shape(dims)
