"""A part of a catalogue, for one tenant or one request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lark import Lark

from edgedsl.catalogue import Catalogue, Names, Scope
from edgedsl.errors import RequestError


@dataclass(frozen=True)
class Subset:
    """Which names of a catalogue may be used.

    A name is meant by itself or by what it begins with, up to a dot: ``com.mail`` means the entry ``com.mail``,
    ``com.mail.send``, and what the entry ``com.mail`` binds; ``com.mail.send`` also means ``send`` where the entry
    ``com.mail`` binds it.

    A plain list that is kept whole may hold names that only entries bound which are gone, as parameters of another
    tenant's functions. Such a name is no longer one that can be meant, or that an error suggests.

    Attributes:
        allow: names that may be used; None allows all. Terminals whose entries bind names, as functions do, have only
            these; plain lists have only these where they have any of them, and else keep all.
        deny: names that may not be used, even if allowed.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    @classmethod
    def from_lists(cls, allow: Sequence[str] | None, deny: Sequence[str] = ()) -> tuple[Subset, ...]:
        """As parameters of a request take it: no subset where nothing is allowed or denied by name."""
        return (cls(tuple(allow) if allow else None, tuple(deny)),) if allow or deny else ()

    def of(self, catalogue: Catalogue, lark: Lark) -> Catalogue:
        """The catalogue's entries that are left; the grammar does not matter.

        Raises:
            RequestError: a name that the catalogue does not have, or an empty list of allowed names.
        """
        if self.allow is not None and not self.allow:
            raise RequestError("no name is allowed", hint="leave the list out to allow the whole catalogue")
        names = catalogue.names
        allowed = _Selection(self.allow or (), catalogue)
        if self.allow:
            kept = _kept(names, allowed)
            names = {t: {} if kept[t] is names[t] and any(names[t].values()) else kept[t] for t in names}
        if self.deny:
            names = _without(names, _Selection(self.deny, catalogue))
        plain = {terminal for terminal, entries in catalogue.names.items() if not any(entries.values())}
        gone = catalogue.bound - Catalogue(names).bound if plain else ()
        return _Part(names, _hidden(catalogue) | {(t, n) for t, n in gone if t in plain and not allowed.covers(n)})


@dataclass(frozen=True)
class _Part(Catalogue):
    """What a subset leaves.

    Attributes:
        hidden: terminals and names of plain lists that only entries bound which are gone.
    """

    hidden: frozenset[tuple[str, str]] = frozenset()


class _Selection:
    """Names, and whether a path is one of them or below one."""

    def __init__(self, names: Iterable[str], catalogue: Catalogue) -> None:
        self._names = frozenset(names)
        self._above = frozenset(path for name in self._names for path in _prefixes(name))
        self._hidden = _hidden(catalogue)
        missing = sorted(self._names - self._entries(catalogue))
        if missing:  # as entries; parts of their names, and what they bind, takes a look at all of them
            found = {known for path in self._paths(catalogue.names, "") for known in self._covering(path)}
            missing = sorted(self._names - found)
        if missing:
            paths = list(self._paths(catalogue.names, "", is_whole=True))
            near = difflib.get_close_matches(missing[0], paths, 1)
            example = f"name an entry, such as '{min(paths)}'" if paths else "it has no entries"
            raise RequestError(
                f"the catalogue has no '{missing[0]}'", hint=f"did you mean '{near[0]}'?" if near else example
            )

    def covers(self, path: str) -> bool:
        """Whether the path is one of the names, or below one."""
        end = len(path)
        while end >= 0:  # the path, then what is before each of its dots
            if path[:end] in self._names:
                return True
            end = path.rfind(".", 0, end)
        return False

    def is_below(self, path: str) -> bool:
        """Whether one of the names is below the path."""
        return path in self._above

    def _entries(self, catalogue: Catalogue) -> set[str]:
        """Those of the names that are entries."""
        return {
            name
            for terminal, names in catalogue.names.items()
            for name in self._names & names.keys()
            if (terminal, name) not in self._hidden
        }

    def _covering(self, path: str) -> Iterator[str]:
        return (p for p in (*_prefixes(path), path) if p in self._names)

    def _paths(self, scope: Scope, above: str, *, is_whole: bool = False) -> Iterator[str]:
        """Paths of the entries, and inside an entry only where one of the names may be."""
        for terminal, names in scope.items():
            for name, bound in names.items():
                if not above and (terminal, name) in self._hidden:
                    continue
                yield above + name
                if bound and (is_whole or self.is_below(above + name)):
                    yield from self._paths(bound, f"{above}{name}.", is_whole=is_whole)


def _hidden(catalogue: Catalogue) -> frozenset[tuple[str, str]]:
    return catalogue.hidden if isinstance(catalogue, _Part) else frozenset()


def _prefixes(name: str) -> Iterator[str]:
    """What a name begins with, up to each of its dots."""
    end = name.find(".")
    while end >= 0:
        yield name[:end]
        end = name.find(".", end + 1)


def _kept(scope: Scope, selection: _Selection, above: str = "") -> Scope:
    return {terminal: _kept_names(names, selection, above) or names for terminal, names in scope.items()}


def _kept_names(names: Names, selection: _Selection, above: str) -> Names:
    """The selected names; an entry that binds some of them stays with these."""
    kept: dict[str, Scope] = {}
    for name, bound in names.items():
        path = above + name
        if selection.covers(path):
            kept[name] = bound
        elif selection.is_below(path) and any(_kept_names(inner, selection, f"{path}.") for inner in bound.values()):
            kept[name] = _kept(bound, selection, f"{path}.")
    return kept


def _without(scope: Scope, selection: _Selection, above: str = "") -> Scope:
    return {terminal: _names_without(names, selection, above) for terminal, names in scope.items()}


def _names_without(names: Names, selection: _Selection, above: str) -> Names:
    """The names that are not selected; an entry that is left without the names it bound goes too."""
    left: dict[str, Scope] = {}
    for name, bound in names.items():
        path = above + name
        if selection.covers(path):
            continue
        inner = _without(bound, selection, f"{path}.") if selection.is_below(path) else bound
        if all(inner[terminal] or not bound[terminal] for terminal in bound):
            left[name] = inner
    return left
