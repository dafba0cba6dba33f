"""The untuned base model with examples in its prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_llama, write_language, write_pairs

from edgedsl.bench import untuned
from edgedsl.bench.table import read_result
from edgedsl.errors import ConfigError


def test_command_writes_a_result_that_the_table_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_language(tmp_path)
    write_pairs(tmp_path / "data" / "train.jsonl", copies=2)
    write_pairs(tmp_path / "data" / "test.jsonl")
    tiny_llama(tmp_path / "base")
    (tmp_path / "edgedsl.toml").write_text(
        '[project]\nname = "lamps"\nbase_model = "base"\n[generate]\nmax_tokens = 12\n', encoding="utf-8"
    )
    output = tmp_path / "quality-base_box_202611.json"
    assert untuned.main(["--project", str(tmp_path), "--num-rows", "3", "--output", str(output)]) == 0
    (row,) = read_result(output)["rows"]
    assert (row["bundle"], row["rows"]) == ("lamps, base model with 5 examples", 3)
    # A random model says nothing right; what it says under the grammar parses all the same where it comes to an end.
    assert row["exact_match"] == row["no_grammar_parse_rate"] == 0.0
    assert json.loads(capsys.readouterr().out) == [row]
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


def test_a_missing_project_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--project", str(tmp_path / "nowhere"), "--output", str(tmp_path / "x.json")]
    assert untuned.main(arguments) == ConfigError.exit_code
    assert "error: " in capsys.readouterr().err
