"""Recipes side by side: which one is served, what the bundle says of the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tiny_export import TinyOnnx, needs_optimum

import edgedsl
from edgedsl.bundle.manifest import open_bundle
from edgedsl.charts import scatter_chart
from edgedsl.cli import main
from edgedsl.config import Config, override
from edgedsl.errors import ExportError, GateError
from edgedsl.exporters import first_round, hops, pipeline
from edgedsl.exporters.calibration import input_channels, input_moments
from edgedsl.exporters.candidates import Calibration, Candidate, choose
from edgedsl.exporters.fidelity import Fidelity
from edgedsl.exporters.first_round import Contender
from edgedsl.exporters.pareto import picture
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.quality import Quality
from edgedsl.exporters.recipes import AUTO


def candidate(recipe: str, exact_match: float, e2el_ms: float, changed_share: float | None = None) -> Candidate:
    return Candidate(recipe, Quality(10, exact_match, 1.0), e2el_ms, 2**20, changed_share)


ROUNDINGS = ("int4", "int4-kquant", "int4-hqq", "int4-rtn")  # the same layout
CANDIDATES = [candidate("a", 0.70, 90.0), candidate("b", 0.80, 100.0), candidate("c", 0.79, 120.0)]


@pytest.mark.parametrize(("least", "chosen"), [(0.6, "a"), (0.7, "a"), (0.75, "b"), (0.8, "b"), (0.95, "b")])
def test_the_fastest_inside_the_gate_else_the_best(least: float, chosen: str) -> None:
    assert choose(CANDIDATES, least).recipe == chosen


def test_the_picture_has_every_recipe_and_marks_the_chosen() -> None:
    page = picture([*CANDIDATES, candidate("d", 0.8, 95.0, 0.02)], CANDIDATES[1])
    assert "Served: b" in page
    assert page.count('class="b"') == 1
    assert all(f"{recipe}: " in page for recipe in "abcd")
    assert "drafts change 2.0% of the answers" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_picture_says_who_was_not_measured_further() -> None:
    beaten = Contender("int4-x", Fidelity(512, 0.9, 0.0625), 3 * 2**20, beaten_by="b")
    page = picture(CANDIDATES, CANDIDATES[1], [beaten])
    assert (
        "<th>int4-x</th><td>not measured further: likeliest token as in fp32 at 90.00% of 512 positions, "
        "mean KL divergence 0.0625; 3 MiB; b takes the same time and is closer</td>"
    ) in page
    assert "int4-x: " not in page, "it has no point in the drawing"


def test_names_are_escaped() -> None:
    chart = scatter_chart([("<b>", 1.0, 0.5)], x_name="x", y_name="<y>", marked="")
    assert "<b>" not in chart
    assert "&lt;b&gt;" in chart
    assert "&lt;y&gt;" in chart


def test_auto_keeps_the_losers_in_the_manifest(project: Config) -> None:
    said: list[str] = []
    output = export(override(project, "export", {"quantize": "auto"}), offline=True, say=said.append)
    manifest = open_bundle(output).manifest
    chosen = manifest.model.quantization
    winner = manifest.quality["int4-rtn"].get("beaten_by") or "int4-rtn"
    measured = ["w4a8", "w8a8", "int8", winner, "int4-mixed", "int4-128"]
    assert set(AUTO) <= manifest.quality.keys()
    for recipe in measured:
        assert manifest.quality[recipe]["e2el_ms_p50"] > 0
        assert manifest.quality[recipe]["num_bytes"] > 0
    # The gate of the tiny project lets all of them through.
    fastest = min(manifest.quality[recipe]["e2el_ms_p50"] for recipe in measured)
    assert chosen in measured
    assert manifest.quality[chosen]["e2el_ms_p50"] == fastest
    check_the_first_round(manifest.quality, winner)
    assert f"quantized: {', '.join(name for name in AUTO if name in measured)} are measured in full" in said
    assert manifest.quality["quantized"]["exact_match"] == manifest.quality[chosen]["exact_match"]
    page = (output / "eval" / "recipes.html").read_text(encoding="utf-8")
    assert f"Served: {chosen}" in page
    assert page.count("not measured further") == len(ROUNDINGS) - 1
    assert any(f"{chosen} is taken" in line for line in said)
    model_files = {path.name for path in output.iterdir() if path.name.startswith("model.")}
    assert model_files == {"model.onnx", "model.onnx.data"}


def check_the_first_round(quality: Mapping[str, Mapping[str, Any]], winner: str) -> None:
    """Four roundings of one layout: the closest to fp32 was measured, the others have their fidelity only."""
    found = [Contender(name, Fidelity(**quality[name]["fidelity"]), 0) for name in ROUNDINGS]
    assert {one.recipe: one.beaten_by for one in first_round.judged(found)} == {
        name: quality[name].get("beaten_by", "") for name in ROUNDINGS
    }
    assert len({one.fidelity for one in found}) == len(ROUNDINGS), "the comparison can fail"
    losers = [name for name in ROUNDINGS if name != winner]
    assert all(quality[name].keys() == {"num_bytes", "fidelity", "beaten_by"} for name in losers)
    assert {quality[name]["beaten_by"] for name in losers} == {winner}
    assert all("fidelity" not in quality[name] for name in set(AUTO) - set(ROUNDINGS))


def test_one_recipe_has_no_picture(tiny_bundle: Path) -> None:
    assert not (tiny_bundle / "eval" / "recipes.html").exists()
    assert json.loads((tiny_bundle / "manifest.json").read_text())["model"]["quantization"] == "w8a8"


@needs_optimum
def test_w8a8_needs_the_fused_graph(project: Config) -> None:
    config = override(project, "export", {"quantize": "w8a8", "graph": "optimum"})
    with pytest.raises(ExportError, match="w8a8 needs the fused graph") as error:
        export(config, offline=True)
    assert "--quantize int8" in error.value.hint


@needs_optimum
def test_auto_leaves_w8a8_out_where_the_graph_is_traced(project: Config) -> None:
    config = override(project, "export", {"quantize": "auto", "graph": "optimum"})
    manifest = open_bundle(export(config, offline=True)).manifest
    assert not {"w4a8", "w8a8"} & manifest.quality.keys()
    assert {"int8", "int4"} <= manifest.quality.keys()


@needs_optimum
def test_w8a8_on_the_traced_graph_is_one_error_and_changes_nothing(
    project: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project.path("bundle") / "manifest.json").read_bytes()
    flags = ["--graph", "optimum", "--quantize", "w8a8", "--offline"]
    monkeypatch.setattr(sys, "argv", ["edgedsl", "export", "--project", str(project.root), *flags])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == ExportError.exit_code
    output = capsys.readouterr()
    assert output.err.count("error: ") == 1
    assert "hint: take '--quantize int8'" in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert (project.path("bundle") / "manifest.json").read_bytes() == before


# What is calibrated


def test_nothing_is_calibrated_that_no_recipe_needs(tiny_onnx: TinyOnnx) -> None:
    rows = [[1, 2, 3, 4], [1, 2, 7]]
    calibrate = lambda *names: Calibration.of(tiny_onnx.model, names, lambda: rows, 2)  # noqa: E731
    expected = input_channels(tiny_onnx.model, rows, 2)  # without the tokens of the prefix
    integer = calibrate("w8a8", "none")
    assert not integer.moments
    assert set(integer.inputs) == set(expected)
    assert all(torch.equal(integer.inputs[name].high, inputs.high) for name, inputs in expected.items())
    calibrated = calibrate("int4", "int8")
    assert not calibrated.inputs
    moments = input_moments(tiny_onnx.model, rows)
    assert all(torch.equal(calibrated.moments[name], moment) for name, moment in moments.items())
    kquant = calibrate("int4-kquant", "int4-hqq", "int4-rtn")
    assert not kquant.moments
    assert all(torch.equal(kquant.importance[name], inputs.mean_square) for name, inputs in expected.items())
    plain = Calibration.of(tiny_onnx.model, ["int8", "none"], lambda: pytest.fail("rows were made"), 2)
    assert (plain.moments, plain.inputs) == ({}, {})


# What is served


def test_a_candidate_is_plain_data() -> None:
    assert candidate("a", 0.5, 12.3456, 0.01).to_dict() == {
        "num_rows": 10, "exact_match": 0.5, "parse_rate": 1.0, "e2el_ms_p50": 12.35, "num_bytes": 2**20,
        "drafts_change": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "operators"),
    [
        ("w4a8", {"MatMul4Bits"}),
        ("w8a8", {"MatMulIntegerToFloat"}),
        ("int8", {"MatMulNBits"}),
        ("int4", {"MatMulNBits"}),
        ("int4-128", {"MatMulNBits"}),
    ],
)
def test_the_chosen_recipe_is_the_one_in_the_bundle(
    project: Config, monkeypatch: pytest.MonkeyPatch, recipe: str, operators: set[str]
) -> None:
    def pick(candidates: Sequence[Candidate], least: float) -> Candidate:
        names = [candidate.recipe for candidate in candidates]
        assert names[:3] == ["w4a8", "w8a8", "int8"]
        assert names[3] in ROUNDINGS
        assert names[4:] == ["int4-mixed", "int4-128"]
        return candidates[names.index(recipe)]

    monkeypatch.setattr(pipeline, "choose", pick)
    monkeypatch.setattr(first_round, "fidelity", lambda *logits: Fidelity(1, 0.5, 0.5))  # the first of equals goes on
    output = export(override(project, "export", {"quantize": "auto"}), offline=True)
    nodes = onnx.load(output / "model.onnx", load_external_data=False).graph.node
    products = [node for node in nodes if node.op_type.startswith("MatMul")]
    assert {node.op_type for node in products} == operators
    bits = {item.i for node in products for item in node.attribute if item.name == "bits"}
    assert bits == {"w4a8": set(), "w8a8": set(), "int8": {8}, "int4": {4, 8}, "int4-128": {4, 8}}[recipe]
    blocks = {item.i for node in products for item in node.attribute if item.name == "block_size"}
    assert blocks == {"w4a8": set(), "w8a8": set(), "int8": {32}, "int4": {32}, "int4-128": {128}}[recipe]
    manifest = open_bundle(output).manifest
    assert manifest.model.quantization == recipe
    assert list(manifest.parity) == ["merged", "onnx", "quantized"]
    hops_and_measured = [
        "adapter",
        "merged",
        "onnx",
        "quantized",
        "drafted",
        "w4a8",
        "w8a8",
        "int8",
        "int4",
        "int4-mixed",
    ]
    assert list(manifest.quality) == [*hops_and_measured, "int4-128", "int4-kquant", "int4-hqq", "int4-rtn"]
    measured = {name: manifest.quality[recipe][name] for name in ("num_rows", "exact_match", "parse_rate")}
    assert manifest.quality["quantized"] == measured
    assert edgedsl.load(output, num_threads=1)("off hall", max_tokens=24).completion_tokens > 0


def measured_as(monkeypatch: pytest.MonkeyPatch, **exact_matches: float) -> None:
    """Let each hop have this exact match, whatever it decodes, and the recipes be fast in this order, the rest slow."""
    real, real_onnx = hops.Hops._measure_programs, hops.Hops.measure_onnx

    def measure(self: Any, hop: str, generate: Any) -> None:
        real(self, hop, generate)
        self.quality[hop] = Quality(4, exact_matches.get(hop.removesuffix(" drafted"), 0.9), 1.0)

    def measure_onnx(self: Any, hop: str, *args: Any, **kwargs: Any) -> None:
        real_onnx(self, hop, *args, **kwargs)
        recipe = hop.removesuffix(" drafted")
        self.e2el_ms[hop] = float(list(exact_matches).index(recipe)) if recipe in exact_matches else 99.0

    monkeypatch.setattr(hops.Hops, "_measure_programs", measure)
    monkeypatch.setattr(hops.Hops, "measure_onnx", measure_onnx)
    monkeypatch.setattr(first_round, "fidelity", lambda *logits: Fidelity(1, 0.5, 0.5))  # "int4" goes on


def test_a_recipe_outside_the_gate_is_not_served_however_fast(project: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, w8a8=0.2, int4=0.3, int8=0.86)
    output = export(override(project, "export", {"quantize": "auto", "gate": 0.95}), offline=True)
    manifest = open_bundle(output).manifest
    assert manifest.model.quantization == "int8"
    assert {recipe: manifest.quality[recipe]["exact_match"] for recipe in ("quantized", "w8a8", "int4")} == {
        "quantized": 0.86, "w8a8": 0.2, "int4": 0.3,
    }  # fmt: skip


def test_where_every_recipe_is_outside_the_gate_no_bundle_is_written(
    project: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (project.path("bundle") / "manifest.json").read_bytes()
    measured_as(monkeypatch, **{"w4a8": 0.2, "w8a8": 0.2, "int8": 0.4, "int4": 0.3, "int4-mixed": 0.3, "int4-128": 0.1})
    with pytest.raises(GateError, match=r"from 90\.0% .* to 40\.0% \(as served\)"):
        export(override(project, "export", {"quantize": "auto", "gate": 0.95}), offline=True)
    assert (project.path("bundle") / "manifest.json").read_bytes() == before
