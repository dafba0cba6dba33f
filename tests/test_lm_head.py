"""A head apart from its graph: the same logits to the bit, and no others than the grammar leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny_template, tiny_tokenizer
from tiny_export import CASES, CONTEXT, make_model, model_info

from edgedsl.errors import BundleError, GenerationError
from edgedsl.exporters import candidates
from edgedsl.exporters.base import ExportedGraph
from edgedsl.exporters.candidates import Calibration, Writer
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.passes.part_head import can_part, part_head
from edgedsl.grammar import BudgetGuard, Grammar, legal_tokens
from edgedsl.grammar.matcher import Matcher
from edgedsl.runtime import lm_head
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.lm_head import CODES_FILE, FILE_NAME, GRAPH_FILE, LAYOUT, NO_LOGIT, HeadRows, LmHead
from edgedsl.runtime.providers import ThreadSettings
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.warm_up import walk

ROWS = [[1, 5, 9, 3, 7, 11, 2], [1, 8, 8, 4]]
THREADS = ThreadSettings(1, False)
WHOLE = {"gemma2"}  # a soft cap follows the product, so the head stays in the graph


def written(case: str, folder: Path, recipe: str = "w8a8") -> Path:
    """A model of random weights as a bundle has it."""
    folder.mkdir()
    model = make_model(CASES[case])
    graph: ExportedGraph = FusedExporter().export(model, folder, context_length=CONTEXT)
    calibration = Calibration.of(model, [recipe], lambda: ROWS, 0)
    writer = Writer(graph, model_info(model.config, graph.kv_layout), calibration, [], ROWS, model.config.vocab_size)
    writer.write(recipe, folder / "written")
    return folder / "written"


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_those_of_the_whole_graph(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parted = written(case, tmp_path / "parted")
    monkeypatch.setattr(candidates, "can_part", lambda model: False)
    whole = written(case, tmp_path / "whole")
    assert {(parted / name).exists() for name in (GRAPH_FILE, CODES_FILE, FILE_NAME)} == {case not in WHOLE}
    assert not (whole / FILE_NAME).exists()
    info = model_info(CASES[case], "shared")
    one, other = (Decoder(folder / "model.onnx", info, num_threads=1) for folder in (whole, parted))
    assert (one.head is None, other.head is None) == (True, case in WHOLE)
    for row in ROWS:
        one.reset(), other.reset()
        np.testing.assert_array_equal(one.forward_all(row[:-2]), other.forward_all(row[:-2]))
        np.testing.assert_array_equal(one.forward_last(row[-2:], 1), other.forward_last(row[-2:], 1))


@pytest.mark.parametrize("recipe", ["none", "int8", "int4"])
def test_heads_of_other_recipes_stay_in_the_graph(recipe: str, tmp_path: Path) -> None:
    assert not (written("llama", tmp_path / "model", recipe) / FILE_NAME).exists()


def graph_of(weight: np.ndarray, scales: np.ndarray, zero_point: int) -> ir.Model:
    """One product of integers on codes that are handed in, as a graph's head."""
    width, vocab_size = weight.shape
    arrays = {
        "weight": weight, "input.scale": np.array(0.0625, np.float32), "scales": scales,
        "zero": np.array(zero_point, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "input.scale", "zero"], ["codes"], name="quantize"),
        helper.make_node(
            "MatMulIntegerToFloat", ["codes", "weight", "input.scale", "scales", "zero"], ["logits"], name="/lm_head",
            domain="com.microsoft",
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", width]),
            helper.make_tensor_value_info("num_logits", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "rows", vocab_size])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


class Parted:
    """A head of random numbers in files, and the product that it was."""

    def __init__(self, folder: Path, width: int, vocab_size: int, token_ids: list[int] | None = None) -> None:
        rng = np.random.default_rng(width)
        # Codes at the ends of their range make the largest sums.
        weight = rng.choice(np.array([-64, 64, 63, 1], np.int8), (width, vocab_size))
        scales = rng.uniform(0.001, 0.1, vocab_size).astype(np.float32)
        self.x = rng.uniform(-3, 40, (1, 9, width)).astype(np.float32)
        model = graph_of(weight, scales, 7)
        assert can_part(model)
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        feeds = {"x": self.x, "num_logits": np.zeros(1, np.int64)}
        self.expected = session.run(["logits"], feeds)[0][0]
        folder.mkdir(parents=True)
        part_head(model, folder, token_ids)
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        self.codes = session.run(["head_codes"], feeds)[0][0]
        self.head = LmHead(folder, vocab_size, THREADS)


