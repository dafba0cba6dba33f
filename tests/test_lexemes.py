"""The shortest lexemes of terminals, kept in a file: those that are found without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from learned_tokenizer import learned_tokens
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.errors import GrammarError
from edgedsl.grammar import CompiledGrammar, Grammar, lexemes
from edgedsl.grammar.authoring.language import open_language, shipped

SOURCE = 'start: "set" NAME ["to" NUMBER]\nNAME: /[a-z]{2,}/\nNUMBER: /[0-9]+/\n%ignore " "\n'
TOKENIZER = tiny_tokenizer()


def compiled(path: Path | None = None) -> CompiledGrammar:
    return Grammar(SOURCE).compile(TOKENIZER, [TOKENIZER.token_id(EOS_TOKEN)], path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / lexemes.FILE_NAME
    path.write_text(lexemes.to_json(compiled().planner.lexemes, SOURCE, TOKENIZER.json_text), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_grammar_ends_its_programs_alike(name: str, tmp_path: Path) -> None:
    tokens, grammar = learned_tokens(), open_language(name).grammar()
    fresh = tokens.compile(grammar)
    path = tmp_path / lexemes.FILE_NAME
    path.write_text(
        lexemes.to_json(fresh.planner.lexemes, grammar.source, tokens.tokenizer.json_text), encoding="utf-8"
    )
    again = grammar.compile(tokens.tokenizer, sorted(fresh.end_token_ids), path)
    assert again.planner.lexemes == fresh.planner.lexemes
    assert again.planner.min_tokens == fresh.planner.min_tokens
    ends = [one.planner.completion(one.planner.automaton.start()) for one in (again, fresh)]
    assert ends[0] == ends[1]
    assert ends[0]


def test_those_of_a_file_are_used(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    found["lexemes"]["NAME"] = [2, "zz"]
    file.write_text(json.dumps(found), encoding="utf-8")
    assert compiled(file).planner.lexemes["NAME"] == (2, b"zz")


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"edgedsl": "0.0"}])
def test_those_of_something_else_are_not_used(file: Path, change: dict[str, str]) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**found, **change, "lexemes": {}}), encoding="utf-8")
    assert lexemes.read(file, SOURCE, TOKENIZER.json_text) is None
    assert compiled(file).planner.lexemes == compiled().planner.lexemes


@pytest.mark.parametrize(("source", "tokenizer"), [(SOURCE + " ", ""), (SOURCE, " ")])
def test_they_are_of_one_grammar_and_one_tokenizer(file: Path, source: str, tokenizer: str) -> None:
    assert lexemes.read(file, source, TOKENIZER.json_text + tokenizer) is None


def test_where_a_terminal_is_missing_all_are_found_anew(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    del found["lexemes"]["NAME"]
    file.write_text(json.dumps(found), encoding="utf-8")
    assert compiled(file).planner.lexemes == compiled().planner.lexemes


@pytest.mark.parametrize("content", ["", "[]", "{}", "5", "\x00", '{"lexemes":' + "[" * 200_000])
def test_a_damaged_file_is_an_error(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(GrammarError, match="does not hold the lexemes of a grammar"):
        compiled(file)


@pytest.mark.parametrize(
    "lexeme", [5, "text", [], [1], [1, 5], ["a", "a"], [1, "a", 1], [-1, "a"], [3, "aa"], [1, "\u20ac"], 0, {}]
)
def test_a_damaged_lexeme_is_an_error(file: Path, lexeme: Any) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    found["lexemes"]["NAME"] = lexeme
    file.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(GrammarError, match="does not hold the lexemes of a grammar"):
        compiled(file)


@pytest.mark.parametrize("value", [None, 5, [], "text"])
def test_a_damaged_table_is_an_error(file: Path, value: Any) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**found, "lexemes": value}), encoding="utf-8")
    with pytest.raises(GrammarError, match="does not hold the lexemes of a grammar"):
        compiled(file)
