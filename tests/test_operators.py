"""The measurement of where a model call's time goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from edgedsl.bench import operators
from edgedsl.bench.table import read_result, render
from edgedsl.errors import BundleError


def node(name: str, operator: str, microseconds: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": operator}}


def test_each_call_has_the_operators_before_its_end(tmp_path: Path) -> None:
    events = [
        {"cat": "Session", "name": "session_initialization", "dur": 9},
        node("/a/MatMul", "MatMul", 5),
        {"cat": "Node", "name": "/a/MatMul_fence_before", "dur": 7, "args": {"op_name": "MatMul"}},
        node("/lm_head/MatMul", "MatMul", 3),
        node("/add", "Add", 1),
        {"cat": "Session", "name": "model_run", "dur": 10},
        node("/a/MatMul", "MatMul", 6),
        {"cat": "Session", "name": "model_run", "dur": 20},
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events), encoding="utf-8")
    first, second = operators.read_profile(path, ["/a/MatMul", "/lm_head/MatMul"])
    assert (first.us, dict(first.operators), first.products_us) == (10, {"MatMul": 8, "Add": 1}, 5)
    assert (second.us, dict(second.operators), second.products_us) == (20, {"MatMul": 6}, 6)


def test_products_are_counted(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    found = operators.multiplications(tiny_bundle / "model.onnx")
    assert all("layers" in name for name in found)  # the head is apart
    assert len(found) == 4 * manifest["model"]["num_layers"]  # q, k and v are one product, gate and up another
    assert all(number > 0 for number in found.values())


def test_command_tells_shares_of_every_size(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, "SIZES", (1, 4))
    options = ort.SessionOptions
    output = tmp_path / "results" / "operators-tiny_box_202611.json"
    output.parent.mkdir()
    arguments = ["--bundle", str(tiny_bundle), "--num-threads", "1", "--output", str(output)]
    assert operators.main(arguments) == 0
    assert ort.SessionOptions is options
    rows = read_result(output)["rows"]
    assert [row["tokens"] for row in rows] == [1, 4]
    for row in rows:
        shares = [value for name, value in row.items() if name.endswith("_share")]
        assert len(shares) == 5
        assert sum(shares) == pytest.approx(1, abs=0.01)
        assert row["product_gmac_s"] > 0
    assert "MatMulIntegerToFloat share" in render(output.parent)
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_growing_cache_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = operators.open_bundle(tiny_bundle)
    model = replace(opened.manifest.model, kv_layout="growing")
    grown = replace(opened, manifest=replace(opened.manifest, model=model))
    monkeypatch.setattr(operators, "open_bundle", lambda *_: grown)
    with pytest.raises(BundleError, match="cache that grows"):
        operators.measure(tiny_bundle, 1, (1,))
