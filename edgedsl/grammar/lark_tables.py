"""Lark's tables of a grammar as JSON, so that a bundle need not have them worked out at each load.

Lark's own ``save`` is a pickle; what it would pickle are plain numbers, strings, lists and objects, which JSON holds as
well, but for keys that are numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.exceptions import LarkError
from lark.grammar import Rule
from lark.lexer import TerminalDef

from edgedsl.errors import GrammarError

FILE_NAME = "grammar.tables.json"


def to_json(parser: Lark, source: str) -> str:
    """The tables of a parser, with what they were made from.

    Args:
        parser: LALR.
        source: its grammar, catalogue bound.
    """
    data, memo = parser.memo_serialize([TerminalDef, Rule])
    return json.dumps({**_origin(source), "data": data, "memo": memo})


def read(path: Path, source: str) -> Lark | None:
    """The parser of the tables in a file; None where they are of another source or another version of Lark.

    Raises:
        GrammarError: cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_hook=_with_numbers)
        origin = _origin(source)
        if {name: found[name] for name in origin} != origin:
            return None
        parser: Lark = Lark._load_from_dict(found["data"], found["memo"])  # type: ignore[no-untyped-call]
        parser.ignore_tokens = list(parser.lexer_conf.ignore)  # which Lark leaves out
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, LarkError) as exc:
        raise GrammarError(f"'{path}' does not hold a grammar's tables: {exc}", hint="export the bundle again") from exc
    return parser


def _origin(source: str) -> dict[str, str]:
    return {"lark": lark.__version__, "sha256": hashlib.sha256(source.encode()).hexdigest()}


def _with_numbers(members: dict[str, Any]) -> dict[str | int, Any]:
    return {int(name) if name.isdecimal() else name: value for name, value in members.items()}
