"""GBNF, llama.cpp's grammars: ``rule ::= "text" [a-z]+ (other | "x"){1,3} # comment``, from the rule ``root``."""

from __future__ import annotations

import re

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import MAX_CODE_POINT
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import productions
from edgedsl.grammar.sources.imported import Imported
from edgedsl.grammar.sources.notation import Cursor, classed, counted

_NAME = r"[A-Za-z0-9_-]+"
_CHARACTER = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}


def to_lark(text: str) -> Imported:
    """Lark for a GBNF grammar.

    Raises:
        GrammarError: not GBNF, tokens such as ``<think>``, or a grammar that is not LALR(1).
    """
    cursor = Cursor("GBNF", text, r"\s+|#[^\n]*")
    rules: dict[str, ex.Node] = {}
    while not cursor.is_at_end():
        name = cursor.expect(rf"({_NAME})(?=\s*::=)", "a rule, NAME ::= ...")[1]
        cursor.expect("::=", "'::='")
        if name in rules:
            raise cursor.error(f"a second rule {name!r}")
        rules[name] = _choice(cursor)
    return productions.to_lark("GBNF", rules, "root", [])


def _choice(cursor: Cursor) -> ex.Node:
    options = [_sequence(cursor)]
    while cursor.take(r"\|"):
        options.append(_sequence(cursor))
    return ex.choice(options)


def _sequence(cursor: Cursor) -> ex.Node:
    items: list[ex.Node] = []
    while not cursor.is_at_end() and not cursor.peek(rf"[|)]|{_NAME}\s*::="):
        items.append(counted(cursor, _item(cursor)))
    return ex.sequence(items)


def _item(cursor: Cursor) -> ex.Node:
    if match := cursor.take(r'"((?:[^"\\\n]|\\.)*)"'):
        return ex.text("".join(chr(code) for code, _ in _characters(cursor, match[1])))
    if match := cursor.take(r"\[(\^?)((?:[^\]\\]|\\.)*)\]"):
        try:
            return classed(_characters(cursor, match[2]), bool(match[1]))
        except GrammarError as exc:
            raise cursor.error(exc.message) from exc
    if cursor.take(r"\."):
        return ex.ANY
    if cursor.take(r"\("):
        node = _choice(cursor)
        cursor.expect(r"\)", "')'")
        return node
    if match := cursor.take(_NAME):
        return ex.Reference(match[0])
    raise cursor.error("tokens are not supported" if cursor.peek("!?<") else "expected a text, a class or a rule")


def _characters(cursor: Cursor, inner: str) -> list[tuple[int, bool]]:
    """Code points, each with whether it was written plainly."""
    found = []
    for match in _CHARACTER.finditer(inner):
        digits = match[1] or match[2] or match[3]
        if match[4] is not None and match[4] not in _ESCAPES:
            raise cursor.error(f"the escape '\\{match[4]}' is not supported")
        code = int(digits, 16) if digits else ord(_ESCAPES[match[4]] if match[4] else match[5])
        if code > MAX_CODE_POINT or 0xD800 <= code < 0xE000:
            raise cursor.error(f"U+{code:04X} is not a character")
        found.append((code, match[5] is not None))
    return found
