"""Tool schemas as a grammar of calls: ``{"name": ..., "arguments": {...}}``, each tool with its own parameters only.

Read are OpenAI's form (``{"type": "function", "function": {...}}``) and plain ``{"name", "parameters"}``, where the
parameters are a JSON schema, an object of names with their types, or a list of names that may have any value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from edgedsl.errors import GrammarError
from edgedsl.grammar.refusals import RULE
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import json_text
from edgedsl.grammar.sources.imported import Imported, imported
from edgedsl.grammar.sources.json_schema import Schemas
from edgedsl.grammar.sources.rules import Rules

REFUSAL = '{"name": "unsupported"}'  # a call without arguments has an empty object of them
# Names that tool lists written for Python use for JSON Schema's types.
_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
}
_REMARKS = frozenset(("description", "example", "examples", "example_values", "unit", "default", "title"))


@dataclass(frozen=True)
class Tool:
    """A tool and the JSON schema of its arguments."""

    name: str
    schema: dict[str, Any]


def to_lark(
    tools: list[dict[str, Any]],
    *,
    calls: Literal["one", "many"] = "one",
    order: Literal["schema", "any"] = "schema",
    refusal: bool = False,
) -> Imported:
    """A grammar of calls of these tools in canonical JSON.

    Args:
        tools: their schemas.
        calls: "one" call, or "many": a list of one or more.
        order: "schema": arguments come in the order of the schema, each at most once, required ones always;
            "any": in any order, and neither is checked (LALR would need a state for every subset).
        refusal: with a program for what none of the tools can do, :data:`REFUSAL`; in a list where calls are many.

    Raises:
        GrammarError: a schema that is not supported, named with tool and JSON pointer.
    """
    rules = Rules()
    refused = rules.reserve(RULE)  # also where there is none: no tool may take the name
    translated = ["no tool -> refusal"] * refusal
    notes = ["arguments in any order: that none comes twice and none is missing is not checked"] * (order == "any")
    heads: list[ex.Node] = []
    for tool in _distinct(tools):
        schemas = Schemas(tool.schema, rules)
        heads.append(_call(tool, schemas, order))
        translated += [f"{tool.name} {line}" for line in schemas.translated] or [f"{tool.name} -> call"]
        notes += [note if note == json_text.LIMITS else f"{tool.name} {note}" for note in schemas.notes]
    call: ex.Node = ex.choice(heads)
    if calls == "many":
        one = rules.rule(call, "call")
        more = ex.repeat(ex.sequence([ex.text(", "), one]), 0, None)
        call = ex.sequence([ex.text("["), one, more, ex.text("]")])
    if refusal:
        rules.define(refused, _refusal(rules, calls))
        call = ex.choice([call, refused])
    return imported("list of tools", rules.render(call), translated, notes, is_prefix_free=len(heads) > 100)


def read(tool: Any) -> Tool:
    """One tool in any of the forms above.

    Raises:
        GrammarError: another form.
    """
    inner = tool.get("function", tool) if isinstance(tool, dict) else tool
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or not name:
        raise GrammarError(
            f"a tool is {str(tool)[:60]!r}, expected an object with a name",
            hint='{"name": "...", "parameters": {"type": "object", "properties": {...}}} is read',
        )
    parameters = inner.get("parameters", {})
    if isinstance(parameters, list) and all(isinstance(name, str) for name in parameters):
        return Tool(name, _closed(dict.fromkeys(parameters, True), []))
    if not isinstance(parameters, dict):
        raise GrammarError(f"tool {name!r}: parameters are neither an object nor a list of names")
    if isinstance(parameters.get("type"), str) or not all(isinstance(p, dict) for p in parameters.values()):
        return Tool(name, {"additionalProperties": False} | _standard(parameters))
    own = {key: _standard({k: v for k, v in value.items() if k not in _REMARKS}) for key, value in parameters.items()}
    return Tool(name, _closed(own, inner.get("required", [])))


def _distinct(tools: list[dict[str, Any]]) -> Iterator[Tool]:
    if not tools:
        raise GrammarError("the list of tools is empty")
    seen: set[str] = set()
    for tool in map(read, tools):
        if tool.name in seen:
            raise GrammarError(f"two tools are called {tool.name!r}")
        seen.add(tool.name)
        yield tool


def _call(tool: Tool, schemas: Schemas, order: str) -> ex.Node:
    head = f'{{"name": {json_text.canonical(tool.name)}, "arguments": '
    try:
        arguments = schemas.value(tool.schema, "#", tool.name) if order == "schema" else _unordered(tool, schemas)
    except GrammarError as exc:
        raise GrammarError(f"tool {tool.name!r}, {exc.message}", hint=exc.hint) from exc
    return ex.sequence([schemas.rules.terminal(ex.text(head), f"call {tool.name}"), arguments, ex.text("}")])


def _refusal(rules: Rules, calls: str) -> ex.Node:
    # A terminal of its own, for "[" alone may come in its place.
    text = rules.terminal(ex.text(REFUSAL), "unsupported")
    return ex.sequence([ex.text("["), text, ex.text("]")]) if calls == "many" else text


def _unordered(tool: Tool, schemas: Schemas) -> ex.Node:
    Schemas(tool.schema).value(tool.schema, "#", tool.name)  # for what it refuses
    if "properties" not in tool.schema:
        raise GrammarError('#: expected an object with properties, for order="any"')
    values = schemas.properties(tool.schema, "#")
    if not values:
        return ex.text("{}")
    member: ex.Node = ex.choice(ex.sequence([schemas.key(key), value]) for key, value in values.items())
    member = schemas.rules.rule(member, f"{tool.name} argument")
    more = ex.repeat(ex.sequence([ex.text(", "), member]), 0, None)
    return schemas.rules.rule(
        ex.choice([ex.text("{}"), ex.sequence([ex.text("{"), member, more, ex.text("}")])]), tool.name
    )


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _standard(schema: Any) -> Any:
    """A schema with the Python names of types, and ``choices``, as JSON Schema has them."""
    if isinstance(schema, list):
        return [_standard(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "enum" if key == "choices" else key: _standard_part(key, value)
        for key, value in schema.items()
        if (key, value) != ("type", "any")
    }


def _standard_part(key: str, value: Any) -> Any:
    if key == "type" and isinstance(value, str):
        return _TYPES.get(value, value)
    if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
        return {name: _standard(inner) for name, inner in value.items()}
    if key in ("items", "anyOf", "oneOf", "allOf", "additionalProperties"):
        return _standard(value)
    return value
