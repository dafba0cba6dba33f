"""The measurement of trimmed heads, on small ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tiny import tiny_backend

from edgedsl.bench import heads
from edgedsl.bench.heads import Shape, head_graph, main, placed
from edgedsl.bench.table import by_grammar, read_result, render
from edgedsl.exporters.passes.trim_head import trim_head
from edgedsl.runtime.lm_head import NO_LOGIT

SMALL = Shape("small", 64, 400)


def test_the_measured_product_is_the_one_that_is_trimmed() -> None:
    hidden = np.random.default_rng(2).standard_normal((1, 4, 64)).astype(np.float32)
    whole, trimmed = head_graph(SMALL), head_graph(SMALL)
    kept = np.array([0, 7, 399])
    trim_head(trimmed, kept)
    found, expected = (
        ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"hidden": hidden})[0]
        for model in (trimmed, whole)
    )
    assert expected.shape == found.shape == (1, 4, 400)
    np.testing.assert_allclose(found[..., kept], expected[..., kept], rtol=1e-5)
    assert (np.delete(found, kept, axis=-1) == np.float32(NO_LOGIT)).all()


def test_another_vocabulary_keeps_the_same_share() -> None:
    token_ids = np.arange(0, 300, 3)
    assert placed(token_ids, 400, SMALL) is token_ids
    found = placed(token_ids, 200, SMALL)
    assert len(found) == 200 and (np.diff(found) > 0).all() and (found[0], found[-1]) == (0, 399)


def test_command_writes_a_result_that_the_table_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heads, "SHAPES", (SMALL,))
    monkeypatch.setattr(heads, "_FLUSH_BYTES", 1 << 10)
    words = [f" {chr(97 + i)}{chr(97 + j)}zq" for i in range(26) for j in range(26)]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tiny_backend(words).to_str(), encoding="utf-8")
    result = tmp_path / "heads_test-box_202611.json"
    arguments = ["--tokenizer", str(folder), "--num-calls", "2", "--output", str(result)]
    assert main([*arguments, "--grammar", "cron", "--grammar", "json-call"]) == 0
    document = read_result(result)
    assert json.loads(capsys.readouterr().out) == document["rows"]
    assert [row["grammar"] for row in document["by_grammar"]] == ["cron", "json-call"]
    assert (document["rows"][0]["head"], document["rows"][0]["tokens"]) == ("whole", 400)
    cron = next(row for row in document["rows"] if row["head"] == "cron")
    assert cron["token_share"] < 0.8 and cron["head_bytes"] < document["rows"][0]["head_bytes"]
    assert "| small | cron |" in render(tmp_path) and "trims" in by_grammar(tmp_path)
