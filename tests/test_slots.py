"""Sequences side by side in one KV cache, against the same sequences on their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_export import CASES, CONTEXT, make_model, model_info, needs_optimum

from edgedsl.errors import GenerationError, ProviderError
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.fused.on_device import to_device
from edgedsl.exporters.optimum import OptimumExporter
from edgedsl.exporters.passes.graph import load_graph, save_graph
from edgedsl.exporters.passes.row_attention import use_row_attention
from edgedsl.runtime import kernels
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.prefix import Prefix
from edgedsl.runtime.rows import Row
from edgedsl.runtime.slots import Slots

ROWS = np.random.default_rng(3).integers(0, 120, (4, CONTEXT)).tolist()
PROMPTS = (9, 5, 14, 2)  # tokens of each sequence before the steps
GRAPHS = ("host", "device", "rows")


def opened(name: str, graph: str, folder: Path, num_slots: int = 4) -> Decoder:
    folder.mkdir(exist_ok=True)
    model = make_model(CASES[name])
    exporter = OptimumExporter() if graph == "traced" else FusedExporter()
    path = exporter.export(model, folder, context_length=CONTEXT).path
    info = model_info(model.config, "shared")
    if graph == "device":
        proto = onnx.load(path)
        to_device(proto, "float32", CONTEXT)
        path = folder / "device.onnx"
        save_graph(proto, path)
        info = replace(info, quantization="test", kv_dtype="float32")
    if graph == "rows":
        if reason := kernels.why_not():
            pytest.skip(f"own operators: {reason}")
        rows = load_graph(path)
        if not use_row_attention(rows):
            pytest.skip("an attention that only ONNX Runtime has")
        path = folder / "rows.onnx"
        save_graph(rows, path)
        info = replace(info, quantization="w4a8")
    return Decoder(path, info, num_threads=1, num_slots=num_slots)


def values(row: Row) -> np.ndarray:
    found: np.ndarray = row if isinstance(row, np.ndarray) else row.fetch()
    return found.copy()


def alone(decoder: Decoder, token_ids: list[int]) -> np.ndarray:
    decoder.reset()
    return decoder.forward_all(token_ids).copy()


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", CASES)
def test_a_step_of_all_gives_each_the_logits_that_it_has_alone(name: str, graph: str, tmp_path: Path) -> None:
    check_steps(name, graph, tmp_path)


@needs_optimum
def test_a_traced_graph_takes_several_too(tmp_path: Path) -> None:
    check_steps("llama", "traced", tmp_path)


def check_steps(name: str, graph: str, tmp_path: Path) -> None:
    slots = Slots(opened(name, graph, tmp_path))
    for slot, num_tokens in enumerate(PROMPTS):
        slots.decoders[slot].forward(ROWS[slot][:num_tokens])
    found: dict[int, list[np.ndarray]] = {slot: [] for slot in range(4)}
    for step in range(12):
        rows = slots.step({slot: ROWS[slot][PROMPTS[slot] + step] for slot in range(4)})
        for slot in range(4):
            found[slot].append(values(rows[slot]))
    reference = opened(name, graph, tmp_path / "alone", 1)
    for slot, num_tokens in enumerate(PROMPTS):
        expected = alone(reference, ROWS[slot][: num_tokens + 12])[num_tokens:]
        np.testing.assert_allclose(np.stack(found[slot]), expected, atol=1e-4)
        assert slots.decoders[slot].length == num_tokens + 12


@pytest.mark.parametrize("graph", GRAPHS)
def test_calls_of_one_sequence_and_steps_of_some_take_turns(graph: str, tmp_path: Path) -> None:
    slots, rng = Slots(opened("llama", graph, tmp_path)), np.random.default_rng(5)
    reference = opened("llama", graph, tmp_path / "alone", 1)
    lengths = [0] * 4
    for _ in range(40):
        if rng.random() < 0.5:
            slot, size = int(rng.integers(4)), int(rng.integers(1, 5))
            size = min(size, 60 - lengths[slot])
            if size:
                new = ROWS[slot][lengths[slot] : lengths[slot] + size]
                rows = {slot: values(slots.decoders[slot].rows(new, 1)[0])}
                lengths[slot] += size
        else:
            taking = [slot for slot in range(4) if rng.random() < 0.6 and lengths[slot] < 60]
            if not taking:
                continue
            stepped = slots.step({slot: ROWS[slot][lengths[slot]] for slot in taking})
            rows = {slot: values(row) for slot, row in stepped.items()}
            assert sorted(rows) == taking
            for slot in taking:
                lengths[slot] += 1
        for slot, row in rows.items():
            np.testing.assert_allclose(row, alone(reference, ROWS[slot][: lengths[slot]])[-1], atol=1e-4)
    assert [one.length for one in slots.decoders] == lengths
    assert min(lengths) > 10


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_slot_begins_with_the_prefix(graph: str, tmp_path: Path) -> None:
    reference = opened("llama", graph, tmp_path / "alone", 1)
    reference.forward(ROWS[0][:7])
    prefix = Prefix(tuple(ROWS[0][:7]), reference.cached())
    decoder = opened("llama", graph, tmp_path)
    decoder.begin_with(prefix)
    slots = Slots(decoder)
    for slot in range(4):
        slots.decoders[slot].forward(ROWS[slot][7:10])
        np.testing.assert_allclose(slots.decoders[slot].cached()[:, :, :7], prefix.kv, atol=1e-6)
    rows = slots.step({slot: ROWS[slot][10] for slot in range(4)})
    for slot in range(4):
        expected = alone(reference, ROWS[0][:7] + ROWS[slot][7:11])[-1]
        np.testing.assert_allclose(values(rows[slot]), expected, atol=1e-4)
    slots.decoders[2].reset()
    assert slots.decoders[2].length == 7


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_full_context_is_refused_and_nothing_gets_longer(graph: str, tmp_path: Path) -> None:
    slots = Slots(opened("llama", graph, tmp_path))
    slots.decoders[0].forward(ROWS[0])
    slots.decoders[1].forward(ROWS[1][:5])
    kept = slots.decoders[0].cached()
    with pytest.raises(GenerationError, match=f"context of {CONTEXT} tokens"):
        # Where rows say whose they are, only those that take part need room.
        slots.step({0: 1, 1: 3} if graph == "rows" else {1: 3})
    assert [one.length for one in slots.decoders] == [CONTEXT, 5, 0, 0]
    np.testing.assert_array_equal(slots.decoders[0].cached(), kept)


def test_a_failing_model_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(opened("llama", "host", tmp_path))

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(slots._decoder.session, "run_with_iobinding", fail)
    with pytest.raises(GenerationError, match="failed to run one step"):
        slots.step({0: 1, 1: 2})
    assert [one.length for one in slots.decoders] == [0] * 4


def test_more_slots_than_memory_are_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="no memory for the keys and values of 1000000000000 sequences"):
        opened("llama", "host", tmp_path, 10**12)


def test_a_step_is_as_wide_as_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots, widths = Slots(opened("llama", "host", tmp_path)), []
    run = slots._run
    monkeypatch.setattr(slots, "_run", lambda tokens, lengths: widths.append(len(tokens)) or run(tokens, lengths))
    for taking in ([0], [0, 1], [2], [0, 3]):
        slots.step(dict.fromkeys(taking, 1))
    assert widths == [2, 2, 3, 4]
    slots._is_on_gpu = True
    assert [slots.width(range(n)) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]


@pytest.mark.parametrize("name", CASES)
def test_a_call_of_many_tokens_of_several_gives_each_what_it_has_alone(name: str, tmp_path: Path) -> None:
    decoder, rng = opened(name, "rows", tmp_path), np.random.default_rng(8)
    slots = Slots(decoder)
    expected = [alone(slots.decoders[slot], ROWS[slot][:60]) for slot in range(4)]
    for one in slots.decoders:
        one.reset()
    for _ in range(12):
        taking = {int(slot): int(rng.integers(1, 7)) for slot in rng.permutation(4)[: rng.integers(1, 5)]}
        starts = {slot: slots.decoders[slot].length for slot in taking}
        rows = slots.call({slot: ROWS[slot][starts[slot] : starts[slot] + count] for slot, count in taking.items()})
        for slot, count in taking.items():
            found = np.stack([values(row) for row in rows[slot]])
            # Products of fp32 add up in another order where rows are more.
            np.testing.assert_allclose(found, expected[slot][starts[slot] : starts[slot] + count], atol=2e-4)
            if rng.random() < 0.3:  # a wrong draft
                slots.decoders[slot].truncate(starts[slot] + 1)


def test_too_many_tokens_of_one_are_an_error_and_nobody_moves(tmp_path: Path) -> None:
    slots = Slots(opened("llama", "rows", tmp_path))
    slots.decoders[1].length = CONTEXT - 2
    with pytest.raises(GenerationError, match="fills the context"):
        slots.call({0: [1, 2], 1: [3, 4, 5]})
    assert [one.length for one in slots.decoders] == [0, CONTEXT - 2, 0, 0]
