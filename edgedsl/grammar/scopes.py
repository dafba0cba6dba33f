"""Which names a catalogue terminal may spell at a place of a program."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from edgedsl.catalogue import Catalogue, Names, Scope

OUTSIDE = 0  # the environment before any entry that binds something
_OUTSIDE_TABLE = ""  # instead of the identity of the names that hold there


class Group(NamedTuple):
    """Names of one terminal that bind the same."""

    names: tuple[str, ...]
    scope: Scope


def groups(names: Names) -> list[Group]:
    """The names, grouped by what they bind."""
    found: dict[str, list[str]] = {}
    for name, scope in names.items():
        found.setdefault(identity(scope), []).append(name)
    return [Group(tuple(members), names[members[0]]) for members in found.values()]


def identity(scope: Scope) -> str:
    """Equal for equal scopes."""
    return json.dumps(scope, sort_keys=True)


def scoped_terminals(catalogue: Catalogue) -> frozenset[str]:
    """Terminals whose names depend on the place, and those with a name that decides about others."""
    return frozenset(
        terminal
        for terminal, names in _tables(catalogue.names)
        if names is not catalogue.names.get(terminal) or any(names.values())
    )


class Scopes:
    """The scopes of a catalogue as numbers, so that stacks can carry them.

    An environment says for each bound terminal which names hold; it is a number too.

    Attributes:
        terminals: those of the catalogue.
        tables: terminal and identity of its names -> the scope that each name opens, 0 where it binds nothing.
    """

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._scopes: list[Scope] = [{}]
        self._numbers: dict[str, int] = {identity({}): 0}
        self._environments: list[dict[str, str]] = [{}]
        self._environment_numbers: dict[str, int] = {"{}": OUTSIDE}
        self._entered: dict[tuple[int, int], int] = {}
        self.tables: dict[tuple[str, str], dict[str, int]] = {}
        everything = catalogue.terminals if catalogue else {}
        # A part of a catalogue may have left a terminal without names.
        everything |= {
            terminal: () for terminal in (catalogue.names if catalogue else {}) if terminal not in everything
        }
        self.terminals = frozenset(everything)
        if catalogue:
            for terminal, names in everything.items():
                self._add_table((terminal, _OUTSIDE_TABLE), catalogue.names.get(terminal) or {n: {} for n in names})
            for terminal, bound in _bound_tables(catalogue.names):
                self._add_table((terminal, identity(bound)), bound)

    def enter(self, environment: int, scope: int) -> int:
        """The environment behind a name that binds ``scope``."""
        if scope == 0:
            return environment
        key = (environment, scope)
        if key not in self._entered:
            bound = {terminal: identity(names) for terminal, names in self._scopes[scope].items()}
            merged = self._environments[environment] | bound
            name = json.dumps(merged, sort_keys=True)
            self._entered[key] = self._environment_numbers.setdefault(name, len(self._environments))
            if self._entered[key] == len(self._environments):
                self._environments.append(merged)
        return self._entered[key]

    def key(self, environment: int, terminal: str) -> tuple[str, str]:
        """The table of what a terminal may spell in an environment."""
        return terminal, self._environments[environment].get(terminal, _OUTSIDE_TABLE)

    def _add_table(self, key: tuple[str, str], names: Names) -> None:
        if key not in self.tables:
            self.tables[key] = {name: self._number(scope) for name, scope in names.items()}

    def _number(self, scope: Scope) -> int:
        if not scope:
            return 0
        key = identity(scope)
        if key not in self._numbers:
            self._numbers[key] = len(self._scopes)
            self._scopes.append(scope)
        return self._numbers[key]


def _bound_tables(scope: Scope) -> Iterator[tuple[str, Names]]:
    for names in scope.values():
        for bound in names.values():
            yield from bound.items()
            yield from _bound_tables(bound)


def _tables(scope: Scope) -> Iterator[tuple[str, Names]]:
    for terminal, names in scope.items():
        yield terminal, names
        for bound in names.values():
            yield from _tables(bound)


def violation(tree: Any, catalogue: Catalogue) -> tuple[str, str, str] | None:
    """The first name that stands where it is not bound.

    Args:
        tree: Lark's parse of a program.
        catalogue: with bindings.

    Returns:
        Terminal, name, and the entry in whose scope it stands (empty outside any); None where all is well.
    """
    return _check(tree, {}, catalogue)


def _check(
    tree: Any, environment: Mapping[str, tuple[str, Names]], catalogue: Catalogue
) -> tuple[str, str, str] | None:
    for child in tree.children:
        if hasattr(child, "children"):
            found = _check(child, environment, catalogue)
            if found:
                return found
            continue
        if child is None:
            continue
        terminal, name = child.type, str(child)
        owner, names = environment.get(terminal, ("", catalogue.names.get(terminal)))
        if names is None and name not in catalogue.terminals.get(terminal, (name,)):
            return terminal, name, ""  # only entries bind this terminal, and none of them has the name
        if names is not None and name not in names:
            return terminal, name, owner
        if names is not None:
            bound = names.get(name, {})
            environment = {**environment, **{inner: (name, inside) for inner, inside in bound.items()}}
    return None
