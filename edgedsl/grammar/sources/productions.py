"""Rules over single characters, as GBNF and EBNF have them, on their way to a lexer and a parser.

A rule that does not reach itself is regular: it becomes one terminal, with the rules it refers to written out in it.
The others stay rules. Characters between two rules become terminals as long as they run.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.imported import Imported, imported
from edgedsl.grammar.sources.rules import Rules

# A larger one stays a rule, so that no terminal becomes as large as the language.
_MAX_TERMINAL = 4000


def to_lark(kind: str, rules: Mapping[str, ex.Node], root: str, notes: list[str]) -> Imported:
    """Lark for rules by name.

    Args:
        kind: the notation, for messages.
        rules: right sides; references are to each other.
        root: the rule to start from.
        notes: what the reader of the notation has to say.

    Raises:
        GrammarError: a rule that does not exist, or a grammar that is not LALR(1).
    """
    _check_names(kind, rules, root)
    return _Productions(kind, rules, root).imported(notes)


def _check_names(kind: str, rules: Mapping[str, ex.Node], root: str) -> None:
    if root not in rules:
        raise GrammarError(f"the {kind} has no rule {root!r} to start from", hint=f"call the first rule {root!r}")
    for name, node in rules.items():
        for used in ex.references(node):
            if used not in rules:
                raise GrammarError(
                    f"the {kind} has no rule {used!r}, to which {name!r} refers", hint="write it, or correct the name"
                )


class _Productions:
    def __init__(self, kind: str, rules: Mapping[str, ex.Node], root: str) -> None:
        self._kind = kind
        self._source = rules
        self._root = root
        self._lark = Rules()
        self._reached = self._reach(root)
        self._written_out: dict[str, ex.Node | None] = {}
        self._placed: dict[str, ex.Node] = {}
        self._translated: list[str] = []

    def imported(self, notes: list[str]) -> Imported:
        rules = [name for name in self._reached if self._written(name) is None]
        # Names first, since rules refer to each other.
        for name in rules:
            self._placed[name] = self._lark.reserve(name)
        for name in rules:
            self._translated.append(f"{name} -> rule {self._place(name).name}")
            self._lark.define(self._place(name), ex.replace(self._source[name], self._change))
        start = self._change(ex.Reference(self._root))
        unused = [f"rule {name!r} ignored, nothing leads to it" for name in self._source if name not in self._reached]
        return imported(self._kind, self._lark.render(start), self._translated, [*notes, *unused])

    def _reach(self, name: str) -> dict[str, None]:
        """The rule and those it leads to, in order."""
        reached: dict[str, None] = {}
        waiting = [name]
        while waiting:
            following = waiting.pop()
            if following not in reached:
                reached[following] = None
                waiting += reversed(list(ex.references(self._source[following])))
        return reached

    def _place(self, name: str) -> ex.Reference:
        placed = self._placed[name]
        assert isinstance(placed, ex.Reference)
        return placed

    def _change(self, leaf: ex.Chars | ex.Reference) -> ex.Node:
        if isinstance(leaf, ex.Chars):
            return leaf
        if leaf.name not in self._placed:
            self._placed[leaf.name] = self._terminal(leaf.name)
        return self._placed[leaf.name]

    def _terminal(self, name: str) -> ex.Node:
        node = self._written(name)
        assert node is not None
        try:
            placed = self._lark.terminal(node, name)
        except GrammarError as exc:
            raise GrammarError(f"rule {name!r}: {exc.message}", hint=exc.hint) from exc
        self._translated.append(f"{name} -> terminal {next(ex.references(placed), 'of the empty text only')}")
        return placed

    def _written(self, name: str) -> ex.Node | None:
        """The rule with all others written out in it; None where it has to stay a rule."""
        if name not in self._written_out:
            self._written_out[name] = None  # met again on the way, it is recursive
            self._written_out[name] = self._write(name)
        return self._written_out[name]

    def _write(self, name: str) -> ex.Node | None:
        if any(name in self._reach(used) for used in ex.references(self._source[name])):
            return None
        parts = {used: self._written(used) for used in ex.references(self._source[name])}
        if any(part is None for part in parts.values()):
            return None
        node = ex.replace(
            self._source[name], lambda leaf: leaf if isinstance(leaf, ex.Chars) else parts[leaf.name] or ex.EMPTY
        )
        return node if ex.size(node) <= _MAX_TERMINAL else None
