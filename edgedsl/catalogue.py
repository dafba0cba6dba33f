"""The names a language may use, bound to the terminals its grammar declares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.errors import GrammarError

_DECLARE = re.compile(r"^[ \t]*%declare[ \t]+(.+?)[ \t]*(?://.*)?$", re.MULTILINE)
_TERMINAL = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Catalogue:
    """Terminal name -> the strings it may spell, e.g. ``{"CITY": ["Rome", "Oslo"]}``."""

    terminals: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_file(cls, path: Path) -> Catalogue:
        """Read catalogue.json: one object of terminal names with non-empty lists of distinct strings.

        Raises:
            GrammarError: missing or malformed file.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise GrammarError(
                f"catalogue '{path}' does not exist", hint="set [project] catalogue; empty for none"
            ) from exc
        except (OSError, ValueError) as exc:
            raise GrammarError(f"catalogue '{path}' is not JSON: {exc}") from exc
        if not isinstance(document, dict):
            raise GrammarError(f"catalogue '{path}' holds a {type(document).__name__}, expected an object of lists")
        return cls({name: _entries(path, name, entries) for name, entries in document.items()})

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data for catalogue.json."""
        return {name: list(entries) for name, entries in self.terminals.items()}


def bind(source: str, catalogue: Catalogue | None) -> str:
    """Replace each ``%declare NAME`` of a Lark grammar by the catalogue's entries for ``NAME``.

    Raises:
        GrammarError: a declared terminal is not in the catalogue, or an entry is bound to nothing.
    """
    terminals = dict(catalogue.terminals) if catalogue else {}
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
    return _DECLARE.sub(
        lambda match: "\n".join(_definition(name, terminals[name]) for name in match[1].split()), source
    )


def _definition(name: str, entries: tuple[str, ...]) -> str:
    return f"{name}: " + " | ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)


def _entries(path: Path, name: str, entries: Any) -> tuple[str, ...]:
    if not _TERMINAL.fullmatch(name):
        raise GrammarError(f"catalogue '{path}': {name!r} is not a terminal name (upper case, digits, _)")
    if not isinstance(entries, list) or not entries or not all(isinstance(e, str) and e for e in entries):
        raise GrammarError(f"catalogue '{path}': {name} must be a non-empty list of non-empty strings")
    if len(set(entries)) != len(entries):
        twice = next(e for e in entries if entries.count(e) > 1)
        raise GrammarError(f"catalogue '{path}': {name} holds {twice!r} twice")
    return tuple(entries)
