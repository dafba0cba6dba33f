"""What the hops of an export kept, as a result file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedsl.bench import hops
from edgedsl.bench.table import read_result, render
from edgedsl.bundle.manifest import open_bundle
from edgedsl.errors import BundleError, DataError


def test_command_writes_a_result_that_the_table_reads(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "hops-tiny_box_202611.json"
    assert hops.main([str(tiny_bundle), "--output", str(output)]) == 0
    rows = read_result(output)["rows"]
    manifest = open_bundle(tiny_bundle).manifest
    assert (
        [row["hop"] for row in rows] == list(manifest.quality) == ["adapter", "merged", "onnx", "quantized", "drafted"]
    )
    assert {row["recipe"] for row in rows} == {"w8a8"}
    assert rows[0]["argmax_agreement"] is None
    assert rows[3]["argmax_agreement"] == manifest.parity["quantized"]["argmax_agreement"]
    assert json.loads(capsys.readouterr().out) == rows
    assert "| w8a8 | quantized |" in render(tmp_path)


def test_what_auto_did_not_take_stands_under_its_own_name(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    measured = {"num_rows": 4, "exact_match": 0.5, "parse_rate": 1.0}
    tried = {"w8a8": measured, "int8": {**measured, "exact_match": 0.25, "e2el_ms_p50": 9.0}}
    beaten = {"int4-rtn": {"num_bytes": 1, "fidelity": {}, "beaten_by": "int4"}}
    auto = type(manifest)(**{**vars(manifest), "quality": {**manifest.quality, **tried, **beaten}})
    rows = hops.record([auto])["rows"]
    assert [(row["recipe"], row["hop"]) for row in rows] == [
        *(("w8a8", hop) for hop in ("adapter", "merged", "onnx", "quantized", "drafted")), ("int8", "quantized"),
    ]  # fmt: skip
    assert rows[-1]["exact_match"] == 0.25
    assert rows[-1]["argmax_agreement"] is None


def test_bundles_of_two_languages_and_no_bundle_are_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hops.main([str(tmp_path), "--output", str(tmp_path / "x.json")]) == BundleError.exit_code
    assert "error: " in capsys.readouterr().err
    manifest = open_bundle(tiny_bundle).manifest
    other = type(manifest)(**{**vars(manifest), "name": "other"})
    with pytest.raises(DataError, match="expected one language"):
        hops.record([manifest, other])
