"""JSON Schema's strings, numbers and constants as expressions. What differs from the schema goes to ``notes``."""

from __future__ import annotations

import json
import math
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import json_numbers, json_text
from edgedsl.grammar.sources.keywords import OF_TYPE, bounds, refuse
from edgedsl.grammar.sources.regex_source import parse


def number(name: str, schema: dict[str, Any], pointer: str, notes: list[str]) -> ex.Node:
    """An "integer" or "number".

    Raises:
        GrammarError: bounds that are not supported.
    """
    notes.append(json_text.LIMITS)
    bounded = json_numbers.between(schema, name, pointer)
    if bounded is not None and name == "number":
        notes.append(f"{pointer}: a number between bounds is written without an exponent")
    return json_text.SCALARS[name] if bounded is None else bounded


def string(schema: dict[str, Any], pointer: str, notes: list[str]) -> ex.Node:
    """A string, with its length or its pattern.

    Raises:
        GrammarError: a count or a pattern that is not supported, or both where neither follows from the other.
    """
    least, most = bounds(schema, "minLength", "maxLength", (ex.MAX_LEAST, ex.MAX_MOST), pointer)
    if "pattern" not in schema:
        is_free = (least, most) == (0, None)
        return json_text.STRING if is_free else json_text.quoted(ex.repeat(json_text.CHARACTER, least, most))
    try:
        inside = parse(str(schema["pattern"]), is_search=True)
        spelled = json_text.quoted(json_text.spelled(inside))
    except GrammarError as exc:
        raise GrammarError(f"{pointer}/pattern: {exc.message}", hint=exc.hint) from exc
    shortest, longest = _lengths(inside)
    for key, is_kept in (("minLength", shortest >= least), ("maxLength", most is None or longest <= most)):
        if key in schema and not is_kept:
            refuse([key], pointer, "beside a pattern that does not imply it")
        if key in schema:
            notes.append(f"{pointer}/{key}: the pattern implies it")
    return spelled


def constants(schema: dict[str, Any], keys: set[str], pointer: str) -> ex.Node:
    """The values of ``enum`` or ``const``.

    Raises:
        GrammarError: none, values of another type than is asked for, or too much text.
    """
    key = "const" if "const" in keys else "enum"
    refuse(keys - {key, "type"}, pointer, f"beside {key}")
    values = [schema["const"]] if key == "const" else schema["enum"]
    if not isinstance(values, list) or not values:
        raise GrammarError(f"{pointer}/enum: expected a list of values")
    types = schema.get("type", list(OF_TYPE))
    for value in values:
        if not json_text.types_of(value) & set([types] if isinstance(types, str) else types):
            raise GrammarError(f"{pointer}/{key}: {json.dumps(value)} is not of type {json.dumps(types)}")
    texts = [json_text.canonical(value) for value in values]
    if (num_characters := sum(map(len, texts))) > ex.MAX_TEXT:
        raise GrammarError(
            f"{pointer}/{key}: values of {num_characters} characters, expected at most {ex.MAX_TEXT}",
            hint="a catalogue holds more: write the terminal with %declare, and the values into catalogue.json",
        )
    return ex.choice(map(ex.text, texts))


def _lengths(node: ex.Node) -> tuple[int, float]:
    """Code points of the shortest and of the longest text of a node without references."""
    if isinstance(node, ex.Chars):
        return 1, 1
    parts = [_lengths(child) for child in ex.children(node)] or [(0, 0)]
    shortest, longest = [least for least, _ in parts], [most for _, most in parts]
    if isinstance(node, ex.Repeat):
        return shortest[0] * node.least, longest[0] * (math.inf if node.most is None else node.most)
    return (sum(shortest), sum(longest)) if isinstance(node, ex.Sequence) else (min(shortest), max(longest))
