"""A function takes only its own parameters, a parameter only its own values."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.catalogue import Catalogue
from edgedsl.errors import GrammarError
from edgedsl.grammar import BudgetGuard, CompiledGrammar, Grammar
from edgedsl.grammar.authoring.fuzz import Generation

SOURCE = """\
start: call ("; " call)*
call: FUNCTION "(" arguments? ")"
arguments: argument (", " argument)*
argument: PARAMETER "=" value
value: LEVEL | /[0-9]{1,2}/ | call
%declare FUNCTION
%declare PARAMETER
%declare LEVEL
"""
CATALOGUE: dict[str, Any] = {
    "FUNCTION": {
        "lamp": {"PARAMETER": {"mode": {"LEVEL": ["dim", "full"]}, "room": {}}},
        "lamp.off": {"PARAMETER": ["room"]},
        "heat": {"PARAMETER": {"mode": {"LEVEL": ["eco"]}, "to": {}}},
        "stop": {"PARAMETER": []},
        "wait": {},
    },
    "LEVEL": ["any"],
}
GOOD = [
    "stop()",
    "lamp(mode=dim)",
    "lamp(room=12)",
    "lamp.off(room=1)",
    "heat(mode=eco, to=20)",
    "heat(to=any)",
    "lamp(mode=dim, room=heat(mode=eco)); lamp.off(room=any)",
    "lamp(room=heat(to=lamp(mode=full)), mode=dim)",
    "wait(to=1)",  # it says nothing of parameters: any may stand
]
BAD = [
    ("lamp(to=1)", "'lamp' has no PARAMETER 'to'"),
    ("lamp.off(mode=dim)", "'lamp.off' has no PARAMETER 'mode'"),
    ("heat(mode=dim)", "'mode' has no LEVEL 'dim'"),
    ("stop(to=1)", "'stop' has no PARAMETER 'to'"),
    ("lamp(mode=any)", "'mode' has no LEVEL 'any'"),
    ("lamp(room=heat(mode=eco), to=1)", "'lamp' has no PARAMETER 'to'"),
]


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Grammar:
    folder = tmp_path_factory.mktemp("language")
    (folder / "grammar.lark").write_text(SOURCE)
    (folder / "catalogue.json").write_text(json.dumps(CATALOGUE))
    return Grammar.from_files(folder / "grammar.lark", folder / "catalogue.json")


def compile_tiny(grammar: Grammar) -> CompiledGrammar:
    tokenizer = tiny_tokenizer(["lamp", "(room", "mode=", "=eco", ".off"])
    return grammar.compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])


@pytest.fixture(scope="module")
def compiled(grammar: Grammar) -> CompiledGrammar:
    return compile_tiny(grammar)


@pytest.fixture(scope="module")
def written(grammar: Grammar) -> CompiledGrammar:
    """The scopes as rules, for engines that know no catalogue."""
    return compile_tiny(grammar.with_written_scopes())


def walks(compiled: CompiledGrammar, text: str) -> bool:
    """Whether the decoding engine takes the text byte by byte as a program."""
    return compiled.matcher().accepts([*text.encode(), min(compiled.end_token_ids)])


def passes(compiled: CompiledGrammar, text: str) -> bool:
    """Whether the guard lets the text through byte by byte, as a program is decoded."""
    guard = BudgetGuard(compiled, compiled.matcher())
    for token_id in text.encode():
        if not guard.permits(token_id, 1000):
            return False
        guard.consume(token_id)
    return guard.may_end() and guard.is_whole()


@pytest.mark.parametrize("text", GOOD)
def test_names_that_are_bound_here(
    grammar: Grammar, compiled: CompiledGrammar, written: CompiledGrammar, text: str
) -> None:
    grammar.parse(text)
    assert walks(written, text)
    assert passes(compiled, text)
    assert steps(compiled, text)


@pytest.mark.parametrize(("text", "message"), BAD)
def test_names_that_are_bound_elsewhere(
    grammar: Grammar, compiled: CompiledGrammar, written: CompiledGrammar, text: str, message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammar.parse(text)
    assert not walks(written, text)
    assert not passes(compiled, text)
    assert not steps(compiled, text)


def steps(compiled: CompiledGrammar, text: str) -> bool:
    """Whether the byte automaton takes the text as a program."""
    automaton = compiled.planner.automaton
    position = automaton.advance(automaton.start(), text.encode())
    return position is not None and automaton.is_complete(position)


def test_readers_agree_on_every_call(grammar: Grammar, compiled: CompiledGrammar, written: CompiledGrammar) -> None:
    functions, parameters = ["lamp", "lamp.off", "heat", "stop", "wait"], ["mode", "room", "to"]
    values = ["dim", "full", "eco", "any", "7", "stop()"]
    texts = [f"{f}({p}={v})" for f, p, v in itertools.product(functions, parameters, values)]
    verdicts = [grammar.accepts(text) for text in texts]
    assert [walks(written, text) for text in texts] == verdicts
    assert [passes(compiled, text) for text in texts] == verdicts
    assert [steps(compiled, text) for text in texts] == verdicts
    assert 20 < sum(verdicts) < 60


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), spare=st.integers(0, 60))
def test_random_logits_invent_nothing(compiled: CompiledGrammar, seed: int, spare: int) -> None:
    budget = compiled.planner.min_tokens + spare
    token_ids = Generation(compiled, np.random.default_rng(seed)).program(budget, is_greedy=True)
    text = b"".join(compiled.planner.vocabulary.token_bytes[i] for i in token_ids).decode()
    compiled.grammar.parse(text)


def test_written_and_read_alike(tmp_path: Path) -> None:
    (tmp_path / "catalogue.json").write_text(json.dumps(CATALOGUE))
    catalogue = Catalogue.from_file(tmp_path / "catalogue.json")
    again = tmp_path / "again.json"
    again.write_text(json.dumps(catalogue.to_dict()))
    assert Catalogue.from_file(again) == catalogue
    assert catalogue.is_scoped
    assert catalogue.terminals == {
        "FUNCTION": ("lamp", "lamp.off", "heat", "stop", "wait"),
        "PARAMETER": ("mode", "room", "to"),
        "LEVEL": ("dim", "full", "eco", "any"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"A": {}}', "A must be a non-empty list"),
        ('{"A": {"x": []}}', r"A 'x' holds \[\], expected an object"),
        ('{"A": {"x": {"B": ["y", ""]}}}', "A 'x': B must be a non-empty list"),
        ('{"A": {"x": {"b": ["y"]}}}', "A 'x': 'b' is not a terminal name"),
        ('{"A": {"x": {}, "x": {}}}', "'x' stands twice in one object"),
        ('{"A": ["x"], "A": ["y"]}', "'A' stands twice in one object"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "catalogue.json").write_text(content)
    with pytest.raises(GrammarError, match=message):
        Catalogue.from_file(tmp_path / "catalogue.json")
