"""The small shipped grammars, in Lark, in llguidance and in the byte automaton."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import pytest
from byte_walks import byte_matcher, random_walk, verdict

from edgedsl.catalogue import Catalogue, bind
from edgedsl.grammar import START, Grammar
from edgedsl.grammar.planner import Planner
from edgedsl.grammar.position import Automaton
from edgedsl.grammar.sources import tools
from edgedsl.grammar.sources.collisions import collisions
from edgedsl.grammar.vocabulary import Vocabulary

GRAMMARS = resources.files("edgedsl.grammars")
NAMES = ["cron", "regex", "promql", "json-call"]


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in GRAMMARS.joinpath(f"{name}.cases.jsonl").read_text("utf-8").splitlines()]


@dataclass(frozen=True)
class Shipped:
    name: str

    @cached_property
    def grammar(self) -> Grammar:
        text = GRAMMARS.joinpath(f"{self.name}.lark").read_text("utf-8")
        names = GRAMMARS.joinpath(f"{self.name}.catalogue.json")
        if not names.is_file():
            return Grammar(text, name=self.name)
        entries = json.loads(names.read_text("utf-8"))
        return Grammar(bind(text, Catalogue.from_dict(entries)), name=self.name)

    @cached_property
    def first(self) -> Any:
        return byte_matcher(self.grammar)

    @cached_property
    def automaton(self) -> Automaton:
        return Automaton(self.grammar.lark, START)


SHIPPED = {name: Shipped(name) for name in NAMES}
CASES = [(name, case) for name in NAMES for case in rows(name)]


def by_automaton(shipped: Shipped, text: str) -> str:
    position = shipped.automaton.advance(shipped.automaton.start(), text.encode())
    if position is None:
        return "reject"
    return "accept" if shipped.automaton.is_complete(position) else "incomplete"


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}: {case['why']}" for name, case in CASES])
def test_cases_agree_in_all_engines(name: str, case: dict[str, str]) -> None:
    shipped = SHIPPED[name]
    assert verdict(shipped.first, case["text"]) == case["kind"]
    # Inside a lexeme the automaton may not know yet that the parser will not take it.
    expected = {"reject": {"reject", "incomplete"}}.get(case["kind"], {case["kind"]})
    assert by_automaton(shipped, case["text"]) in expected
    assert shipped.grammar.accepts(case["text"]) is (case["kind"] == "accept")


@pytest.mark.parametrize("name", NAMES)
def test_there_are_cases_of_every_kind_with_a_reason(name: str) -> None:
    kinds = [case["kind"] for case in rows(name)]
    assert min(kinds.count(kind) for kind in ("accept", "reject", "incomplete")) >= 5
    assert all(case["why"] for case in rows(name))


@pytest.mark.parametrize("name", NAMES)
def test_beginnings_of_accepted_texts_are_never_refused(name: str) -> None:
    for text in (case["text"] for case in rows(name) if case["kind"] == "accept"):
        assert [end for end in range(len(text)) if verdict(SHIPPED[name].first, text[:end]) == "reject"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_program_is_found(name: str) -> None:
    shipped = SHIPPED[name]

    def is_program(token_ids: list[int]) -> bool:
        return verdict(shipped.first, bytes(token_ids).decode()) == "accept"

    planner = Planner(shipped.automaton, Vocabulary([bytes([byte]) for byte in range(256)]), is_program)
    tokens = planner.completion(shipped.automaton.start())
    assert tokens is not None
    assert shipped.grammar.accepts(bytes(tokens).decode())
    assert planner.min_tokens == {"cron": 6, "regex": 1, "promql": 1, "json-call": 23}[name]


def random_text(name: str, rng: random.Random) -> str | None:
    return random_walk(SHIPPED[name].first, rng, closing=b')]}"', max_bytes=400, stop=0.3)


@pytest.mark.parametrize("name", NAMES)
def test_random_walks_parse(name: str) -> None:
    rng, texts = random.Random(0), list[str]()
    for _ in range(400):
        if (text := random_text(name, rng)) is not None:
            texts.append(text)
        if len(texts) == 100:
            break
    assert len(texts) == 100
    assert [text for text in texts if not SHIPPED[name].grammar.accepts(text)] == []
    assert [text for text in texts if by_automaton(SHIPPED[name], text) != "accept"] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_two_terminals_can_be_confused(name: str) -> None:
    assert collisions(SHIPPED[name].grammar) == []


def test_json_call_is_made_from_its_tools() -> None:
    imported = tools.to_lark(json.loads(GRAMMARS.joinpath("json-call.tools.json").read_text("utf-8")), refusal=True)
    text = GRAMMARS.joinpath("json-call.lark").read_text("utf-8")
    assert text.split("\n", 1)[1] == imported.source


def test_random_regexes_compile() -> None:
    import re

    rng = random.Random(1)
    texts = {text for _ in range(60) if (text := random_text("regex", rng))}
    failed = []
    for text in texts:
        try:
            re.compile(text)
        except re.error as exc:
            failed.append((text, str(exc)))
    # Ranges and counts may be the wrong way round, as the README says.
    assert [f for f in failed if "bad character range" not in f[1] and "min repeat greater" not in f[1]] == []
