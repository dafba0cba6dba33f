"""The measurement of memory bandwidth, on a tiny shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from edgedsl.bench import bandwidth
from edgedsl.bench.table import render

TINY = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=256,
    tie_word_embeddings=True,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth.shapes, "shape", lambda name: {"tiny": TINY}[name])
    monkeypatch.setattr(bandwidth.shapes, "NAMES", ("tiny",))
    monkeypatch.setattr(bandwidth, "_READ_BYTES", 1 << 20)


def test_a_step_reads_the_weights_but_not_the_embedding() -> None:
    weights = 256 * 64 + 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128)  # head; q, k, v, o and the MLP
    of = {recipe: bandwidth.measure("tiny", recipe, 1, num_steps=3)["num_bytes"] for recipe in bandwidth.RECIPES}
    tables = 2 * 256 * 16 * 4  # cosines and sines
    per_block = (4 + 1) / 32
    assert of["int8"] == pytest.approx(weights * (1 + per_block) + tables, rel=0.05)
    columns = 256 + 2 * (128 + 64 + 2 * 128 + 64)
    assert of["w8a8"] == pytest.approx(weights + 4 * columns + tables, rel=0.02)
    layers = weights - 256 * 64
    assert of["int8"] - of["int4-rtn"] == pytest.approx(layers / 2, rel=0.05)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_each_byte_is_read_by_one_thread(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(bandwidth.np, "max", lambda part: read.append(part.nbytes))
    assert bandwidth.read_bandwidth(num_threads, 1 << 10) > 0
    assert (len(read), sum(read)) == (num_threads * bandwidth._NUM_READS, bandwidth._NUM_READS << 10)


def test_each_round_is_compared_with_the_bandwidth_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, steps = iter([1e9, 2e9, 4e9]), iter([0.008, 0.001, 0.002])
    monkeypatch.setattr(bandwidth, "_NUM_ROUNDS", 3)
    monkeypatch.setattr(bandwidth, "read_bandwidth", lambda num_threads: next(limits))
    monkeypatch.setattr(bandwidth, "_step_s", lambda decoder, num_steps: next(steps))
    monkeypatch.setattr(bandwidth, "bytes_read", lambda path: 4_000_000)
    row = bandwidth.measure("tiny", "int8", 1)
    assert (row["step_ms_p50"], row["read_gb_s"], row["machine_gb_s"]) == (2.0, 2.0, 2.0)
    assert row["bandwidth_share"] == 0.5  # of 0.5, 2 and 0.5


def test_the_command_writes_rows_that_the_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bandwidth_here_202611.json"
    assert bandwidth.main(["--num-threads", "1", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["shape"], row["recipe"]) for row in rows] == [("tiny", name) for name in bandwidth.RECIPES]
    for row in rows:
        assert row["bandwidth_share"] > 0
    assert "| tiny | int4-rtn |" in render(tmp_path)
    assert "of the bandwidth" in capsys.readouterr().err
