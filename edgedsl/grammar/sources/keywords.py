"""The keywords of JSON Schema that are read, and how the others are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from edgedsl.errors import GrammarError

DEFINITIONS = frozenset(("$defs", "definitions"))
ANNOTATIONS = DEFINITIONS | frozenset(("$schema", "$id", "$comment", "title", "description", "default", "examples"))
ANNOTATIONS |= frozenset(("deprecated", "readOnly", "writeOnly", "format"))
NUMBER_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_TAKE_OUT = "take it out of the schema; what it demands is then not in the grammar"
OF_TYPE = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "minItems", "maxItems", "uniqueItems")),
    "string": frozenset(("pattern", "minLength", "maxLength")),
    "integer": NUMBER_BOUNDS,
    "number": NUMBER_BOUNDS,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}


def refuse(keys: Iterable[str], pointer: str, where: str = "") -> None:
    """Refuse the first of the keywords, if there is one.

    Raises:
        GrammarError: it names the keyword and its JSON pointer.
    """
    for key in sorted(keys):
        raise GrammarError(
            f"{pointer}/{escape(key)}: the keyword {key!r} is not supported{f' {where}' if where else ''}",
            hint=_TAKE_OUT,
        )


def bounds(
    schema: dict[str, Any], low: str, high: str, limits: tuple[int, int], pointer: str
) -> tuple[int, int | None]:
    """Two keywords that count, the second ``None`` where it is absent.

    Raises:
        GrammarError: one is no count up to its limit, or they exclude each other.
    """
    for key, limit in zip((low, high), limits, strict=True):
        count = schema.get(key, 0)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= limit:
            raise GrammarError(
                f"{pointer}/{key}: {json.dumps(count)} is not supported, expected 0 to {limit}", hint=_TAKE_OUT
            )
    if schema.get(low, 0) > schema.get(high, limits[1]):
        raise GrammarError(f"{pointer}/{high}: {schema[high]} is less than {low} {schema[low]}")
    return schema.get(low, 0), schema.get(high)


def escape(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")
