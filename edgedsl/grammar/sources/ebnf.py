"""EBNF in ISO's manner (``=``, ``,``, ``;``, ``[ ]``, ``{ }``) and in W3C's (``::=``, ``? * +``, ``[a-z]``, ``#x20``).

The first rule is the start. White space in the language is only what the rules spell.
"""

from __future__ import annotations

import re

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import MAX_CODE_POINT
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import productions
from edgedsl.grammar.sources.imported import Imported
from edgedsl.grammar.sources.notation import Cursor, classed

_NAME = r"<?[A-Za-z_](?:[\w-]*\w)?>?"
_DEFINE = r"::=|:=|="
_RULE = rf"(?:\[\d+\]\s*)?({_NAME})\s*(?:{_DEFINE})"
# In W3C's manner: no white space inside, and no quotes around.
_CLASS = r"\[(?!\"[^\"\]]+\"\]|'[^'\]]+'\])(\^?)((?:#x[0-9A-Fa-f]+|[^\]\s])+)\]"
_CODE = r"#x([0-9A-Fa-f]+)"


def to_lark(text: str) -> Imported:
    """Lark for an EBNF grammar.

    Raises:
        GrammarError: not EBNF; an exception (``a - b``) or a special sequence (``? ... ?``), which are not supported;
            a grammar that is not LALR(1).
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._cursor = Cursor("EBNF", text, r"\s+|\(\*[\s\S]*?\*\)|/\*[\s\S]*?\*/")
        self._has_classes = "::=" in text
        self._classes: dict[str, None] = {}
        self._notes: list[str] = []

    def read(self) -> Imported:
        cursor = self._cursor
        rules: dict[str, ex.Node] = {}
        while not cursor.is_at_end():
            name = cursor.expect(_RULE, "a rule, NAME = ... or NAME ::= ...")[1].strip("<>")
            if name in rules:
                raise cursor.error(f"a second rule {name!r}")
            rules[name] = self._choice()
            cursor.take("[;.]")
        if not rules:
            raise cursor.error("expected a rule")
        for name in filter(rules.__contains__, self._classes):
            self._notes.append(f"[{name}] was read as a character class; for the rule {name!r} write ({name})?")
        return productions.to_lark("EBNF", rules, next(iter(rules)), self._notes)

    def _choice(self) -> ex.Node:
        options = [self._sequence()]
        while self._cursor.take(r"\|"):
            options.append(self._sequence())
        return ex.choice(options)

    def _sequence(self) -> ex.Node:
        cursor = self._cursor
        items: list[ex.Node] = []
        while not cursor.is_at_end() and not cursor.peek(rf"[|)\]}};.]|{_RULE}"):
            items.append(self._counted())
            cursor.take(",")
        return ex.sequence(items)

    def _counted(self) -> ex.Node:
        cursor = self._cursor
        if cursor.take(r"\{"):
            inner = self._closed(r"\}")
            item = ex.repeat(inner, int(cursor.take("-") is not None), None)
        else:
            item = self._item()
        if cursor.peek("-"):
            raise cursor.error("exceptions are not supported")
        while sign := cursor.take("[?*+]"):
            item = ex.repeat(item, int(sign[0] == "+"), 1 if sign[0] == "?" else None)
        return item

    def _item(self) -> ex.Node:
        cursor = self._cursor
        if match := cursor.take(r"\"([^\"\n]*)\"|'([^'\n]*)'"):
            if "\\" in match[0]:
                self._notes.append(f"{match[0]}: a backslash stands for itself")
            return ex.text(match[1] if match[1] is not None else match[2])
        if match := cursor.take(_CODE):
            return ex.chars([(self._code(match[1]),) * 2])
        if self._has_classes and (match := cursor.take(_CLASS)):
            return self._class(match[1], match[2])
        if cursor.take(r"\["):
            return ex.repeat(self._closed(r"\]"), 0, 1)
        if cursor.take(r"\("):
            return self._closed(r"\)")
        if match := cursor.take(_NAME):
            return ex.Reference(match[0].strip("<>"))
        raise cursor.error("special sequences are not supported" if cursor.peek(r"\?") else "expected a text or a rule")

    def _closed(self, end: str) -> ex.Node:
        node = self._choice()
        self._cursor.expect(end, f"'{end[1:]}'")
        return node

    def _class(self, caret: str, inner: str) -> ex.Node:
        self._classes[inner] = None
        codes = [
            (self._code(match[1]), False) if match[1] else (ord(match[0]), True)
            for match in re.finditer(rf"{_CODE}|.", inner)
        ]
        try:
            return classed(codes, bool(caret))
        except GrammarError as exc:
            raise self._cursor.error(exc.message) from exc

    def _code(self, digits: str) -> int:
        code = int(digits, 16)
        if code > MAX_CODE_POINT:
            raise self._cursor.error(f"#x{digits} is not a character")
        return code
