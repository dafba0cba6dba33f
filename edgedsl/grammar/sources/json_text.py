"""Canonical JSON text as expressions: what ``json.dumps(value, ensure_ascii=False)`` writes."""

from __future__ import annotations

import json
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import Span
from edgedsl.grammar.sources import expression as ex

_ESCAPED = [(0, 31), (34, 34), (92, 92)]
# Counts keep a model from writing digits for ever; 19 digits hold every 64-bit integer, 18 more every double.
_INTEGER = r"0|-?[1-9][0-9]{0,18}"
# -0 is written 0, but -0.5 is a number.
_NUMBER = r"((0|-?[1-9][0-9]{0,18})(\.[0-9]{1,18})?|-0\.[0-9]{1,18})(e[+-][0-9]{2,3})?"
LIMITS = "numbers have at most 19 digits before and 18 after the point"


def canonical(value: Any) -> str:
    """A value as JSON on one line.

    Raises:
        GrammarError: JSON cannot write it.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # refuses halves of surrogate pairs
        return text
    except (TypeError, ValueError) as exc:
        raise GrammarError(f"{value!r} cannot be written as JSON") from exc


def spelled(node: ex.Node) -> ex.Node:
    """The inside of JSON strings whose values match ``node``."""
    return ex.replace(node, lambda leaf: _spelled_class(leaf) if isinstance(leaf, ex.Chars) else leaf)


def quoted(inside: ex.Node) -> ex.Node:
    """With double quotes around it."""
    return ex.sequence([ex.text('"'), inside, ex.text('"')])


def types_of(value: Any) -> set[str]:
    """JSON Schema's types of a value."""
    if value is None or isinstance(value, bool):
        return {"null" if value is None else "boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"}


def _spelled_class(leaf: ex.Chars) -> ex.Node:
    # Few code points have to be escaped, so they are looked at one by one.
    special = [c for low, high in _ESCAPED for c in range(low, high + 1)]
    escaped = [c for c in special if any(first <= c <= last for first, last in leaf.spans)]
    outside = ex.other_chars([*_holes(leaf), *_ESCAPED])
    return ex.choice([outside, *(ex.text(canonical(chr(code))[1:-1]) for code in escaped)])


def _holes(leaf: ex.Chars) -> tuple[Span, ...]:
    holes = ex.other_chars(leaf.spans)
    return holes.spans if isinstance(holes, ex.Chars) else ()


def _read(pattern: str) -> ex.Node:
    from edgedsl.grammar.sources.regex_source import parse

    return parse(pattern)


CHARACTER = _read(r'[^"\\\x00-\x1f]|\\(["\\bfnrt]|u00(0[0-7bef]|1[0-9a-f]))')
STRING = quoted(ex.repeat(CHARACTER, 0, None))
SCALARS = {
    "integer": _read(_INTEGER),
    "number": _read(_NUMBER),
    "boolean": _read("true|false"),
    "null": _read("null"),
}
SCALAR = ex.choice([STRING, SCALARS["number"], SCALARS["boolean"], SCALARS["null"]])
NAMES = {STRING: "STRING", SCALAR: "SCALAR"} | {node: name.upper() for name, node in SCALARS.items()}
