"""A grammar in which a catalogue entry restricts what may follow it, as a larger grammar without such conditions.

``call: FUNCTION "(" arguments ")"`` becomes one alternative for each group of functions that bind the same names, with
copies of ``arguments`` in which only those names stand. Engines that know no catalogue read the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from lark import Lark
from lark.grammar import Rule, Symbol
from lark.lexer import PatternStr, TerminalDef

from edgedsl.catalogue import Catalogue, Names, definition
from edgedsl.grammar.scopes import groups, identity, scoped_terminals

_NAMED_TERMINAL = re.compile(r"^_?[A-Z][A-Z0-9_]*(\.-?\d+)?[ \t]*:")
_STATEMENT = re.compile(r"^(?=[^\s|/])", re.MULTILINE)


MAX_SYMBOLS = 100_000  # of all rules together; llguidance takes 500,000 after it has rewritten them


def specialise(source: str, lark: Lark, catalogue: Catalogue, start: str) -> str | None:
    """The bound Lark text ``source`` with one copy of each rule for each scope in which it is used.

    None where that would be more than :data:`MAX_SYMBOLS`: calls that nest write every function into every other.

    Args:
        source: Lark text whose terminals are all defined.
        lark: the same text, compiled.
        catalogue: with bindings.
        start: start rule.
    """
    return _Writer(source, lark, catalogue).write(start)


class _Writer:
    def __init__(self, source: str, lark: Lark, catalogue: Catalogue) -> None:
        statements = [statement.rstrip() for statement in _STATEMENT.split(source)]
        self._verbatim = [s for s in statements if _NAMED_TERMINAL.match(s) or s.startswith(("%ignore", "%import"))]
        self._named = frozenset(statement.split(":", 1)[0].split(".")[0].strip() for statement in self._verbatim)
        self._rules: dict[str, list[Rule]] = {}
        for rule in lark.rules:
            self._rules.setdefault(rule.origin.name, []).append(rule)
        self._terminals = {terminal.name: terminal for terminal in lark.terminals}
        self._catalogue = catalogue
        self._scoped = scoped_terminals(catalogue)
        self._reached = self._reach()
        self._names: dict[tuple[str, str], str] = {}
        self._todo: list[tuple[str, dict[str, Names]]] = []
        self._definitions: dict[tuple[str, str], str] = {}

    def write(self, start: str) -> str | None:
        rules = {"start": [[self._rule(start, {})]]}
        num_symbols = 0
        while self._todo:
            name, environment = self._todo.pop()
            written = self._names[name, self._key(name, environment)]
            rules[written] = [parts for r in self._rules[name] for parts in self._expand(r.expansion, environment)]
            num_symbols += sum(map(len, rules[written]))
            if num_symbols > MAX_SYMBOLS:
                return None
        lines = [
            f"{name}: " + " | ".join(" ".join(parts) or '""' for parts in alternatives)
            for name, alternatives in _productive(rules).items()
        ]
        # Terminals with a name and directives stay word by word as the source has them.
        return "\n".join([*lines, *self._verbatim, *self._definitions.values()]) + "\n"

    def _reach(self) -> dict[str, frozenset[str]]:
        """The scoped terminals that each rule may come to."""
        reached: dict[str, set[str]] = {name: set() for name in self._rules}
        is_changing = True
        while is_changing:
            is_changing = False
            for name, rules in self._rules.items():
                symbols = {symbol.name for rule in rules for symbol in rule.expansion}
                found = symbols & self._scoped
                found |= {terminal for symbol in symbols & set(self._rules) for terminal in reached[symbol]}
                if not found <= reached[name]:
                    reached[name] |= found
                    is_changing = True
        return {name: frozenset(found) for name, found in reached.items()}

    def _key(self, name: str, environment: Mapping[str, Names]) -> str:
        return identity({t: names for t, names in environment.items() if t in self._reached[name]})

    def _rule(self, name: str, environment: Mapping[str, Names]) -> str:
        """The name of a rule's copy for an environment; unwritten ones are put on the list."""
        key = (name, self._key(name, environment))
        if key not in self._names:
            self._names[key] = f"r{len(self._names)}_{re.sub('[^a-z0-9_]', '_', name.lower())}"
            self._todo.append((name, {t: n for t, n in environment.items() if t in self._reached[name]}))
        return self._names[key]

    def _expand(self, symbols: Sequence[Symbol], environment: Mapping[str, Names]) -> Iterator[list[str]]:
        if not symbols:
            yield []
            return
        head, rest = symbols[0], symbols[1:]
        if head.name in self._rules:
            for parts in self._expand(rest, environment):
                yield [self._rule(head.name, environment), *parts]
            return
        names = environment.get(head.name, self._catalogue.names.get(head.name))
        if names is None or head.name not in self._scoped:
            for parts in self._expand(rest, environment):
                yield [self._terminal(self._terminals[head.name]), *parts]
            return
        for group in groups(names):
            inside = {**environment, **group.scope}
            for parts in self._expand(rest, inside):
                yield [self._names_of(head.name, group.names), *parts]

    def _names_of(self, terminal: str, names: tuple[str, ...]) -> str:
        key = (terminal, json.dumps(names))
        if key not in self._definitions:
            self._definitions[key] = definition(f"{terminal}__{len(self._definitions)}", names)
        return self._definitions[key].split(":", 1)[0]

    def _terminal(self, terminal: TerminalDef) -> str:
        if terminal.name in self._named:
            return str(terminal.name)
        if isinstance(terminal.pattern, PatternStr):
            flags = "i" if "i" in terminal.pattern.flags else ""
            return json.dumps(terminal.pattern.value, ensure_ascii=False) + flags
        return f"/{terminal.pattern.value}/" + "".join(sorted(terminal.pattern.flags))


def _productive(rules: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """The rules without alternatives that lead nowhere: where an entry binds no name, none can be spelt."""
    good: set[str] = set()

    def leads_on(parts: list[str]) -> bool:
        return all(part in good or part not in rules for part in parts)

    num_good = -1
    while num_good < len(good):
        num_good = len(good)
        good |= {name for name, alternatives in rules.items() if any(map(leads_on, alternatives))}
    return {name: list(filter(leads_on, alternatives)) for name, alternatives in rules.items() if name in good}
