"""edgedsl's own operators against slow references: any number of rows, every form, and inputs that do not fit."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedsl import machine
from edgedsl.errors import ProviderError
from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, quantize_weight
from edgedsl.exporters.passes.fuse_products import gated_panels
from edgedsl.exporters.recipes import RECIPES
from edgedsl.exporters.w4a8 import packed_panels
from edgedsl.runtime import kernels
from edgedsl.runtime.kernels import BLOCK, DOMAIN, LIBRARY, PANEL
from edgedsl.runtime.providers import ThreadSettings, make_session

runs_here = pytest.mark.skipif(bool(kernels.why_not()), reason=f"own operators: {kernels.why_not()}")
EPSILON = 1e-5
INPUTS = {"MatMul4Bits": 1, "NormMatMul4Bits": 2, "SkipNormMatMul4Bits": 3}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantized(num_outputs: int, width: int, seed: int = 0) -> QuantizedWeight:
    return quantize_weight(torch.from_numpy(random(num_outputs, width, seed=seed)), Recipe(4, block_size=BLOCK), 4)


def session(
    panels: np.ndarray, width: int, num_outputs: int, kind: str = "MatMul4Bits", *, is_gated: bool = False,
    num_threads: int = 2,
) -> onnxruntime.InferenceSession:  # fmt: skip
    names = ["x", "norm", "skip"][: INPUTS[kind]]
    outputs = ["y", "stream"] if kind == "SkipNormMatMul4Bits" else ["y"]
    node = helper.make_node(
        kind, ["x", "weights", *names[1:]], outputs, domain=DOMAIN,
        K=width, N=num_outputs, is_gated=int(is_gated), epsilon=EPSILON,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(panels, "weights")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4
    kernels.register(options)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def rounded_rows(rows: np.ndarray) -> np.ndarray:
    """Rows as the operator sees them: 8 bits by the largest of each block."""
    width = rows.shape[-1]
    blocks = np.pad(rows, ((0, 0), (0, -width % BLOCK))).reshape(len(rows), -1, BLOCK)
    top = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(top > 0, np.rint(blocks * (np.float32(127) / top)), 0)
    return (codes * (top / np.float32(127))).reshape(len(rows), -1)[:, :width]


def weight_of(rounded: QuantizedWeight) -> np.ndarray:
    """[outputs, inputs] as the operator sees it: scales and minima in fp16."""
    scales = rounded.scales.half().float()
    minima = (rounded.scales * (8 - rounded.zero_points.float())).half().float()
    spread = [values.repeat_interleave(BLOCK, 1)[:, : rounded.codes.shape[1]] for values in (scales, minima)]
    return ((rounded.codes.float() - 8) * spread[0] + spread[1]).numpy()


def rms_norm(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    normed: np.ndarray = wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + EPSILON) * weight
    return normed.astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


# The weights


def test_panels_hold_what_was_rounded() -> None:
    rounded = quantized(PANEL + 3, 2 * BLOCK)
    panels = packed_panels(rounded)
    assert panels.shape == (2, 2, BLOCK * PANEL // 2 + 4 * PANEL)
    for output, channel in ((0, 0), (7, 3), (8, 3), (15, 63), (17, 64), (18, 127)):
        panel, column = divmod(output, PANEL)
        block, inside = divmod(channel, BLOCK)
        step, k = divmod(inside, 4)
        byte = int(panels[panel, block, 32 * step + 4 * (column % 8) + k])
        assert (byte >> 4 if column >= 8 else byte & 15) == int(rounded.codes[output, channel])
        scales, minima = panels[panel, block, -4 * PANEL :].view(np.float16).reshape(2, PANEL)
        assert scales[column] == np.float16(rounded.scales[output, block])
        shift = 8 - int(rounded.zero_points[output, block])
        assert minima[column] == np.float16(float(rounded.scales[output, block]) * shift)
    assert not panels[1, :, -4 * PANEL :].view(np.float16).reshape(2, 2, PANEL)[:, :, 3:].any(), "no output, no weight"


# The products


@runs_here
@pytest.mark.parametrize(("num_outputs", "width"), [(576, 576), (40, 100), (17, 64), (1, 1), (48, 1536)])
def test_the_product_is_that_of_rounded_rows_and_weights(num_outputs: int, width: int) -> None:
    rounded = quantized(num_outputs, width)
    product = session(packed_panels(rounded), width, num_outputs)
    for num_rows in (*range(1, 15), 47, 48, 49, 100):
        rows = random(num_rows, width, seed=num_rows) * np.exp(random(width, seed=1))
        found = product.run(None, {"x": rows[None]})[0]
        assert found.shape == (1, num_rows, num_outputs)
        close(found[0], rounded_rows(rows) @ weight_of(rounded).T)


@runs_here
def test_what_stands_beside_a_row_does_not_change_it() -> None:
    product = session(packed_panels(quantized(100, 576)), 576, 100)
    rows = random(60, 576) * 3
    alone = np.concatenate([product.run(None, {"x": row[None]})[0] for row in rows])
    for num_rows in (2, 3, 5, 6, 7, 11, 12, 13, 24, 48, 60):
        assert np.array_equal(product.run(None, {"x": rows[:num_rows]})[0], alone[:num_rows]), num_rows
    one_thread = session(packed_panels(quantized(100, 576)), 576, 100, num_threads=1)
    assert np.array_equal(one_thread.run(None, {"x": rows})[0], alone)


@runs_here
@pytest.mark.parametrize("code", [0, 15])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_the_largest_sums_fit_into_16_bits(code: int, value: float) -> None:
    codes = torch.full((PANEL, BLOCK), code, dtype=torch.uint8)
    rounded = QuantizedWeight(codes, torch.ones(PANEL, 1), torch.full((PANEL, 1), 8, dtype=torch.uint8), 4, BLOCK)
    found = session(packed_panels(rounded), BLOCK, PANEL).run(None, {"x": np.full((1, BLOCK), value, np.float32)})[0]
    close(found, np.full((1, PANEL), BLOCK * value * (code - 8)))


@runs_here
@settings(max_examples=40, deadline=None)
@given(
    num_outputs=st.integers(1, 70), width=st.integers(1, 200), num_rows=st.integers(1, 60),
    exponent=st.integers(-30, 30), seed=st.integers(0, 99), zeros=st.booleans(),
)  # fmt: skip
def test_rows_of_any_size(num_outputs: int, width: int, num_rows: int, exponent: int, seed: int, zeros: bool) -> None:
    rounded = quantized(num_outputs, width, seed)
    rows = random(num_rows, width, seed=seed + 1) * np.float32(2.0**exponent)
    if zeros:
        rows[:, :BLOCK] = 0
    found = session(packed_panels(rounded), width, num_outputs).run(None, {"x": rows})[0]
    expected = rounded_rows(rows) @ weight_of(rounded).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(float(np.abs(expected).max()), 1e-30))


@runs_here
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_seen(bad: float) -> None:
    rows = random(3, 130)
    rows[1, 129] = bad
    found = session(packed_panels(quantized(20, 130)), 130, 20).run(None, {"x": rows})[0]
    assert np.isfinite(found[[0, 2]]).all()
    assert not np.isfinite(found[1]).any()


@runs_here
def test_no_rows_give_no_rows() -> None:
    found = session(packed_panels(quantized(20, 64)), 64, 20).run(None, {"x": np.zeros((1, 0, 64), np.float32)})[0]
    assert found.shape == (1, 0, 20)


@runs_here
@pytest.mark.parametrize("width", [576, 70])
def test_a_norm_and_a_residual_sum_before_the_product(width: int) -> None:
    rounded, weight = quantized(48, width), 1 + 0.1 * random(width, seed=3)
    rows, skip = random(9, width, seed=4), random(9, width, seed=5)
    panels = packed_panels(rounded)
    plain = session(panels, width, 48)
    [normed] = session(panels, width, 48, "NormMatMul4Bits").run(None, {"x": rows, "norm": weight})
    product, stream = session(panels, width, 48, "SkipNormMatMul4Bits").run(
        None, {"x": rows, "norm": weight, "skip": skip}
    )
    assert np.array_equal(stream, rows + skip)
    # A code may round to its neighbour where the norm's last bit differs.
    close(normed, plain.run(None, {"x": rms_norm(rows, weight)})[0], 2e-3)
    close(product, plain.run(None, {"x": rms_norm(rows + skip, weight)})[0], 2e-3)


@runs_here
def test_a_gate_is_silu_times_the_other_half() -> None:
    rounded, rows = quantized(2 * 48, 128), 4 * random(13, 128)
    both = session(packed_panels(rounded), 128, 96).run(None, {"x": rows})[0].astype(np.float64)
    gate, up = both[:, :48], both[:, 48:]
    gated = session(gated_panels(packed_panels(rounded)), 128, 48, is_gated=True).run(None, {"x": rows})[0]
    assert np.abs(gate).max() > 90, "both ends of the exponential are met"
    close(gated, gate / (1 + np.exp(-gate)) * up)


@runs_here
def test_threads_share_a_session() -> None:
    product, rows = session(packed_panels(quantized(200, 576)), 576, 200), random(8, 5, 576)
    expected = [product.run(None, {"x": part})[0] for part in rows]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: product.run(None, {"x": rows[i % 8]})[0], range(200)))
    assert all(np.array_equal(one, expected[i % 8]) for i, one in enumerate(found))


# What is wrong


@runs_here
@pytest.mark.parametrize(
    ("feeds", "kind", "message"),
    [
        ({"x": (2, 63)}, "MatMul4Bits", "last dimension is not K"),
        ({"x": ()}, "MatMul4Bits", "last dimension is not K"),
        ({"x": (1,) * 8 + (64,)}, "MatMul4Bits", "more than 8 dimensions"),
        ({"x": (2, 64), "norm": (63,)}, "NormMatMul4Bits", "the norm does not have K weights"),
        ({"x": (2, 64), "norm": (64,), "skip": (1, 64)}, "SkipNormMatMul4Bits", "not of one size"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(feeds: dict[str, tuple[int, ...]], kind: str, message: str) -> None:
    product = session(packed_panels(quantized(20, 64)), 64, 20, kind)
    with pytest.raises(Exception, match=message):
        product.run(None, {name: np.ones(shape, np.float32) for name, shape in feeds.items()})


@runs_here
def test_weights_of_another_size_are_an_error() -> None:
    product = session(packed_panels(quantized(20, 64)), 64, 40)
    with pytest.raises(Exception, match="the weights do not have the size of K and N"):
        product.run(None, {"x": np.ones((1, 64), np.float32)})
    for width, num_outputs in ((0, 20), (64, -1), (64, 1 << 24), (1 << 62, 20)):
        with pytest.raises(Exception, match="K and N have to be positive"):
            session(packed_panels(quantized(20, 64)), width, num_outputs)


# Where they run


def test_the_recipes_that_need_them() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe and recipe.is_native} == kernels.RECIPES
    assert {recipe.block_size for recipe in RECIPES.values() if recipe and recipe.is_native} == {BLOCK}


@pytest.mark.skipif(not kernels.is_covered(), reason="built for Linux on x86-64")
def test_the_library_was_built_with_the_package() -> None:
    assert LIBRARY.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.setattr(platform, "machine", lambda: "aarch64"), "on aarch64"),
        (lambda patch: patch.setattr(machine, "instruction_sets", lambda: ["avx2"]), "lacks fma, f16c"),
        (lambda patch: patch.setattr(kernels, "LIBRARY", Path("none.so")), "built without them"),
    ],
)
def test_elsewhere_the_model_is_refused(
    change: Any, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx2", "fma", "f16c"])
    change(monkeypatch)
    with pytest.raises(ProviderError, match=f"needs edgedsl's own operators: .*{reason}") as caught:
        make_session(tmp_path / "model.onnx", execution_provider="cpu", threads=ThreadSettings(), is_native=True)
    assert caught.value.hint
    assert "w8a8" in caught.value.hint
