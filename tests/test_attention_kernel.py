"""edgedsl's own attention against a slow reference: rows of any sequences, windows, rotation, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from test_kernels import runs_here

from edgedsl.runtime import kernels
from edgedsl.runtime.kernels import DOMAIN

NAMES = ["packed", "past_key", "past_value", "slots", "positions", "cos", "sin"]
SLOTS, CAPACITY = 3, 150


def session(num_heads: int, *, is_rotary: bool, window: int = 0, scale: float = 0.125) -> onnxruntime.InferenceSession:
    names, outputs = NAMES if is_rotary else NAMES[:5], ["output", "present_key", "present_value"]
    kinds = {"slots": TensorProto.INT64, "positions": TensorProto.INT64}
    node = helper.make_node(
        "RotaryCachedAttention" if is_rotary else "CachedAttention", names, outputs, domain=DOMAIN,
        num_heads=num_heads, window=window, scale=scale,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 4
    kernels.register(options)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs(
    rows: list[tuple[int, int]], num_heads: int, num_kv_heads: int, head_dim: int, half: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """``rows`` are (slot, position)."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-3, 3, (CAPACITY, half))
    feeds = {
        "packed": rng.normal(size=(1, len(rows), (num_heads + 2 * num_kv_heads) * head_dim)),
        "past_key": rng.normal(size=(SLOTS, num_kv_heads, CAPACITY, head_dim)),
        "past_value": rng.normal(size=(SLOTS, num_kv_heads, CAPACITY, head_dim)),
        "cos": np.cos(angles), "sin": np.sin(angles),
    }  # fmt: skip
    places = {"slots": np.array([slot for slot, _ in rows]), "positions": np.array([at for _, at in rows])}
    return {name: array.astype(np.float32) for name, array in feeds.items()} | places


def rotated(head: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    half, found = len(cos), head.astype(np.float64)
    low, high = head[:half], head[half : 2 * half]
    found[:half], found[half : 2 * half] = low * cos - high * sin, high * cos + low * sin
    return found


def reference(
    feeds: dict[str, np.ndarray], num_heads: int, *, is_rotary: bool, window: int, scale: float = 0.125
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys, values = feeds["past_key"].astype(np.float64), feeds["past_value"].astype(np.float64)
    _, num_kv_heads, _, head_dim = keys.shape
    heads = feeds["packed"][0].reshape(len(feeds["slots"]), -1, head_dim)
    turn = lambda head, at: rotated(head, feeds["cos"][at], feeds["sin"][at]) if is_rotary else head  # noqa: E731
    places = list(zip(feeds["slots"].tolist(), feeds["positions"].tolist(), strict=True))
    for row, (slot, at) in zip(heads, places, strict=True):
        for kv_head in range(num_kv_heads):
            keys[slot, kv_head, at] = turn(row[num_heads + kv_head], at)
            values[slot, kv_head, at] = row[num_heads + num_kv_heads + kv_head]
    found = np.zeros((len(places), num_heads, head_dim))
    for index, (slot, at) in enumerate(places):
        seen = slice(max(0, at + 1 - window) if window else 0, at + 1)
        for head in range(num_heads):
            kv_head = head // (num_heads // num_kv_heads)
            scores = keys[slot, kv_head, seen] @ turn(heads[index, head], at) * scale
            weights = np.exp(scores - scores.max())
            found[index, head] = weights / weights.sum() @ values[slot, kv_head, seen]
    return found.reshape(1, len(places), -1), keys, values


ROWS = {
    "one at the start": [(0, 0)],
    "a prompt": [(1, at) for at in range(37)],
    "drafts of three": [(2, 140), (2, 141), (2, 142), (0, 5), (1, 70), (1, 71)],
    "the end of the cache": [(0, CAPACITY - 1)],
    "chunks": [(0, at) for at in (62, 63, 64, 65, 127, 128, 129)],
}


@runs_here
@pytest.mark.parametrize("window", [0, 1, 8, 100])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "half"), [(9, 3, 64, 32), (4, 4, 24, 8), (2, 1, 256, 0)]
)
def test_it_is_attention(name: str, num_heads: int, num_kv_heads: int, head_dim: int, half: int, window: int) -> None:
    feeds = inputs(ROWS[name], num_heads, num_kv_heads, head_dim, half)
    names = NAMES if half else NAMES[:5]
    found = session(num_heads, is_rotary=bool(half), window=window).run(None, {key: feeds[key] for key in names})
    expected = reference(feeds, num_heads, is_rotary=bool(half), window=window)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


