"""A Lark grammar as GBNF, the notation of llama.cpp that xgrammar reads too.

GBNF knows no lexer: every terminal becomes a rule over characters. That keywords come before names and that the longest
match wins cannot be said in it, so the GBNF may accept texts that Lark refuses; it refuses none that Lark accepts, but
for ignored text before the first terminal, which llguidance does not take either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lark import Lark
from lark.lexer import PatternStr, TerminalDef

from edgedsl.bench.gbnf_rules import Rules, check_left_recursion, looped, with_inlined
from edgedsl.bench.gbnf_text import render
from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.code_points import matched
from edgedsl.grammar.grammar import START
from edgedsl.grammar.sources import expression as ex

_sre: Any = getattr(re, "_parser")  # noqa: B009  the parser behind re.compile; its module has no public name
_op: Any = getattr(re, "_constants")  # noqa: B009
# Rules that Lark makes of `*`, `+` and counts, also as edgedsl.grammar.specialise copies them.
_MADE = re.compile(r"(?:r\d+_)?__.+_(?:star|plus|repeat)_")
Suffixes = frozenset[tuple[str, ...]]


def from_grammar(grammar: Grammar) -> str:
    """GBNF of what a grammar decodes, a catalogue's scopes included; the root rule is ``root``.

    Raises:
        GrammarError: a terminal that is no regular language, or left recursion through several rules.
    """
    source = grammar.scoped_source()
    if source == grammar.source:
        return from_lark(grammar.lark)
    return from_lark(Lark(source, parser="lalr", lexer="contextual", start=START))


def from_lark(lark: Lark) -> str:
    """GBNF of a compiled grammar with the start rule ``start``; see :func:`from_grammar`."""
    terminals = {terminal.name: terminal for terminal in lark.terminals}
    rules = _Rules(terminals, lark.ignore_tokens).translated(lark)
    check_left_recursion(rules)
    used = {name for node in rules.values() for name in ex.references(node)} - set(rules)
    lexical = {name: terminal_node(terminals[name]) for name in sorted(used)}
    rules = looped(with_inlined(rules, lambda name: bool(_MADE.match(name))), lexical)
    return render({**rules, **lexical}, START)


def terminal_node(terminal: TerminalDef) -> ex.Node:
    """The texts of a terminal.

    Raises:
        GrammarError: something that no finite automaton can match.
    """
    pattern = terminal.pattern
    if isinstance(pattern, PatternStr) and not pattern.flags:
        return ex.text(pattern.value)
    tree = _sre.parse(pattern.to_regexp())
    return _pieces(tree, tree.state.flags, terminal.name)


def _pieces(items: Iterable[Any], flags: int, name: str) -> ex.Node:
    return ex.sequence(_piece(operator, argument, flags, name) for operator, argument in items)


def _piece(operator: Any, argument: Any, flags: int, name: str) -> ex.Node:
    if operator in (_op.LITERAL, _op.NOT_LITERAL, _op.IN, _op.ANY):
        return ex.chars(matched(operator, argument, flags))
    if operator is _op.BRANCH:
        return ex.choice(_pieces(items, flags, name) for items in argument[1])
    if operator is _op.SUBPATTERN:
        _, added, removed, items = argument
        return _pieces(items, (flags | added) & ~removed, name)
    if operator in (_op.MAX_REPEAT, _op.MIN_REPEAT):
        least, most, items = argument
        return ex.repeat(_pieces(items, flags, name), int(least), None if most is _op.MAXREPEAT else int(most))
    raise GrammarError(
        f"terminal {name}: {str(operator).lower()} cannot be said in GBNF",
        hint="write the terminal without look-around, anchors, back-references and atomic groups",
    )


class _Rules:
    """Lark's rules, which know neither ``*`` nor ``?``, written with both again."""

    def __init__(self, terminals: Mapping[str, TerminalDef], ignored: Iterable[str]) -> None:
        self._terminals = terminals
        self._ignored = ex.choice(terminal_node(terminals[name]) for name in ignored)
        self._rules: Rules = {}

    def translated(self, lark: Lark) -> Rules:
        alternatives: dict[str, set[tuple[str, ...]]] = {}
        for rule in lark.rules:
            right = tuple(symbol.name for symbol in rule.expansion)
            alternatives.setdefault(rule.origin.name, set()).add(right)
        for name, rights in alternatives.items():
            self._rules[name] = self._rule(name, rights)
        return self._rules

    def _rule(self, name: str, rights: set[tuple[str, ...]]) -> ex.Node:
        """Left recursion becomes a repeat: ``a: a x | y`` is ``y x*``."""
        again = frozenset(right[1:] for right in rights if right[:1] == (name,)) - {()}
        first = frozenset(right for right in rights if right[:1] != (name,))
        base = self._factored(name, first)
        if not again:
            return base
        if again == first:
            return ex.repeat(base, 1, None)
        return ex.sequence([base, ex.repeat(self._factored(f"{name}_again", again), 0, None)])

    def _factored(self, name: str, alternatives: Suffixes) -> ex.Node:
        """What begins alike is written once, and ends that are met again become rules.

        Lark writes ``a? b? c?`` out as eight alternatives.
        """
        uses: Counter[Suffixes] = Counter()
        waiting = [alternatives]
        while waiting:
            suffixes = waiting.pop()
            uses[suffixes] += 1
            if uses[suffixes] == 1:
                waiting += _after_first(suffixes).values()
        shared = [suffixes for suffixes, num in uses.items() if num > 1 and len(suffixes) > 1]
        names = {suffixes: f"{name}_end_{number}" for number, suffixes in enumerate(shared)}
        for suffixes, shared_name in names.items():
            self._rules[shared_name] = self._tree(suffixes, names)
        return self._tree(alternatives, names)

    def _tree(self, suffixes: Suffixes, shared: Mapping[Suffixes, str]) -> ex.Node:
        options: list[ex.Node] = []
        for symbol, rest in _after_first(suffixes).items():
            tail = ex.Reference(shared[rest]) if rest in shared else self._tree(rest, shared)
            options.append(ex.sequence([self._symbol(symbol), tail]))
        if not options:
            return ex.EMPTY
        return ex.repeat(ex.choice(options), 0, 1) if () in suffixes else ex.choice(options)

    def _symbol(self, name: str) -> ex.Node:
        """A rule, or a terminal with what is ignored behind it."""
        if name not in self._terminals:
            return ex.Reference(name)
        terminal = self._terminals[name]
        node = terminal_node(terminal) if isinstance(terminal.pattern, PatternStr) else ex.Reference(name)
        return node if self._ignored == ex.NOTHING else ex.sequence([node, ex.repeat(self._ignored, 0, None)])


def _after_first(suffixes: Suffixes) -> dict[str, Suffixes]:
    """What may follow each first symbol."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for suffix in sorted(suffixes):
        if suffix:
            found.setdefault(suffix[0], set()).add(suffix[1:])
    return {symbol: frozenset(rests) for symbol, rests in found.items()}
