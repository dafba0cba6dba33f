"""The measurement of large catalogues, on small ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.bench import catalogues
from edgedsl.bench.table import render
from edgedsl.catalogue import bind
from edgedsl.grammar import Grammar, specialise
from edgedsl.grammar.authoring.fuzz import Fuzzer
from edgedsl.grammar.authoring.token_set import TokenSet


def test_functions_have_parameters_of_their_own() -> None:
    functions = catalogues.made_catalogue(40).names["FUNCTION"]
    parameters = [frozenset(scope["PARAMETER"]) for scope in functions.values()]
    assert len(functions) == 40
    assert len(set(parameters)) > 20
    assert catalogues.made_catalogue(40) == catalogues.made_catalogue(40)


def test_a_size_is_measured_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.parent.mkdir()
    tokenizer.write_text(tiny_tokenizer().json_text, encoding="utf-8")
    output = tmp_path / "catalogues_here_202611.json"
    arguments = ["--tokenizer", str(tokenizer), "--size", "30", "--n", "8", "--output", str(output)]
    assert catalogues.main(arguments) == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["functions"], row["programs"], row["parse_rate"], row["invented_names"]) == (30, 8, 1.0, 0)
    assert min(row["read_ms"], row["compile_ms"], row["subset_ms_p50"], row["mask_us_p50"]) > 0
    assert "| 30 |" in render(tmp_path)
    assert "30 functions" in capsys.readouterr().err


def test_what_would_be_too_many_rules_is_held_by_the_guard_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these functions may stand inside every other."""
    catalogue = catalogues.made_catalogue(12)
    source = bind(catalogues.SOURCE, catalogue)
    written = Grammar(source, catalogue=catalogue)
    assert written.scoped_source() != source
    monkeypatch.setattr(specialise, "MAX_SYMBOLS", 50)
    plain = Grammar(source, catalogue=catalogue)
    assert plain.scoped_source() == source
    fuzzer = Fuzzer(plain, TokenSet(tiny_tokenizer(), tiny_tokenizer().token_id(EOS_TOKEN), "tiny"), catalogue)
    result = fuzzer.run(24)
    assert (result.parsed, result.invented_names, fuzzer.failures) == (24, 0, [])
