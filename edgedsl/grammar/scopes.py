"""Which names a catalogue terminal may spell at a place of a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from edgedsl.catalogue import Catalogue, Names, Scope
from edgedsl.grammar.scoped import groups, identity

OUTSIDE = 0  # the environment before any entry that binds something


class NameGroup(NamedTuple):
    """Names of one terminal that bind the same; ``scope`` is 0 where they bind nothing."""

    terminal: str
    names: tuple[str, ...]
    scope: int


class Scopes:
    """The scopes of a catalogue as numbers, so that stacks can carry them.

    An environment says for each bound terminal which names hold; it is a number too.
    """

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._scopes: list[Scope] = [{}]
        self._numbers: dict[str, int] = {identity({}): 0}
        self._environments: list[dict[str, str]] = [{}]
        self._environment_numbers: dict[str, int] = {"{}": OUTSIDE}
        self._entered: dict[tuple[int, int], int] = {}
        self.tables: dict[tuple[str, str], list[NameGroup]] = {}  # (terminal, identity of its names) -> groups
        self.outside: dict[str, str] = {}
        if catalogue and catalogue.is_scoped:
            self._read(catalogue)
        self.terminals = frozenset(self.outside)  # those whose names depend on the place, or that decide about others

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
        return terminal, self._environments[environment].get(terminal, self.outside[terminal])

    def _read(self, catalogue: Catalogue) -> None:
        owners_and_bound: set[str] = set()
        for terminal, names in _tables(catalogue.names):
            is_nested = names is not catalogue.names.get(terminal)
            if is_nested or any(names.values()):
                owners_and_bound.add(terminal)
        for terminal, names in _tables(catalogue.names):
            if terminal in owners_and_bound:
                self._add_table(terminal, names)
        for terminal in owners_and_bound:
            everything: Names = catalogue.names.get(terminal) or {n: {} for n in catalogue.terminals.get(terminal, ())}
            self.outside[terminal] = identity(everything)
            self._add_table(terminal, everything)

    def _add_table(self, terminal: str, names: Names) -> None:
        key = (terminal, identity(names))
        if key not in self.tables:
            self.tables[key] = [NameGroup(terminal, g.names, self._number(g.scope)) for g in groups(names)]

    def _number(self, scope: Scope) -> int:
        key = identity(scope)
        if key not in self._numbers:
            self._numbers[key] = len(self._scopes)
            self._scopes.append(scope)
        return self._numbers[key]


def _tables(scope: Scope) -> Iterator[tuple[str, Names]]:
    for terminal, names in scope.items():
        yield terminal, names
        for bound in names.values():
            yield from _tables(bound)