@pytest.mark.parametrize("width", [1, 64, 1024, 1025, 3000])
def test_a_few_logits_are_those_of_all(width: int, tmp_path: Path) -> None:
    parted = Parted(tmp_path / "head", width, 50)
    rows = HeadRows(parted.codes, parted.head)
    np.testing.assert_array_equal(rows.on_host(), parted.expected)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 8), st.lists(st.integers(0, 49), min_size=2, max_size=50, unique=True))
    def check(index: int, token_ids: list[int]) -> None:
        np.testing.assert_array_equal(rows[index].of(np.array(token_ids)), parted.expected[index, token_ids])

    check()
    assert rows[0].of(np.array([17])) == 0


def test_a_token_without_a_column_has_no_logit(tmp_path: Path) -> None:
    kept = [2, 3, 5, 41]
    parted = Parted(tmp_path / "head", 64, 50, kept)
    rows = HeadRows(parted.codes, parted.head)
    found = rows.on_host()
    np.testing.assert_array_equal(found[:, kept], parted.expected[:, kept])
    assert (np.delete(found, kept, axis=1) == np.float32(NO_LOGIT)).all()
    np.testing.assert_array_equal(rows[3].of(np.array([41, 7, 2])), found[3, [41, 7, 2]])
    assert (tmp_path / "head" / CODES_FILE).stat().st_size == len(kept) * 64


def test_rows_are_worked_out_in_blocks_whatever_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parted = Parted(tmp_path / "head", 64, 50)
    sizes = []
    logits = LmHead.logits

    def counted(self: LmHead, codes: Any, out: Any) -> None:
        sizes.append(len(codes))
        logits(self, codes, out)

    monkeypatch.setattr(LmHead, "logits", counted)
    first, second = (HeadRows(codes, parted.head) for codes in (parted.codes, parted.codes[::-1].copy()))
    for index in (0, 1, 3, 4, 8, 2):
        np.testing.assert_array_equal(first[index].fetch(), parted.expected[index])
    assert sizes == [4, 4, 1, 4]
    np.testing.assert_array_equal(second[2].fetch(), parted.expected[6])
    np.testing.assert_array_equal(first[2].fetch(), parted.expected[2])


def test_a_failing_head_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parted = Parted(tmp_path / "head", 64, 50)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(parted.head._session, "run_with_iobinding", fail)
    with pytest.raises(GenerationError, match="failed to work out its logits"):
        HeadRows(parted.codes, parted.head)[0].fetch()


def test_weights_that_were_not_asked_for_lately_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "_MAX_KEPT_BYTES", 3 * 2 * 64 * 4)
    parted = Parted(tmp_path / "head", 64, 50)
    row = HeadRows(parted.codes, parted.head)[0]
    asked = {first: np.array([first, first + 1]) for first in (0, 10, 20, 30, 40)}
    for first in (0, 10, 20, 0, 30, 40, 0, 20):
        token_ids = asked[first]
        np.testing.assert_array_equal(row.of(token_ids), parted.expected[0, token_ids])
        assert len(parted.head._kept) <= 3
    assert [int(columns.token_ids[0]) for columns in parted.head._kept.values()] == [40, 0, 20]


ALL_LOGITS = SamplingParams(max_tokens=16, temperature=0.01), SamplingParams(max_tokens=16, temperature=2.0, seed=3)


@pytest.mark.parametrize("params", ALL_LOGITS)
def test_no_logit_of_an_illegal_token_is_worked_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, params: SamplingParams
) -> None:
    whole: list[int] = []
    logits = LmHead.logits

    def counted(self: LmHead, codes: Any, out: Any) -> None:
        whole.append(len(codes))
        logits(self, codes, out)

    monkeypatch.setattr(LmHead, "logits", counted)
    engine = Engine.from_bundle(tiny_bundle, num_threads=1)
    whole.clear()  # of the measurement of calls, at the first load
    found = [engine.generate(sentence, params).token_ids for sentence in ("red", "two lamps")]
    assert not whole
    # The masks that are kept have been sorted into few and many: a new engine has none.
    monkeypatch.setattr(legal_tokens, "_FEW", 0)
    engine = Engine.from_bundle(tiny_bundle, num_threads=1)
    assert [engine.generate(sentence, params).token_ids for sentence in ("red", "two lamps")] == found
    assert whole


