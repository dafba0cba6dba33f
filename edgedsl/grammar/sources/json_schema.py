"""JSON Schema as a grammar of its values in canonical JSON: one line, ``", "`` and ``": "``, keys in schema order.

A keyword outside the supported part is refused, never skipped; those without effect on the language are noted.
"""

from __future__ import annotations

import json
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources import json_scalars, json_text
from edgedsl.grammar.sources.imported import Imported, imported
from edgedsl.grammar.sources.keywords import ANNOTATIONS, DEFINITIONS, OF_TYPE, bounds, escape, refuse
from edgedsl.grammar.sources.rules import Rules, is_regular

_MAX_CHAIN = 16  # a rule for each item; more are left to Lark, which takes rules by the logarithm


def to_lark(schema: dict[str, Any]) -> Imported:
    """A grammar of the canonical JSON values that the schema describes.

    Supported: type (one or a list), properties, required, additionalProperties, items, minItems, maxItems, pattern,
    minLength, maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, enum, const, anyOf, oneOf, allOf with
    one schema, $ref to $defs or definitions.

    Raises:
        GrammarError: an unsupported keyword, named with its JSON pointer, or a grammar that is not LALR(1).
    """
    schemas = Schemas(schema)
    node = schemas.placed(schema, "#", "value")
    return imported("JSON Schema", schemas.rules.render(node), schemas.translated, schemas.notes)


