"""White space that a program may hold without limit: a model can lose itself in it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedsl.grammar.authoring.findings import WARNING, Finding
from edgedsl.grammar.authoring.lexicon import Lexicon, closure
from edgedsl.grammar.authoring.structure import Structure, owner

_BLANK = b" \t\r\n\f\v"
_NO_TEXT = bytes({*range(256)} - {*range(0x21, 0x7F)})  # `\s` takes white space beyond ASCII too
_WHAT = "unbounded white space"


def unbounded(structure: Structure, lexicon: Lexicon) -> Iterator[Finding]:
    """Ignored terminals, white-space terminals without a longest text, and rules that repeat such terminals."""
    for name in structure.ignored:
        yield Finding(
            WARNING, _WHAT, f"{structure.label(name)} is ignored: any number of it may stand between two terminals",
            "write the white space that the programs really have into the rules",
        )  # fmt: skip
    names = [name for name in structure.terminals if name in structure.reachable and name not in structure.ignored]
    blank = frozenset(name for name in names if lexicon.matches_only(name, _NO_TEXT))
    for name in names:
        if name in blank and lexicon.repeats(name, _BLANK):
            yield Finding(
                WARNING, _WHAT, f"terminal {structure.label(name)} matches white space of any length",
                "give it a longest text, as in / {1,8}/",
            )  # fmt: skip
    for rule in _repeating(structure, blank):
        yield Finding(
            WARNING, _WHAT, f"rule '{rule}' repeats white space any number of times", "write it once, or bound it"
        )


def _repeating(structure: Structure, terminals: frozenset[str]) -> list[str]:
    """Rules that derive themselves with nothing but white space around."""
    empty = _closed(structure, frozenset())
    blank = _closed(structure, terminals)  # derive white space or nothing
    after: dict[str, set[str]] = {}
    pumping: set[tuple[str, str]] = set()
    for name, rights in structure.alternatives.items():
        for right in rights:
            if all(symbol in blank for symbol in right):
                inner = {symbol for symbol in right if symbol in structure.alternatives}
                after.setdefault(name, set()).update(inner)
                pumping |= {(name, s) for s in inner if any(o not in empty for o in _others(right, s))}
    found = {owner(name) for name, inner in pumping if name in closure({inner}, after) and name in structure.reachable}
    return sorted(found)


def _others(right: tuple[str, ...], symbol: str) -> tuple[str, ...]:
    at = right.index(symbol)
    return right[:at] + right[at + 1 :]


def _closed(structure: Structure, terminals: frozenset[str]) -> set[str]:
    """Symbols that derive a row of these terminals only, or nothing."""
    found = set(terminals)
    is_changing = True
    while is_changing:
        is_changing = False
        for name, rights in structure.alternatives.items():
            if name not in found and any(all(symbol in found for symbol in right) for right in rights):
                found.add(name)
                is_changing = True
    return found