def test_what_was_walked_needs_no_mask_any_more(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_bundle(tiny_bundle, num_threads=1)
    program = engine.generate("red", SamplingParams(max_tokens=16)).token_ids
    masks: list[Any] = []
    fill = Matcher.fill_bitmask

    def counted(self: Matcher, bitmask: Any) -> None:
        masks.append(bitmask)
        fill(self, bitmask)

    monkeypatch.setattr(Matcher, "fill_bitmask", counted)
    fresh = Engine.from_bundle(tiny_bundle, num_threads=1)
    for needs_masks in (False, True):
        masks.clear()
        walk(fresh.compiled, program, needs_masks=needs_masks)
        assert bool(masks) == needs_masks
    masks.clear()
    fresh.generate("red", SamplingParams(max_tokens=16))
    assert not masks


def test_in_free_text_the_engine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    grammar = Grammar('start: "say " TEXT | "n" NUMBER\nTEXT: /"[^"]*"/\nNUMBER: /[0-9]+/\n', name="texts")
    compiled = grammar.compile(tokenizer, tokenizer.end_token_ids(tiny_template()))

    def few_after(text: str) -> set[bytes] | None:
        guard = BudgetGuard(compiled, compiled.matcher())
        for token_id in tokenizer.encode_plain(text):
            assert guard.permits(token_id, 99)
            guard.consume(token_id)
        found = guard.few()
        return None if found is None else {tokenizer.token_bytes[token_id] for token_id in found}

    assert few_after("n") == {str(digit).encode() for digit in range(10)}
    assert few_after("say ") == {b'"'}
    monkeypatch.setattr(Matcher, "fill_bitmask", lambda *_: pytest.fail("asked"))
    assert few_after('say "lamp') is None


def columns(**changes: Any) -> bytes:
    fields = {"vocab_size": 4, "width": 2, "zero_point": 0} | {k: v for k, v in changes.items() if k in LAYOUT.fields}
    arrays = {"scales": [1.0] * 4, "token_ids": []} | {k: v for k, v in changes.items() if k not in LAYOUT.fields}
    return LAYOUT.pack(fields, {name: np.array(array) for name, array in arrays.items()})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (columns(), None),
        (columns(token_ids=[1, 3], scales=[1.0, 1.0]), None),
        (columns(vocab_size=5), "was made for 5 tokens"),
        (columns(width=0), "its rows have 0 codes"),
        (columns(zero_point=256), "zero point 256"),
        (columns(scales=[1.0] * 3), "it has 3 finite scales, expected 4"),
        (columns(scales=[1.0, np.inf, 1.0, 1.0]), "finite scales"),
        (columns(scales=[1.0, 1.0], token_ids=[3, 1]), "do not ascend"),
        (columns(scales=[1.0, 1.0], token_ids=[1, 4]), "inside the vocabulary"),
        (b"", "cannot be read"),
        (b"EDSLNEAR" + bytes(48), "it begins with"),
    ],
)
def test_malformed_columns_are_an_error(content: bytes, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    num_columns = 2 if b"\x01\0\0\0\x03\0\0\0" in content else 4
    (tmp_path / CODES_FILE).write_bytes(bytes(2 * num_columns))
    # With all else in order what is missing is the graph.
    with pytest.raises(BundleError, match=reason or rf"cannot load '{GRAPH_FILE}'"):
        LmHead(tmp_path, 4, THREADS)


@pytest.mark.parametrize("size", [None, 0, 7, 9])
def test_codes_of_another_size_are_an_error(size: int | None, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(columns())
    if size is not None:
        (tmp_path / CODES_FILE).write_bytes(bytes(size))
    with pytest.raises(BundleError, match=f"it has {size or 0} bytes, expected 8"):
        LmHead(tmp_path, 4, THREADS)
