"""Graph pass: MatMul -> edgedsl's own MatMul4Bits (:mod:`edgedsl.runtime.kernels`), weights of 4 bits, inputs of 8.

A product of integers like :mod:`edgedsl.exporters.w8a8`, with half the bytes and, on AVX2, half the instructions; its
inputs are rounded by the largest of each row's block, so that nothing has to be known of them beforehand.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedsl.exporters.blockwise import QuantizedWeight, in_blocks
from edgedsl.runtime.kernels import BLOCK, DOMAIN, PANEL

_STEP = 4  # input channels that one instruction multiplies
_MIDDLE = 8  # a code stands for itself less this, times the scale


def native_product(graph: onnx.GraphProto, node: onnx.NodeProto, rounded: QuantizedWeight) -> onnx.NodeProto:
    """The node in place of a MatMul; its weight is added to the graph."""
    num_outputs, num_inputs = rounded.codes.shape
    weight = f"{node.name}.weight.panels"
    graph.initializer.append(numpy_helper.from_array(packed_panels(rounded), weight))
    return helper.make_node(
        "MatMul4Bits", [node.input[0], weight], list(node.output), name=node.name, domain=DOMAIN,
        K=num_inputs, N=num_outputs, is_gated=0, epsilon=0.0,
    )  # fmt: skip


def packed_panels(rounded: QuantizedWeight) -> NDArray[np.uint8]:
    """uint8 [panels, blocks, bytes of a block], the order in which the kernel reads.

    A block holds the codes, [step][output][input of the step], those of the first 8 outputs of a step in the low halves
    of its bytes; then the scales fp16 [outputs], then the minima fp16: what a code of 8 stands for.
    """
    assert (rounded.bits, rounded.block_size) == (4, BLOCK)
    missing = -len(rounded.codes) % PANEL
    codes, scales, zero_points = (
        torch.nn.functional.pad(values, (0, 0, 0, missing))
        for values in (rounded.codes, rounded.scales, rounded.zero_points)
    )
    minima = scales * (_MIDDLE - zero_points.float())
    num_panels, num_blocks = len(codes) // PANEL, scales.shape[1]
    steps = in_blocks(codes, BLOCK).reshape(num_panels, 2, PANEL // 2, num_blocks, BLOCK // _STEP, _STEP)
    low, high = steps.permute(1, 0, 3, 4, 2, 5).numpy()
    halves = torch.stack([scales, minima]).to(torch.float16).reshape(2, num_panels, PANEL, num_blocks)
    tables = np.ascontiguousarray(halves.permute(1, 3, 0, 2).numpy()).reshape(num_panels, num_blocks, -1)
    packed = (low | (high << 4)).reshape(num_panels, num_blocks, -1)
    return np.concatenate([packed, tables.view(np.uint8)], axis=-1)
