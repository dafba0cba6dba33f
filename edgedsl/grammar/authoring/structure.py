"""The rules and terminals of a Lark grammar as they were written: also of one that no parser can be made from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from lark.exceptions import LarkError
from lark.grammar import Rule
from lark.lexer import PatternStr, TerminalDef
from lark.load_grammar import load_grammar

from edgedsl.grammar.authoring.findings import ERROR, WARNING, Finding
from edgedsl.grammar.grammar import START, lark_failure

# Rules that Lark makes of `*`, `+` and templates: their owner is the rule they were written in.
_MADE = re.compile(r"__(?P<owner>.+?)_(?:star|plus|repeat_a\d+_b\d+(?:_opt)?)_\d+$")


class Structure:
    """A grammar's rules in BNF, its terminals, and the names that were defined.

    Attributes:
        rules: Lark's rules; an alternative each.
        alternatives: of each rule name, its right sides.
        terminals: by name, with those that nothing uses.
        ignored: terminals that may stand between any two others.

    Raises:
        GrammarError: not a Lark grammar.
    """

    def __init__(self, source: str, name: str = "grammar") -> None:
        try:
            load: Any = load_grammar  # Lark does not type it
            self.parsed: Any = load(source, name, [], False)[0]
            terminals, rules, ignored = self.parsed.compile([START], "*")
        except (LarkError, RecursionError, OSError) as exc:
            raise lark_failure(exc, name) from exc
        self.rules: list[Rule] = rules
        self.ignored: tuple[str, ...] = tuple(ignored)
        self.terminals: dict[str, TerminalDef] = {terminal.name: terminal for terminal in terminals}
        self.alternatives: dict[str, list[tuple[str, ...]]] = {}
        for rule in rules:
            right = tuple(symbol.name for symbol in rule.expansion)
            self.alternatives.setdefault(rule.origin.name, []).append(right)

    @cached_property
    def reachable(self) -> frozenset[str]:
        """Rules and terminals that a program may hold."""
        reached: set[str] = set()
        waiting = [START]
        while waiting:
            symbol = waiting.pop()
            if symbol not in reached:
                reached.add(symbol)
                waiting += {s for right in self.alternatives.get(symbol, ()) for s in right}
        return frozenset(reached)

    @cached_property
    def costs(self) -> dict[str, float]:
        """The size of each symbol's smallest derivation tree; infinite where it has none."""
        costs: dict[str, float] = dict.fromkeys(self.alternatives, math.inf)
        is_changing = True
        while is_changing:
            is_changing = False
            for name, rights in self.alternatives.items():
                cost = min(1 + sum(costs.get(s, 1.0) for s in right) for right in rights)
                if cost < costs[name]:
                    costs[name], is_changing = cost, True
        return costs

    def findings(self) -> Iterator[Finding]:
        """Rules and terminals that are of no use, and white space without limit."""
        if START not in self.alternatives:
            yield Finding(ERROR, "no start rule", f"no rule is called '{START}'", f"name the first rule '{START}'")
            return
        for name in self._unreachable():
            yield Finding(WARNING, "unreachable rule", f"rule '{name}' is used by no program", "remove it, or use it")
        for name in sorted(n for n, cost in self.costs.items() if math.isinf(cost) and n in self.reachable):
            yield Finding(
                ERROR, "unproductive rule", f"rule '{owner(name)}' derives no text: it never ends",
                "give it an alternative without itself",
            )  # fmt: skip
        for name in self._unused():
            yield Finding(WARNING, "unused terminal", f"terminal '{name}' is used by no rule", "remove it, or use it")

    def label(self, name: str) -> str:
        """A terminal as a reader knows it: its text in quotes, its name, or its pattern where it has no name."""
        terminal = self.terminals.get(name)
        if terminal is None:
            return name
        if isinstance(terminal.pattern, PatternStr):
            return json.dumps(terminal.pattern.value, ensure_ascii=False)
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in terminal.pattern.value)
        return f"/{shown}/" if name.startswith("__") else name

    def _unreachable(self) -> list[str]:
        defined = [name for name, parameters, _, _ in self.parsed.rule_defs if not parameters]
        return sorted(name for name in map(str, defined) if name not in self.reachable)

    def _unused(self) -> list[str]:
        """Lark has put the tree of a terminal into those that use it: the same object, which tells."""
        trees = {str(name): tree for name, (tree, _) in self.parsed.term_defs}
        names = {id(tree): name for name, tree in trees.items() if tree is not None}
        used: set[str] = set()
        for name in (self.reachable | set(self.ignored)) & set(trees):
            tree = trees[name]
            used |= {name} | ({names[id(s)] for s in tree.iter_subtrees() if id(s) in names} if tree else set())
        return sorted(set(trees) - used)


def owner(name: str) -> str:
    """The rule that a rule made by Lark was written in."""
    match = _MADE.match(name)
    return match["owner"] if match else name
