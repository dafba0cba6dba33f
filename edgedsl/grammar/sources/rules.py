"""Named rules and terminals on their way to Lark text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgedsl.grammar.grammar import START
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.longest import first_is_longest

_MAX_WRITTEN = 16  # repeats; Lark makes fewer rules of more


class Rules:
    """Collects definitions. Two equal ones become one, so that alternatives which share parts stay LALR(1)."""

    def __init__(self) -> None:
        self.any_value: ex.Reference | None = None  # the rule of any JSON value, once one is needed
        self._names: set[str] = {START}
        self._rules: dict[str, ex.Node] = {}
        self._terminals: dict[str, ex.Node] = {}
        self._known: dict[tuple[str, ex.Node], ex.Reference] = {}

    def reserve(self, hint: str) -> ex.Reference:
        """A new rule name like ``hint``, to be defined later."""
        name = _words(hint).lower()
        return ex.Reference(self._unused(name if name[:1].isalpha() else f"r_{name}".rstrip("_")))

    def define(self, reference: ex.Reference, node: ex.Node) -> None:
        """Define a reserved rule."""
        self._rules[reference.name] = node

    def rule(self, node: ex.Node, hint: str) -> ex.Reference:
        """A rule with this right side."""
        key = ("rule", node)
        if key not in self._known:
            self._known[key] = self.reserve(hint)
            self.define(self._known[key], node)
        return self._known[key]

    def terminal(self, node: ex.Node, hint: str) -> ex.Node:
        """A terminal for a node without references; an optional one where the node matches the empty text."""
        solid = ex.without_empty(node)
        if solid == ex.NOTHING:
            return node
        key = ("terminal", solid)
        if key not in self._known:
            solid = first_is_longest(solid)
            ex.terminal(solid)  # refuses what is too large, while the caller still knows where it comes from
            name = _words(hint).upper()
            name = name if name[:1].isalpha() else f"T_{name}".rstrip("_")
            self._known[key] = ex.Reference(self._unused(name))
            self._terminals[self._known[key].name] = solid
        return ex.repeat(self._known[key], 0, 1) if ex.is_nullable(node) else self._known[key]

    def render(self, start: ex.Node) -> str:
        """Lark text: the start rule, the rules, the terminals, each in the order they were defined."""
        lines = [f"{START}: {_text(start)}", *(f"{name}: {_text(node)}" for name, node in self._rules.items())]
        return "\n".join([*lines, *(f"{name}: {ex.terminal(node)}" for name, node in self._terminals.items())]) + "\n"

    def _unused(self, name: str) -> str:
        # A rule is never told from a terminal by its case alone.
        candidates = (name if n == 0 else f"{name}_{n + 1}" for n in range(len(self._names) + 1))
        found = next(candidate for candidate in candidates if candidate.lower() not in self._names)
        self._names.add(found.lower())
        return found


def _words(hint: str) -> str:
    """``getPM2.5Level`` as ``get_PM2_5Level``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", hint)).strip("_")


def is_regular(node: ex.Node) -> bool:
    """Whether the node refers to nothing."""
    return next(ex.references(node), None) is None


def _text(node: ex.Node) -> str:
    match node:
        case ex.Choice(options):
            return " | ".join(_atom(option) if is_regular(option) else _text(option) for option in _merged(options))
        case ex.Sequence(items):
            return " ".join(_atom(part) for part in _runs(items))
    return _atom(node)


def _runs(items: tuple[ex.Node, ...]) -> Iterator[ex.Node]:
    """Items with neighbours that refer to nothing put together: cut apart, one could swallow the other."""
    run: list[ex.Node] = []
    for item in items:
        if is_regular(item):
            run.append(item)
            continue
        if run:
            yield ex.sequence(run)
        run = []
        yield item
    if run:
        yield ex.sequence(run)


def _merged(options: tuple[ex.Node, ...]) -> list[ex.Node]:
    """Options with those that refer to nothing put together, where one could be a beginning of the other."""
    regular = [option for option in options if is_regular(option)]
    if len(regular) < 2 or all(ex.plain_text(option) is not None for option in regular):
        return list(options)
    return [ex.choice(regular), *(option for option in options if option not in regular)]


def _atom(node: ex.Node) -> str:
    """Lark text that binds tighter than a row."""
    if is_regular(node):
        solid = ex.without_empty(node)
        if solid == ex.NOTHING:
            return ""
        return ex.terminal(first_is_longest(solid)) + ("?" if ex.is_nullable(node) else "")
    match node:
        case ex.Reference(name):
            return name
        case ex.Repeat(item, least, most):
            return _repeat(item, least, most)
    return f"({_text(node)})"


def _repeat(item: ex.Node, least: int, most: int | None) -> str:
    atom = _atom(item) if isinstance(item, ex.Reference) else f"({_text(item)})"
    if max(least, most or 0) > _MAX_WRITTEN:
        return f"({atom}~{least} {atom}*)" if most is None else f"{atom}~{least}..{most}"
    if most is None:
        return " ".join([atom] * (least - 1) + [f"{atom}{'+' if least else '*'}"])
    if (least, most) == (0, 1):
        return f"{atom}?"
    optional = ""
    for _ in range(most - least):
        optional = f"({atom} {optional})?" if optional else f"{atom}?"
    return f"({' '.join([*[atom] * least, *([optional] if optional else [])])})"
