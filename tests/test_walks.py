"""Which training programs a server walks first."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.exporters.walks import most_visited
from edgedsl.grammar import BudgetGuard, CompiledGrammar, Grammar

SOURCE = """
start: one (";" one)*
one: "set" NAME NUMBER | "off" NAME | "say" TEXT
NAME: "hall" | "kitchen"
NUMBER: /[0-9]+/
TEXT: /"[a-z ]*"/
%ignore " "
"""
TOKENIZER = tiny_tokenizer()
END = TOKENIZER.token_id(EOS_TOKEN)
statements = st.sampled_from(["set hall 5", "set kitchen 20", "off hall", "off kitchen", 'say "hello"', "sing", "off;"])
texts = st.lists(st.lists(statements, min_size=1, max_size=3).map(";".join), max_size=12)


@cache
def compiled() -> CompiledGrammar:
    return Grammar(SOURCE).compile(TOKENIZER, [END])


def encode(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode_plain(text))


def positions(program: tuple[int, ...]) -> set[object]:
    """Those that a walk with the guard meets; its nodes are kept by position."""
    guard = BudgetGuard(compiled(), compiled().matcher())
    met = {guard._position}
    for token_id in program:
        if not guard.permits(token_id, 1 << 20):
            break
        guard.consume(token_id)
        met.add(guard._position)
    return met


def met_by(programs: list[tuple[int, ...]]) -> set[object]:
    return set().union(*map(positions, programs))


@given(texts)
@settings(deadline=None)
def test_the_chosen_ones_visit_all_that_any_program_visits_and_each_something_new(programs: list[str]) -> None:
    encoded = [encode(program) for program in programs]
    chosen = most_visited(encoded, compiled())
    assert set(chosen) <= set(encoded)
    assert met_by(chosen) == met_by(encoded)
    for number, program in enumerate(chosen):
        assert not positions(program) <= met_by(chosen[:number])


def test_what_many_programs_visit_comes_first() -> None:
    rare, common, alike = (encode(text) for text in ('say "hello"', "set kitchen 20", "set kitchen 20;off hall"))
    assert most_visited([rare, common, common, alike], compiled(), most=1) == [common]
    assert most_visited([rare, rare, rare, rare, common], compiled(), most=1) == [rare]


def test_of_equal_programs_the_choice_is_always_the_same() -> None:
    programs = [encode(text) for text in ("off hall", "off kitchen", "set hall 5", 'say "hello"')]
    assert most_visited(programs, compiled()) == most_visited(programs[::-1], compiled())


@pytest.mark.parametrize("programs", [[], [()], [(END, END)], [(END,), encode("zing"), ()]])
def test_programs_may_hold_anything(programs: list[tuple[int, ...]]) -> None:
    assert len(most_visited(programs, compiled())) == bool(programs)  # the start is a position too