@runs_here
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 99))
def test_what_else_is_in_the_call_changes_no_bit(runs: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int]] = []
    for slot in {slot for slot, _ in runs}:
        start, count = int(rng.integers(0, 130)), next(count for other, count in runs if other == slot)
        rows += [(slot, start + i) for i in range(count)]
    feeds = inputs(rows, 9, 3, 64, 32, seed)
    attention = session(9, is_rotary=True)
    together, keys, values = attention.run(None, feeds)
    for slot in range(SLOTS):
        mine = [i for i, row in enumerate(rows) if row[0] == slot]
        cache = {"past_key": feeds["past_key"], "past_value": feeds["past_value"]}
        for i in mine:
            one = {
                "packed": feeds["packed"][:, [i]],
                "slots": feeds["slots"][[i]],
                "positions": feeds["positions"][[i]],
            }
            found, cache["past_key"], cache["past_value"] = attention.run(None, {**feeds, **cache, **one})
            assert np.array_equal(found[0, 0], together[0, i])
        if mine:
            assert np.array_equal(cache["past_key"][slot], keys[slot])
            assert np.array_equal(cache["past_value"][slot], values[slot])


@runs_here
def test_one_memory_of_past_and_present_is_written_in_place() -> None:
    feeds = inputs(ROWS["drafts of three"], 9, 3, 64, 32)
    attention = session(9, is_rotary=True)
    expected = attention.run(None, feeds)
    binding = attention.io_binding()
    for name in ("packed", "slots", "positions", "cos", "sin"):
        binding.bind_cpu_input(name, feeds[name])
    output = np.zeros_like(expected[0])
    binding.bind_output("output", "cpu", 0, np.float32, output.shape, output.ctypes.data)
    for part in ("key", "value"):
        memory = feeds[f"past_{part}"]
        binding.bind_input(f"past_{part}", "cpu", 0, np.float32, memory.shape, memory.ctypes.data)
        binding.bind_output(f"present_{part}", "cpu", 0, np.float32, memory.shape, memory.ctypes.data)
    attention.run_with_iobinding(binding)
    assert np.array_equal(output, expected[0])
    assert np.array_equal(feeds["past_key"], expected[1])
    assert np.array_equal(feeds["past_value"], expected[2])


@runs_here
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 9 * 64, 12 * 64])  # a query, a key, a value
def test_what_is_not_finite_stays_seen(place: int, bad: float) -> None:
    feeds = inputs([(0, 3), (1, 3)], 9, 3, 64, 32)
    feeds["packed"][0, 1, place] = bad
    found = session(9, is_rotary=True).run(None, feeds)[0][0]
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1]).all()


def changed(**arrays: Any) -> Any:
    return lambda feeds: {name: np.asarray(array, feeds[name].dtype) for name, array in arrays.items()}


@runs_here
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(slots=[0, SLOTS]), "a row's slot is not in the cache"),
        (changed(slots=[-1, 0]), "a row's slot is not in the cache"),
        (changed(positions=[0, CAPACITY]), "a row's position is beyond the cache or its angles"),
        (changed(positions=[-1, 0]), "a row's position is beyond the cache or its angles"),
        (changed(positions=[2**62, 0]), "a row's position is beyond the cache or its angles"),
        (changed(cos=np.ones((3, 32)), sin=np.ones((3, 32))), "a row's position is beyond the cache or its angles"),
        (changed(slots=[0]), "one entry a row"),
        (changed(positions=[0, 1, 2]), "one entry a row"),
        (changed(cos=np.ones((CAPACITY, 16))), "cos and sin are not of one shape"),
        (changed(cos=np.ones((CAPACITY, 40)), sin=np.ones((CAPACITY, 40))), "do not fit each other"),
        (changed(past_value=np.ones((SLOTS, 3, 9, 64))), "past_key and past_value are not of one shape"),
        (changed(past_key=np.ones((SLOTS, 2, 9, 64)), past_value=np.ones((SLOTS, 2, 9, 64))), "do not fit each other"),
        (changed(past_key=np.ones((SLOTS, 3, 9, 20)), past_value=np.ones((SLOTS, 3, 9, 20))), "do not fit each other"),
        (changed(packed=np.ones((1, 2, 14 * 64))), "that of queries, keys and values"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(change: Any, message: str) -> None:
    feeds = inputs([(0, 5), (1, 6)], 9, 3, 64, 32)
    with pytest.raises(Exception, match=message):
        session(9, is_rotary=True).run(None, {**feeds, **change(feeds)})


@runs_here
@pytest.mark.parametrize(("num_heads", "window"), [(0, 0), (-3, 0), (1 << 40, 0), (9, -1)])
def test_numbers_that_cannot_be_are_an_error(num_heads: int, window: int) -> None:
    with pytest.raises(Exception, match="num_heads has to be positive, and at most 2\\^16, window not negative"):
        session(num_heads, is_rotary=False, window=window)
