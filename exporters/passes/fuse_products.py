"""Graph pass: what stands before and behind MatMul4Bits (:mod:`edgedsl.exporters.w4a8`) becomes part of it.

The norm before a product, with the residual sum before that, is worked out while the rows are rounded; gate and SiLU
are applied to a panel while it is in the cache. Each is an operator less: a call, a meeting of threads, and for the
gate three passes over the widest rows of the model.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedsl.exporters.passes.graph import add_weight, constant, remove_unused, replace
from edgedsl.runtime.kernels import BLOCK, DOMAIN, PANEL

_FUSED = {
    "SimplifiedLayerNormalization": "NormMatMul4Bits",
    "SkipSimplifiedLayerNormalization": "SkipNormMatMul4Bits",
}
_CODE_BYTES = BLOCK * PANEL // 2
Panels = NDArray[np.uint8]


def fuse_products(model: ir.Model) -> None:
    """Fuse all that fits; a graph without the operator stays as it is."""
    for node in list(model.graph):
        if node.domain == DOMAIN:
            _fuse_gate(model, node)
    remove_unused(model)  # else the old products would read the norms too
    for node in list(model.graph):
        if node.domain == DOMAIN:
            _fuse_norm(model, node)
    remove_unused(model)


def gated_panels(panels: Panels) -> Panels:
    """Panels [2n, blocks, bytes] of n panels of gates and n of what they gate -> 8 outputs of each in every panel."""
    halves = [_half_panels(part) for part in np.split(panels, 2)]
    codes, tables = (np.stack(parts, axis=-2) for parts in zip(*halves, strict=True))
    num_panels, num_blocks = len(panels), panels.shape[1]
    mixed = codes[..., 0, :] | (codes[..., 1, :] << 4)
    # [panels, blocks, scales or minima, gates or the others, outputs]
    columns = np.ascontiguousarray(tables).reshape(num_panels, num_blocks, -1)
    return np.concatenate([mixed, columns.view(np.uint8)], axis=-1)


def _half_panels(panels: Panels) -> tuple[Panels, NDArray[np.float16]]:
    """Codes [2n, blocks, 512], one a byte, and tables [2n, blocks, 2, 8] of the halves of n panels."""
    num_panels, num_blocks, _ = panels.shape
    packed = panels[..., :_CODE_BYTES]
    codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(2 * num_panels, num_blocks, -1)
    tables = np.ascontiguousarray(panels[..., _CODE_BYTES:]).view(np.float16)
    split = tables.reshape(num_panels, num_blocks, 2, 2, PANEL // 2).transpose(0, 3, 1, 2, 4)
    return codes, split.reshape(2 * num_panels, num_blocks, 2, PANEL // 2)


def _fuse_gate(model: ir.Model, product: ir.Node) -> None:
    """MatMul4Bits, Split, SiLU, Mul -> one that is gated."""
    split = _only_reader(product.outputs[0])
    if split is None or split.op_type != "Split" or len(split.outputs) != 2:
        return
    gelu, multiply = (_only_reader(value) for value in split.outputs)
    is_silu = gelu is not None and gelu.op_type == "QuickGelu" and gelu.attributes["alpha"].as_float() == 1.0
    if gelu is None or not is_silu or multiply is None or multiply.op_type != "Mul":
        return
    num_channels = product.attributes["N"].as_int() // 2
    if _only_reader(gelu.outputs[0]) is not multiply or num_channels % PANEL:
        return
    panels = constant(product.inputs[1])
    assert panels is not None
    weight = add_weight(model, f"{product.name}.weight.gated", gated_panels(panels))
    attributes = {"K": product.attributes["K"].as_int(), "N": num_channels, "is_gated": 1, "epsilon": 0.0}
    inputs = [product.inputs[0], weight]
    gated = ir.node(product.op_type, inputs, attributes, domain=DOMAIN, name=product.name)
    replace(model, multiply, [gated], gated.outputs[0])


def _fuse_norm(model: ir.Model, product: ir.Node) -> None:
    """RMSNorm, MatMul4Bits -> NormMatMul4Bits; with a residual sum before it SkipNormMatMul4Bits."""
    hidden, weights = product.inputs
    assert hidden is not None
    norm = hidden.producer()
    if norm is None or norm.op_type not in _FUSED or _only_reader(hidden) is None:
        return
    if len(norm.inputs) > 3:  # a bias of the sum
        return
    value, *skip, scale = norm.inputs
    attributes: dict[str, float] = {name: product.attributes[name].as_int() for name in ("K", "N", "is_gated")}
    attributes["epsilon"] = norm.attributes["epsilon"].as_float()
    fused = ir.node(
        _FUSED[norm.op_type], [value, weights, scale, *skip], attributes, domain=DOMAIN, num_outputs=1 + len(skip),
        name=product.name,
    )  # fmt: skip
    replace(model, product, [fused], fused.outputs[0])
    if skip:
        _replace_stream(norm, fused.outputs[1])


def _replace_stream(norm: ir.Node, new: ir.Value) -> None:
    """The residual sum that the norm gave comes from elsewhere."""
    new.name = f"{norm.name}/stream"
    if len(norm.outputs) > 3:
        old = norm.outputs[3]
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.shape, new.type = old.shape, old.type


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads a value, if it is the only one, once, and the value is no output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
