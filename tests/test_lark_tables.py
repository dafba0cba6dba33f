"""Lark's tables kept as JSON are the same parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar, lark_tables
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.position import Automaton

SOURCE = 'start: "set" NAME ["to" NUMBER]\nNAME: /[a-z]+/\nNUMBER: /[0-9]+/i\n%ignore " "\n%ignore /#.*/\n'


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    path = tmp_path / lark_tables.FILE_NAME
    path.write_text(lark_tables.to_json(Grammar(SOURCE).lark, SOURCE), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_grammar_reads_the_same(name: str, tmp_path: Path) -> None:
    language = open_language(name)
    grammar = language.grammar()
    path = tmp_path / lark_tables.FILE_NAME
    path.write_text(lark_tables.to_json(grammar.lark, grammar.source), encoding="utf-8")
    again = Grammar(grammar.source, name=grammar.name, catalogue=grammar.catalogue, tables=path)
    assert again.engine_source == grammar.engine_source
    texts = [case.text for case in language.cases]
    assert texts
    assert [outcome(again, text) for text in texts] == [outcome(grammar, text) for text in texts]
    accepted = [text for text in texts if grammar.accepts(text)]
    assert [again.tokens(text) for text in accepted] == [grammar.tokens(text) for text in accepted]


def outcome(grammar: Grammar, text: str) -> Any:
    try:
        return grammar.parse(text)
    except GrammarError as exc:
        return exc.message


def test_what_is_ignored_and_the_byte_automaton_stay_the_same(tables: Path) -> None:
    grammar, fresh = Grammar(SOURCE, tables=tables), Grammar(SOURCE)
    assert grammar.lark is not fresh.lark
    assert grammar.lark.ignore_tokens == fresh.lark.ignore_tokens
    assert len(grammar.lark.ignore_tokens) == 2
    one, other = Automaton(grammar.lark, "start"), Automaton(fresh.lark, "start")
    assert one.patterns == other.patterns
    assert one.nfa.moves == other.nfa.moves
    for text in ("set a to 5", "set a # so", "set 5", "set"):
        reached = [automaton.advance(automaton.start(), text.encode()) for automaton in (one, other)]
        completeness = [end and a.is_complete(end) for a, end in zip((one, other), reached, strict=True)]
        assert completeness[0] == completeness[1]


def test_a_file_of_tables_is_used(tables: Path) -> None:
    found = json.loads(tables.read_text(encoding="utf-8"))
    for terminal in found["memo"].values():
        if terminal.get("name") == "NUMBER":
            terminal["pattern"]["value"] = "[a-f]+"
    tables.write_text(json.dumps(found), encoding="utf-8")
    assert Grammar(SOURCE, tables=tables).accepts("set x to abc")


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"lark": "1.0"}])
def test_tables_of_something_else_are_not_used(tables: Path, change: dict[str, str]) -> None:
    found = json.loads(tables.read_text(encoding="utf-8"))
    tables.write_text(json.dumps({**found, **change, "data": {}}), encoding="utf-8")
    assert lark_tables.read(tables, SOURCE) is None
    assert Grammar(SOURCE, tables=tables).accepts("set x to 5")


@pytest.mark.parametrize("content", ["", "[]", "{}", "5", "\x00", '{"lark": 1}'])
def test_a_damaged_file_is_an_error(tables: Path, content: str) -> None:
    tables.write_text(content, encoding="utf-8")
    with pytest.raises(GrammarError, match="does not hold a grammar's tables"):
        Grammar(SOURCE, tables=tables)


@pytest.mark.parametrize("part", ["data", "memo"])
@pytest.mark.parametrize("value", [None, 5, [], {}, "text"])
def test_damaged_parts_never_give_a_traceback(tables: Path, part: str, value: Any) -> None:
    found = json.loads(tables.read_text(encoding="utf-8"))
    tables.write_text(json.dumps({**found, part: value}), encoding="utf-8")
    with pytest.raises(GrammarError):
        Grammar(SOURCE, tables=tables)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="does not hold"):
        Grammar(SOURCE, tables=tmp_path / "none.json")
