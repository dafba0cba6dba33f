"""Grammars that people write, in six notations: all compile; Lark, the mask and the byte automaton agree on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedsl.grammar import Grammar
from edgedsl.grammar.authoring.byte_tokenizer import byte_tokenizer
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.sources import ebnf, gbnf, json_schema, regex_source, tools
from edgedsl.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "legitimate"
END_TOKEN_ID = 256
READERS: dict[str, Any] = {"regex": regex_source, "json-schema": json_schema, "gbnf": gbnf, "ebnf": ebnf}


@dataclass(frozen=True)
class Row:
    name: str
    language: str
    source: Any
    accept: list[str]
    reject: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    is_slow: bool = False

    def lark_text(self) -> str:
        if self.language == "lark":
            return str(self.source)
        if self.language == "tools":
            return tools.to_lark(self.source, **self.options).source
        return str(READERS[self.language].to_lark(self.source).source)


ROWS = [
    (path.stem, Row(**json.loads(line)))
    for path in sorted(FOLDER.glob("*.jsonl"))
    for line in path.read_text("utf-8").splitlines()
]


@cache
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


def first_bytes(compiled: CompiledGrammar) -> set[int]:
    bitmask = np.zeros(compiled.bitmask_size, np.int32)
    compiled.matcher().fill_bitmask(bitmask)
    return set(np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist())


def by_mask(compiled: CompiledGrammar, text: str) -> bool:
    matcher = compiled.matcher()
    for byte in text.encode():
        if not matcher.allows(byte):
            return False
        matcher.consume(byte)
    return matcher.is_accepting()


def by_automaton(compiled: CompiledGrammar, text: str) -> bool:
    automaton = compiled.planner.automaton
    position = automaton.advance(automaton.start(), text.encode())
    return position is not None and automaton.is_complete(position)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * row.is_slow) for _, row in ROWS]
)
def test_it_compiles_and_three_ways_agree(row: Row) -> None:
    grammar = Grammar(row.lark_text(), name=row.name)
    compiled = grammar.compile(tokenizer(), [END_TOKEN_ID])
    assert compiled.planner.min_tokens <= min(len(text.encode()) for text in row.accept) + 1
    assert {text.encode()[0] if text else END_TOKEN_ID for text in row.accept} <= first_bytes(compiled)
    for is_program, texts in ((True, row.accept), (False, row.reject)):
        for text in texts:
            verdicts = grammar.accepts(text), by_mask(compiled, text), by_automaton(compiled, text)
            assert verdicts == (is_program,) * 3, text


def test_there_are_two_hundred_different_ones() -> None:
    assert len({row.name for _, row in ROWS}) == len(ROWS) >= 200
    assert len({json.dumps(row.source, sort_keys=True) for _, row in ROWS}) == len(ROWS)
    counts = {language: sum(row.language == language for _, row in ROWS) for language in (*READERS, "tools", "lark")}
    assert sum(counts.values()) == len(ROWS)
    assert min(counts.values()) >= 15
    assert sum(row.is_slow for _, row in ROWS) <= 5


@pytest.mark.parametrize("language", [*READERS, "tools", "lark"])
def test_rows_stand_in_the_file_of_their_notation_with_texts_of_both_kinds(language: str) -> None:
    for stem, row in ROWS:
        assert (stem == language) is (row.language == language), row.name
        if stem == language:
            assert len(set(row.accept)) == len(row.accept) >= 2, row.name
            assert row.reject and not set(row.reject) & set(row.accept), row.name
