"""Graph pass: the head in files of its own, so that the runtime works out no logit that the grammar forbids.

For a head of integers whose product is the logits (:mod:`edgedsl.exporters.w8a8`): the graph gives the codes of its
input instead, see :mod:`edgedsl.runtime.lm_head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from edgedsl import atomic
from edgedsl.exporters.passes.graph import CONTRIB, behind_head, constant, head_of, logits_of, remove_unused
from edgedsl.exporters.passes.last_logits import NUM_LOGITS
from edgedsl.runtime.decoder import HEAD_CODES
from edgedsl.runtime.lm_head import CODES_FILE, FILE_NAME, GRAPH_FILE, INPUT, LAYOUT, OUTPUT

TokenIds = Sequence[int] | NDArray[np.int64]


def can_part(model: ir.Model) -> bool:
    """Whether the head is a product of integers, with nothing behind it, of the positions that are asked for."""
    is_last = len(list(behind_head(model))) == 1
    has_number = any(value.name == NUM_LOGITS for value in model.graph.inputs)
    return is_last and has_number and head_of(model).op_type == "MatMulIntegerToFloat"


def part_head(model: ir.Model, folder: Path, token_ids: TokenIds | None = None) -> None:
    """Write the head into a folder; the graph's output becomes the codes uint8 [batch, num_logits, width].

    Args:
        model: see :func:`can_part`.
        folder: of the graph.
        token_ids: ascending: the tokens that keep a column; None for all.
    """
    head = head_of(model)
    codes, *others = head.inputs
    weight, input_scale, scales, zero_point = (constant(value) for value in others)
    assert codes is not None
    assert weight is not None
    assert input_scale is not None
    assert scales is not None
    assert zero_point is not None
    width, vocab_size = weight.shape
    kept = slice(None) if token_ids is None else np.asarray(token_ids, np.int64)
    weight, scales = np.ascontiguousarray(weight[:, kept].T), scales[kept]
    atomic.write_bytes(folder / CODES_FILE, weight.tobytes())
    fields = {"vocab_size": vocab_size, "width": width, "zero_point": int(zero_point)}
    arrays = {"scales": input_scale * scales, "token_ids": np.array([] if token_ids is None else token_ids)}
    atomic.write_bytes(folder / FILE_NAME, LAYOUT.pack(fields, arrays))
    atomic.write_bytes(folder / GRAPH_FILE, _graph(weight.shape, input_scale, scales, zero_point))
    logits = logits_of(model)
    assert logits.shape is not None
    codes.name, codes.type = HEAD_CODES, ir.TensorType(ir.DataType.UINT8)
    codes.shape = ir.Shape([*logits.shape[:-1], width])
    model.graph.outputs[model.graph.outputs.index(logits)] = codes
    remove_unused(model)


def _graph(
    shape: tuple[int, ...], input_scale: NDArray[np.float32], scales: NDArray[np.float32], zero_point: NDArray[np.uint8]
) -> bytes:
    """One product; its weight lies transposed in the file beside it, as the runtime takes rows out of it."""
    num_columns, width = shape
    weight = TensorProto(name="weight", data_type=TensorProto.INT8, dims=shape, raw_data=b"")
    set_external_data(weight, CODES_FILE, 0, num_columns * width)
    arrays = {
        "input.scale": input_scale, "input.zero_point": zero_point, "scales": scales,
        "zero_points": np.zeros(num_columns, np.int8),
    }  # fmt: skip
    inputs = [INPUT, "input.scale", "input.zero_point", "weight", "scales", "zero_points"]
    graph = helper.make_graph(
        [helper.make_node("QGemm", inputs, [OUTPUT], name="/lm_head/MatMul", domain=CONTRIB, transB=1)],
        "head",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["rows", width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", num_columns])],
        [weight, *(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    content: bytes = model.SerializeToString()
    return content
