"""What auto measured, as a result file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedsl.bench import recipes
from edgedsl.bench.table import render
from edgedsl.bundle.manifest import open_bundle
from edgedsl.errors import DataError


def test_each_recipe_has_a_row(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    measured = {"num_rows": 4, "exact_match": 0.5, "parse_rate": 1.0, "e2el_ms_p50": 9.0, "num_bytes": 7 << 20}
    close, far = ({"num_positions": 9, "agreement": share, "mean_kl": 0.5} for share in (0.75, 0.25))
    tried = {
        "w8a8": {**measured, "drafts_change": 0.125},
        "int4": {**measured, "fidelity": close},
        "int4-rtn": {"num_bytes": 1 << 20, "fidelity": far, "beaten_by": "int4"},
    }
    auto = type(manifest)(**{**vars(manifest), "quality": {**manifest.quality, **tried}})
    found = recipes.record(auto)
    assert [(row["recipe"], row["taken"]) for row in found["rows"]] == [
        ("w8a8", "yes"), ("int4", "no"), ("int4-rtn", "closer: int4"),
    ]  # fmt: skip
    (tmp_path / "recipes-tiny_box_202611.json").write_text(json.dumps(found), encoding="utf-8")
    shown = render(tmp_path)
    assert "| w8a8 | yes | 4 | 50.0% | 100.0% | 9.0 | 7 MiB | 12.5% | - | - |" in shown
    assert "| int4-rtn | closer: int4 | - | - | - | - | 1 MiB | - | 25.0% | 0.5 |" in shown


def test_an_export_of_one_recipe_has_nothing_to_tell(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipes.main([str(tiny_bundle), "--output", str(tmp_path / "x.json")]) == DataError.exit_code
    assert "--quantize auto" in capsys.readouterr().err
