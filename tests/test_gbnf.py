"""Lark grammars as GBNF."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from lark import Lark

from edgedsl.bench.gbnf import from_grammar, from_lark
from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import gbnf

# Languages whose GBNF our own importer can make LALR(1) again; flow and promql are such, too, but take long.
IMPORTED = ("json-call", "regex", "sql-select")


def read(text: str) -> dict[str, ex.Node]:
    """The rules of a GBNF grammar, as our importer reads them."""
    found: dict[str, ex.Node] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gbnf.productions, "to_lark", lambda _kind, rules, _root, _notes: found.update(rules))
        gbnf.to_lark(text)
    assert {name for node in found.values() for name in ex.references(node)} <= set(found)
    return found


class Recogniser:
    """Whether rules without left recursion derive a text: every way is followed, as no lexer decides."""

    def __init__(self, rules: Mapping[str, ex.Node], text: str) -> None:
        self._rules = rules
        self._text = text
        self._known: dict[tuple[str, int], set[int]] = {}

    def accepts(self) -> bool:
        return len(self._text) in self._ends(ex.Reference("root"), 0)

    def _ends(self, node: ex.Node, at: int) -> set[int]:
        match node:
            case ex.Reference(name):
                if (name, at) not in self._known:
                    self._known[name, at] = self._ends(self._rules[name], at)
                return self._known[name, at]
            case ex.Chars(spans):
                is_match = at < len(self._text) and any(low <= ord(self._text[at]) <= high for low, high in spans)
                return {at + 1} if is_match else set()
            case ex.Sequence(items):
                ends = {at}
                for item in items:
                    ends = {end for start in ends for end in self._ends(item, start)}
                return ends
            case ex.Choice(options):
                return {end for option in options for end in self._ends(option, at)}
            case ex.Repeat(item, least, most):
                return self._repeated(item, least, most, at)
        raise AssertionError(node)

    def _repeated(self, item: ex.Node, least: int, most: int | None, at: int) -> set[int]:
        level, found, count = {at}, set[int](), 0
        while level and (most is None or count <= most):
            if count >= least:
                level -= found
                found |= level
            level = {end for start in level for end in self._ends(item, start)}
            count += 1
        return found


def accepts(lark_text: str, text: str) -> bool:
    rules = read(from_lark(Lark(lark_text, parser="lalr", lexer="contextual")))
    return Recogniser(rules, text).accepts()


@pytest.mark.parametrize("name", shipped())
def test_the_gbnf_of_a_shipped_grammar_accepts_what_lark_accepts(name: str) -> None:
    language = open_language(name)
    rules = read(from_grammar(language.grammar()))
    cases = [case for case in language.cases if case.kind == "accept"]
    assert cases
    assert [case.text for case in cases if not Recogniser(rules, case.text).accepts()] == []


@pytest.mark.parametrize("name", IMPORTED)
def test_importing_the_gbnf_gives_the_language_back(name: str) -> None:
    language = open_language(name)
    imported = Grammar(gbnf.to_lark(from_grammar(language.grammar())).source)
    assert [c.text for c in language.cases if imported.accepts(c.text) != (c.kind == "accept")] == []


def test_optional_parts_are_written_once() -> None:
    source = 'start: "a" b? c? d?\nb: "b"\nc: "c"\nd: "d"\n'
    text = from_lark(Lark(source, parser="lalr"))
    assert text.splitlines()[0] == 'root ::= "a" (b (c start-end-0 | d)? | c start-end-0 | d)?'
    for program in ("a", "ab", "ac", "ad", "abc", "abd", "acd", "abcd"):
        assert accepts(source, program)
    assert not accepts(source, "adc")


def test_left_recursion_becomes_a_repeat() -> None:
    source = 'start: sum\nsum: sum "+" N | N\nN: /[0-9]{1,3}?/\n'
    assert from_lark(Lark(source, parser="lalr")).splitlines()[1:] == ['sum ::= N ("+" N)*', "N ::= [0-9]{1,3}"]
    assert accepts(source, "1+22")
    assert not accepts(source, "1+")


def test_left_recursion_through_two_rules_is_refused() -> None:
    source = 'start: a\na: b "x" | "a"\nb: a "y"\n'
    with pytest.raises(GrammarError, match="begins with itself"):
        from_lark(Lark(source, parser="lalr"))


def test_loops_in_loops_become_one() -> None:
    source = 'start: part+\npart: TEXT | "$"\nTEXT: /[a-z]{1,64}/\n'
    assert from_lark(Lark(source, parser="lalr")) == 'root ::= ("$" | [a-z])+\n'


def test_ignored_text_may_stand_behind_every_terminal() -> None:
    source = 'start: "set" NAME\nNAME: /[a-z]+/\nWS: /[ \\t]/\n%ignore WS\n'
    assert accepts(source, "set \t hall  ")
    assert not accepts(source, " set hall")


def test_characters_are_escaped_as_both_readers_take_them() -> None:
    source = 'start: /[^\\]\\\\^\\x00-\\x1f-]/ "\\"" /[\\u00e9\\U0001f600-\\U0001f64f]/ /(?i:k)/\n'
    text = from_lark(Lark(source, parser="lalr"))
    assert r"[^\u0000-\u001F\-\\-\^]" in text
    assert accepts(source, 'a"\U0001f601K')
    assert not accepts(source, '^"ék')
    assert not accepts(source, '\n"ék')


def test_what_no_automaton_matches_is_refused() -> None:
    with pytest.raises(GrammarError, match="cannot be said in GBNF"):
        from_lark(Lark("start: /a(?!b)/ /c/\n", parser="lalr"))
