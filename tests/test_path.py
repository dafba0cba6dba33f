"""The whole path on the real base model, small: what `make demo` does, with few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import edgedsl
from edgedsl.cli import group
from edgedsl.demo import DemoSizes, run_demo
from edgedsl.grammar import Grammar

SIZES = DemoSizes(
    train_rows=48, test_rows=6, base_rows=2, unconstrained_rows=2, export_rows=4, eval_rows=2, refusal_rows=3
)
# The fixture trains and exports the real model: minutes, where other tests take seconds.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("path") / "demo"
    return folder, run_demo(folder, SIZES)


def test_every_program_parses(demo: tuple[Path, dict[str, Any]]) -> None:
    _, result = demo
    assert result["parse_rate"] == 1.0
    assert {
        "exact_match",
        "base_exact_match",
        "nearest_neighbour_exact_match",
        "parse_rate_without_grammar",
    } <= result.keys()


def test_bundle_says_where_it_comes_from_and_how_good_it_is(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = demo
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    run = json.loads((folder / "adapter" / "run.json").read_text())
    assert manifest["model"]["base_sha256"] == run["base_model"]["sha256"]
    assert manifest["parity"]["merged"]["flips"] == 0
    assert manifest["parity"]["onnx"]["max_difference"] < 1e-2
    assert manifest["parity"]["quantized"]["argmax_agreement"] > 0.8
    assert set(manifest["quality"]) == {"adapter", "merged", "onnx", "quantized", "drafted"}


def test_python_api_and_command_line_agree(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = demo
    sentence = "text Ana on my way <|im_end|>"
    engine = edgedsl.load(folder / "bundle")
    completion = engine(sentence, max_tokens=96)
    assert "".join(engine.stream(sentence, max_tokens=96)) == completion.text
    result = CliRunner().invoke(group, ["generate", "--project", str(folder), "--max-tokens", "96", sentence])
    assert result.stdout == completion.text + "\n"
    assert result.exit_code == 0, result.output
    grammar = Grammar.from_files(folder / "bundle" / "grammar.lark", folder / "bundle" / "catalogue.json")
    assert grammar.accepts(completion.text)


def test_finished_demo_is_not_trained_again(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = demo
    before = (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    result = CliRunner().invoke(group, ["train", "--project", str(folder)])
    assert result.exit_code != 0
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == before