class Schemas:
    """Translates the schemas of one document into :class:`Rules`.

    Args:
        document: what ``$ref`` points into.
    """

    def __init__(self, document: Any, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.translated: list[str] = []
        self.notes: list[str] = []
        self._document = document
        self._open: dict[str, int] = {}  # $ref pointer -> depth of objects and arrays at which it was entered
        self._targets: dict[str, ex.Node] = {}
        self._recursive: dict[str, ex.Reference] = {}
        self._depth = 0

    def placed(self, schema: Any, pointer: str, hint: str) -> ex.Node:
        """Like :meth:`value`, with a terminal for what is not a rule."""
        node = self.value(schema, pointer, hint)
        return self._terminal(node, pointer, hint) if is_regular(node) else node

    def value(self, schema: Any, pointer: str, hint: str) -> ex.Node:
        """A schema's values: a node without references for scalars, else one that refers to rules.

        Raises:
            GrammarError: see :func:`to_lark`.
        """
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise GrammarError(f"{pointer}: the schema is {json.dumps(schema)[:40]}, expected an object")
        self.notes += [f"{pointer}/{key}: ignored, no effect" for key in schema if key in ANNOTATIONS - DEFINITIONS]
        keys = {key for key in schema if key not in ANNOTATIONS}
        for key in ("$ref", "anyOf", "oneOf", "allOf"):
            if key in keys:
                refuse(keys - {key}, pointer, f"beside {key}")
                return self._reference(schema, pointer) if key == "$ref" else self._any_of(schema, key, pointer, hint)
        if keys & {"enum", "const"}:
            return json_scalars.constants(schema, keys, pointer)
        return self._typed(schema, keys, pointer, hint)

    def any_value(self) -> ex.Node:
        """Any JSON value."""
        self.notes.append(json_text.LIMITS)
        value = self.rules.any_value
        if value is None:
            value = self.rules.any_value = self.rules.reserve("any_value")
            inner = [self._items(value, 0, None), self._map(value)]
            scalar = self.rules.terminal(json_text.SCALAR, "SCALAR")
            self.rules.define(value, ex.choice([scalar, *inner]))
        return value

    def _terminal(self, node: ex.Node, pointer: str, hint: str) -> ex.Node:
        try:
            reference = self.rules.terminal(node, json_text.NAMES.get(node, hint))
        except GrammarError as exc:
            raise GrammarError(f"{pointer}: {exc.message}", hint=exc.hint) from exc
        if isinstance(reference, ex.Reference):
            self.translated.append(f"{pointer} -> terminal {reference.name}")
        return reference

    def _typed(self, schema: dict[str, Any], keys: set[str], pointer: str, hint: str) -> ex.Node:
        if not keys:
            return self.any_value()
        types = schema.get("type", [name for name, own in OF_TYPE.items() if own & keys][:1])
        types = [types] if isinstance(types, str) else types
        refuse(keys - {"type"} - frozenset().union(*OF_TYPE.values()), pointer)
        if not isinstance(types, list) or not types or not all(name in OF_TYPE for name in map(str, types)):
            raise GrammarError(f"{pointer}/type: {json.dumps(types)} is not a type, expected {', '.join(OF_TYPE)}")
        if "type" not in schema:
            self.notes.append(f"{pointer}: has no type; read as {types[0]}, other values are left out")
        refuse(keys - {"type"} - frozenset().union(*(OF_TYPE[t] for t in types)), pointer, "for its type")
        distinct = [name for name in types if name != "integer" or "number" not in types]
        return self._union([self._of_type(name, schema, pointer, hint) for name in distinct], pointer, hint)

    def _of_type(self, name: str, schema: dict[str, Any], pointer: str, hint: str) -> ex.Node:
        if name == "object":
            return self._object(schema, pointer, hint)
        if name == "array":
            return self._array(schema, pointer, hint)
        if name == "string":
            return json_scalars.string(schema, pointer, self.notes)
        if name in ("integer", "number"):
            return json_scalars.number(name, schema, pointer, self.notes)
        return json_text.SCALARS[name]

    def _any_of(self, schema: dict[str, Any], key: str, pointer: str, hint: str) -> ex.Node:
        options = schema[key]
        if not isinstance(options, list) or not options:
            raise GrammarError(f"{pointer}/{key}: expected a list of schemas")
        if key == "allOf" and len(options) > 1:
            raise GrammarError(f"{pointer}/allOf: more than one schema is not supported")
        if key == "oneOf":
            self.notes.append(f"{pointer}/oneOf: read as anyOf; a value of two alternatives is not excluded")
        nodes = [self.value(option, f"{pointer}/{key}/{n}", hint) for n, option in enumerate(options)]
        return self._union(nodes, pointer, hint)

    def _union(self, nodes: list[ex.Node], pointer: str, hint: str) -> ex.Node:
        """One of several; scalars become one terminal, so that no text is a lexeme in two ways."""
        if json_text.SCALARS["number"] in nodes:
            nodes = [node for node in nodes if node != json_text.SCALARS["integer"]]
        regular = ex.choice(node for node in nodes if is_regular(node))
        others = [node for node in nodes if not is_regular(node)]
        if not others:
            return regular
        if regular != ex.NOTHING:
            others = [self._terminal(regular, pointer, f"{hint} scalar"), *others]
        return others[0] if len(others) == 1 else self.rules.rule(ex.choice(others), hint)

    def _reference(self, schema: dict[str, Any], pointer: str) -> ex.Node:
        target = schema["$ref"]
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise GrammarError(f"{pointer}/$ref: {target!r} is not supported, expected a pointer such as '#/$defs/x'")
        if target in self._targets:
            return self._targets[target]
        hint = target.rsplit("/", 1)[-1].strip("#") or "document"
        if target in self._open:
            if self._open[target] == self._depth:
                raise GrammarError(
                    f"{pointer}/$ref: {target!r} refers to itself",
                    hint="refer to it from a property or from the items of an array",
                )
            if target not in self._recursive:
                self._recursive[target] = self.rules.reserve(hint)
            return self._recursive[target]
        self._open[target] = self._depth
        node = self.value(self._lookup(target, pointer), target, hint)
        del self._open[target]
        if target in self._recursive:
            self.rules.define(self._recursive[target], node)
            node = self._recursive[target]
        self._targets[target] = node
        return node

    def _lookup(self, target: str, pointer: str) -> Any:
        found = self._document
        for part in target.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise GrammarError(f"{pointer}/$ref: {target!r} does not exist")
            found = found[key]
        return found

    def _array(self, schema: dict[str, Any], pointer: str, hint: str) -> ex.Node:
        if schema.get("uniqueItems", False) is not False:
            refuse(["uniqueItems"], pointer)
        least, most = bounds(schema, "minItems", "maxItems", (ex.MAX_LEAST, ex.MAX_MOST), pointer)
        self._depth += 1
        item = (
            self.placed(schema["items"], f"{pointer}/items", f"{hint}_item")
            if "items" in schema
            else (self.any_value())
        )
        self._depth -= 1
        reference = self.rules.rule(self._items(item, least, most), hint)
        self.translated.append(f"{pointer} -> rule {reference.name}")
        return reference

    def _items(self, item: ex.Node, least: int, most: int | None) -> ex.Node:
        if most == 0:
            return ex.text("[]")
        more = ex.sequence([ex.text(", "), item])
        rest: ex.Node = ex.text("]")
        if (most is not None and most - least > _MAX_CHAIN) or least > _MAX_CHAIN:
            whole = ex.sequence(
                [ex.text("["), item, ex.repeat(more, max(least, 1) - 1, most - 1 if most else None), rest]
            )
            return whole if least else ex.choice([ex.text("[]"), whole])
        if most is None:
            rest = ex.sequence([ex.repeat(more, 0, None), rest])
        for _ in range(most - max(least, 1) if most else 0):
            rest = self.rules.rule(ex.choice([ex.sequence([more, rest]), ex.text("]")]), "more_items")
        whole = ex.sequence([ex.text("["), item, *[more] * (least - 1), rest])
        return whole if least else ex.choice([ex.text("[]"), whole])

    def _object(self, schema: dict[str, Any], pointer: str, hint: str) -> ex.Node:
        additional = schema.get("additionalProperties", True)
        if isinstance(additional, dict) or (additional is True and not schema.get("properties")):
            node = self._open_object(schema, pointer, hint)
        else:
            values = self.properties(schema, pointer)
            node = self._members(values, set(schema.get("required", [])), hint)
        reference = self.rules.rule(node, hint)
        self.translated.append(f"{pointer} -> rule {reference.name}")
        return reference

    def properties(self, schema: dict[str, Any], pointer: str) -> dict[str, ex.Node]:
        """The listed properties of an object schema with their values.

        Raises:
            GrammarError: see :func:`to_lark`.
        """
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise GrammarError(f"{pointer}: expected properties as an object and required as a list")
        if unknown := [name for name in required if name not in properties]:
            raise GrammarError(f"{pointer}/required: {unknown[0]!r} is not among the properties")
        if schema.get("additionalProperties", True) is not False:
            self.notes.append(f"{pointer}: an object takes its listed properties only")
        self._depth += 1
        values = {
            key: self.placed(value, f"{pointer}/properties/{escape(key)}", key) for key, value in properties.items()
        }
        self._depth -= 1
        return values

    def _open_object(self, schema: dict[str, Any], pointer: str, hint: str) -> ex.Node:
        additional = schema.get("additionalProperties", True)
        if schema.get("properties") or schema.get("required"):
            refuse(["additionalProperties"], pointer, "beside properties or required")
        self.notes.append(f"{pointer}: any keys; that none comes twice is not checked")
        if additional is True:
            return self._map(self.any_value())
        self._depth += 1
        value = self.placed(additional, f"{pointer}/additionalProperties", f"{hint}_value")
        self._depth -= 1
        return self._map(value)

    def _map(self, value: ex.Node) -> ex.Node:
        member = ex.sequence([self.rules.terminal(json_text.STRING, "STRING"), ex.text(": "), value])
        more = ex.repeat(ex.sequence([ex.text(", "), member]), 0, None)
        return ex.choice([ex.text("{}"), ex.sequence([ex.text("{"), member, more, ex.text("}")])])

    def _members(self, values: dict[str, ex.Node], required: set[str], hint: str) -> ex.Node:
        """An object of these keys in this order, without the keys that are left out."""
        keys = list(values)
        rest: ex.Node = ex.text("}")
        following = [rest]  # following[-1]: what may come after the member in hand
        for key in reversed(keys):
            member = ex.sequence([ex.text(", "), self.key(key), values[key], rest])
            rest = self.rules.rule(member if key in required else ex.choice([member, rest]), f"{hint} from {key}")
            following.append(rest)
        following.reverse()
        options: list[ex.Node] = []
        for key, after in zip(keys, following[1:], strict=True):
            options.append(ex.sequence([ex.text("{"), self.key(key), values[key], after]))
            if key in required:
                return ex.choice(options)
        return ex.choice([*options, ex.text("{}")])

    def key(self, key: str) -> ex.Node:
        """The terminal of a property's name with its colon."""
        # A terminal of its own: joined with the comma, it would begin like the comma of a list.
        return self.rules.terminal(ex.text(json_text.canonical(key) + ": "), f"{key} key")
