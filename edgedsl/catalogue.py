"""The names a language may use, bound to the terminals its grammar declares.

An entry may bind names of other terminals: a function its parameters, a parameter its values. They hold in the rest
of the rule in which the entry stands, and in what that is made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgedsl.errors import GrammarError

_DECLARE = re.compile(r"^[ \t]*%declare[ \t]+(.+?)[ \t]*(?://.*)?$", re.MULTILINE)
_TERMINAL = re.compile(r"[A-Z][A-Z0-9_]*")

Scope = Mapping[str, "Names"]  # terminal name -> its names
Names = Mapping[str, Scope]  # name -> what it binds; most bind nothing


@dataclass(frozen=True)
class Catalogue:
    """Terminal name -> the strings it may spell -> what each of them binds.

    ``{"CITY": {"Rome": {}, "Oslo": {}}}``, or with bindings ``{"CALL": {"mail.send": {"PARAMETER": {"to": {}}}}}``.
    A terminal that is only bound by entries may spell any of their names where no such entry stands.
    """

    names: Scope

    @classmethod
    def from_lists(cls, terminals: Mapping[str, Iterable[str]]) -> Catalogue:
        """A catalogue without bindings."""
        return cls({terminal: {name: {} for name in names} for terminal, names in terminals.items()})

    @classmethod
    def from_dict(cls, document: dict[str, Any], where: str = "catalogue") -> Catalogue:
        """A catalogue in the format of catalogue.json.

        Raises:
            GrammarError: not in that format; ``where`` begins the message.
        """
        return cls(_scope(where, document))

    @classmethod
    def from_file(cls, path: Path) -> Catalogue:
        """Read catalogue.json: one object of terminal names.

        A terminal holds a list of distinct names, or an object of names, each with an object of what it binds: the same
        format again, in which a list may be empty.

        Raises:
            GrammarError: missing or malformed file.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
        except FileNotFoundError as exc:
            raise GrammarError(
                f"catalogue '{path}' does not exist", hint="set [project] catalogue; empty for none"
            ) from exc
        except (OSError, ValueError, RecursionError) as exc:
            raise GrammarError(f"catalogue '{path}' is not JSON: {exc}") from exc
        if not isinstance(document, dict):
            raise GrammarError(f"catalogue '{path}' holds a {type(document).__name__}, expected an object of lists")
        return cls.from_dict(document, f"catalogue '{path}'")

    @cached_property
    def terminals(self) -> dict[str, tuple[str, ...]]:
        """Every name of each terminal, wherever it is bound, in the order of the file."""
        found: dict[str, dict[str, None]] = {}
        _collect(self.names, found)
        return {terminal: tuple(names) for terminal, names in found.items()}

    @cached_property
    def bound(self) -> frozenset[tuple[str, str]]:
        """Terminals and names that entries bind, however deep."""
        found: set[tuple[str, str]] = set()
        waiting = [bound for names in self.names.values() for bound in names.values()]
        while waiting:
            for terminal, names in waiting.pop().items():
                found.update((terminal, name) for name in names)
                waiting += filter(None, names.values())
        return frozenset(found)

    @property
    def is_scoped(self) -> bool:
        """Whether any entry binds names."""
        return any(scope for names in self.names.values() for scope in names.values())

    @property
    def num_scopes(self) -> int:
        """Number of entries that bind names."""
        return _num_scopes(self.names)

    def invented(self, tokens: Iterable[tuple[str, str]]) -> list[str]:
        """Texts of tokens (terminal, text) that spell a bound terminal with a name which is not in the catalogue."""
        return [text for terminal, text in tokens if text not in self.terminals.get(terminal, (text,))]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for catalogue.json."""
        return _plain(self.names)


def bind(source: str, catalogue: Catalogue | None) -> str:
    """Replace each ``%declare NAME`` of a Lark grammar by the catalogue's entries for ``NAME``.

    Raises:
        GrammarError: a declared terminal is not in the catalogue, or an entry is bound to nothing.
    """
    terminals = catalogue.terminals if catalogue else {}
    declared: list[str] = [name for match in _DECLARE.finditer(source) for name in match[1].split()]
    missing = [name for name in declared if name not in terminals]
    if missing:
        raise GrammarError(
            f"the grammar declares {', '.join(missing)}, which the catalogue does not have",
            hint=f'add "{missing[0]}": [...] to catalogue.json',
        )
    unused = [name for name in terminals if name not in declared]
    if unused:
        raise GrammarError(
            f"the catalogue has {', '.join(unused)}, which the grammar does not declare",
            hint=f"add '%declare {unused[0]}' to the grammar, or remove the entry",
        )
    return _DECLARE.sub(lambda match: "\n".join(definition(name, terminals[name]) for name in match[1].split()), source)


def definition(terminal: str, names: Iterable[str]) -> str:
    """The terminal as an alternation of fixed strings, in Lark."""
    return f"{terminal}: " + " | ".join(json.dumps(name, ensure_ascii=False) for name in names)


def _scope(where: str, document: dict[str, Any], *, is_inner: bool = False) -> Scope:
    return {terminal: _names(where, terminal, entries, is_inner) for terminal, entries in document.items()}


def _names(where: str, terminal: str, entries: Any, is_inner: bool) -> Names:
    """Names of one terminal. Only an entry may bind none: a function without parameters."""
    if not _TERMINAL.fullmatch(terminal):
        raise GrammarError(f"{where}: {terminal!r} is not a terminal name (upper case, digits, _)")
    is_filled = isinstance(entries, list | dict) and bool(entries or is_inner)
    if not is_filled or not all(isinstance(e, str) and e for e in entries):
        raise GrammarError(f"{where}: {terminal} must be a non-empty list of non-empty strings, or an object of them")
    if isinstance(entries, list):
        if len(set(entries)) != len(entries):
            twice = next(e for e in entries if entries.count(e) > 1)
            raise GrammarError(f"{where}: {terminal} holds {twice!r} twice")
        return {name: {} for name in entries}
    for name, bound in entries.items():
        if not isinstance(bound, dict):
            raise GrammarError(f"{where}: {terminal} {name!r} holds {bound!r}, expected an object of what it binds")
    return {n: _scope(f"{where}: {terminal} {n!r}", bound, is_inner=True) for n, bound in entries.items()}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return document


def _num_scopes(scope: Scope) -> int:
    return sum(1 + _num_scopes(bound) for names in scope.values() for bound in names.values() if bound)


def _collect(scope: Scope, found: dict[str, dict[str, None]]) -> None:
    for terminal, names in scope.items():
        for name, bound in names.items():
            found.setdefault(terminal, {})[name] = None
            _collect(bound, found)


def _plain(scope: Scope) -> dict[str, Any]:
    return {
        terminal: {name: _plain(bound) for name, bound in names.items()} if any(names.values()) else list(names)
        for terminal, names in scope.items()
    }
