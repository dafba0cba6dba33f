"""Lark's LALR tables with the cost of what is still missing.

A viable prefix of a program is a stack of LR states. Each kernel item ``A -> a . b`` of the top state is valid for the
prefix (Knuth, 1965), so the program can go on with the cheapest ``b``, then with what follows ``A`` below: the
cheapest completion is a shortest path over stacks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

from lark import Lark
from lark.parsers.lalr_analysis import Shift

from edgedsl.grammar.node import Node

END = "$END"
_ROOT = "$root"
_MAX_CHAIN = 1000  # longer than any program is deep: a grammar that turns in a circle is searched
Item = tuple[str, tuple[str, ...], int]  # left side, right side, symbols of it that were read


class Family:
    """Counts the stacks that share a lowest state."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class Stack:
    """A stack of LR states that shares its lower part with other stacks.

    Attributes:
        state: the upper one.
        below: the stack without it.
        environment: which catalogue names hold above; see edgedsl.grammar.scopes.
        endings: the cheapest one by each measure, once known.
        after: the stack after a lexeme of a pattern, by its number, once known; None where it cannot come.
        nodes: what is known of the positions with this stack, by the lexer's state.
        family: the stacks with the same lowest state.
        twin: the same states where no catalogue entry restricts anything; what does not depend on names is known there.
    """

    __slots__ = ("_above", "after", "below", "endings", "environment", "family", "nodes", "state", "twin")

    def __init__(self, state: int, below: Stack | None, environment: int = 0) -> None:
        self.state = state
        self.below = below
        self.environment = environment
        self.endings: dict[str, Ending] = {}
        self.after: dict[int, Stack | None] = {}
        self.nodes: dict[int, Node] = {}
        self.family: Family = below.family if below else Family()
        self.family.size += 1
        self._above: dict[tuple[int, int], Stack] = {}
        is_plain = environment == 0 and (below is None or below.twin is below)
        self.twin: Stack = self if is_plain or below is None else below.twin.push(state, 0)

    def push(self, state: int, environment: int) -> Stack:
        """The stack with one more state; the same object for the same state and environment."""
        key = (state, environment)
        above = self._above.get(key)
        # Requests of several threads share stacks; all must get the same object.
        return self._above.setdefault(key, Stack(state, self, environment)) if above is None else above

    def pop(self, count: int) -> Stack:
        """The stack without its ``count`` upper states."""
        stack = self
        for _ in range(count):
            assert stack.below is not None
            stack = stack.below
        return stack


class Ending(NamedTuple):
    """A cheapest way to a whole program: its cost, the symbols it begins with and the stack after them."""

    cost: float
    symbols: tuple[str, ...]
    after: Stack | None


_NO_ENDING = Ending(math.inf, (), None)
_Step = tuple[float, tuple[str, ...], str, int]  # cost and symbols that an item misses, its left side, its dot
_Way = tuple[float, tuple[str, ...], Stack | None]


class Tables:
    """Actions, and the kernel items of each state, of a compiled Lark grammar.

    Args:
        lark: compiled with ``parser="lalr"``.
        start: its start rule.

    Attributes:
        terminals: names of those that the rules use.
        shifts: the next state by state and symbol.
    """

    def __init__(self, lark: Lark, start: str) -> None:
        table = lark.parser.parser._parse_table
        # Names as plain strings: comparing Lark's tokens is slow.
        self.shifts: dict[int, dict[str, int]] = {}
        self._reductions: dict[int, dict[str, tuple[int, str]]] = {}
        for state, actions in table.states.items():
            self.shifts[state] = {str(n): target for n, (kind, target) in actions.items() if kind is Shift}
            self._reductions[state] = {
                str(name): (len(rule.expansion), str(rule.origin.name))
                for name, (kind, rule) in actions.items()
                if kind is not Shift
            }
        self._start_state: int = table.start_states[start]
        self._end_state: int = table.end_states[start]
        self._rules: dict[str, list[tuple[str, ...]]] = {_ROOT: [(start, END)]}
        for rule in lark.rules:
            right = tuple(str(symbol.name) for symbol in rule.expansion)
            self._rules.setdefault(str(rule.origin.name), []).append(right)
        self.terminals = frozenset(
            symbol for rules in self._rules.values() for right in rules for symbol in right
        ) - frozenset([*self._rules, END])
        self._items = self._kernel_items()

    def start(self) -> Stack:
        """The stack before the first terminal."""
        return Stack(self._start_state, None)

    def allowed(self, state: int) -> frozenset[str]:
        """Terminals that the lexer looks for in a state."""
        return frozenset(name for name in (*self.shifts[state], *self._reductions[state]) if name in self.terminals)

    def shift(self, stack: Stack, terminal: str, enter: Callable[[int], int] | None = None) -> Stack | None:
        """The stack after one more terminal; None where it cannot come.

        Args:
            stack: before it.
            terminal: its name.
            enter: the environment behind it, from the one before it.
        """
        while (target := self.shifts[stack.state].get(terminal)) is None:
            reduced = self._reductions[stack.state].get(terminal)
            if reduced is None:
                return None
            stack = self._goto(stack.pop(reduced[0]), reduced[1])
        return stack.push(target, enter(stack.environment) if enter else stack.environment)

    def is_complete(self, stack: Stack) -> bool:
        """Whether a program may end here."""
        while stack.state != self._end_state:
            reduced = self._reductions[stack.state].get(END)
            if reduced is None:
                return END in self.shifts[stack.state]
            stack = self._goto(stack.pop(reduced[0]), reduced[1])
        return True

    def _goto(self, stack: Stack, nonterminal: str) -> Stack:
        return stack.push(self.shifts[stack.state][nonterminal], stack.environment)

    def _kernel_items(self) -> dict[int, set[Item]]:
        """Walk the tables from the start state, and move each item's dot with the symbols."""
        items: dict[int, set[Item]] = {self._start_state: {(_ROOT, self._rules[_ROOT][0], 0)}}
        waiting = [self._start_state]
        while waiting:
            state = waiting.pop()
            for left, right, dot in self._closure(items[state]):
                if dot == len(right) or right[dot] == END:
                    continue
                target = self.shifts[state].get(right[dot])
                # A conflict that Lark resolved by priority leaves a symbol without its move.
                if target is None:
                    continue
                known = items.setdefault(target, set())
                if (left, right, dot + 1) not in known:
                    known.add((left, right, dot + 1))
                    waiting.append(target)
        return items

    def _closure(self, kernel: set[Item]) -> Iterator[Item]:
        seen: set[str] = set()
        waiting = list(kernel)
        while waiting:
            item = waiting.pop()
            yield item
            _, right, dot = item
            if dot < len(right) and right[dot] in self._rules and right[dot] not in seen:
                seen.add(right[dot])
                waiting += [(right[dot], other, 0) for other in self._rules[right[dot]]]


class Costs:
    """What each symbol costs at least, and so what a stack still needs.

    Args:
        tables: of the grammar.
        measure: what is counted, "tokens" or "bytes".
        terminal_costs: cost of the cheapest spelling of each terminal; infinite where it cannot be spelled.
    """

    def __init__(self, tables: Tables, measure: str, terminal_costs: Mapping[str, float]) -> None:
        self._tables = tables
        self._measure = measure
        self._symbols: dict[str, float] = {END: 0.0, **terminal_costs}
        self._cheapest: dict[str, tuple[str, ...]] = {}
        self._steps_of: dict[int, list[_Step]] = {}  # by state
        self._solve()

    def _solve(self) -> None:
        """Cheapest right side of each nonterminal (Knuth, 1977, generalises Dijkstra; here to a fixed point)."""
        is_changing = True
        while is_changing:
            is_changing = False
            for left, rules in self._tables._rules.items():
                for right in rules:
                    cost = self.of(right)
                    if cost < self._symbols.get(left, math.inf):
                        self._symbols[left], self._cheapest[left] = cost, right
                        is_changing = True

    def of(self, symbols: tuple[str, ...]) -> float:
        """Cost of symbols in a row."""
        return sum(self._symbols.get(symbol, math.inf) for symbol in symbols)

    def missing(self, stack: Stack) -> float:
        """Cost of the cheapest way to a whole program."""
        return self._ending(stack).cost

    def completion(self, stack: Stack) -> Iterator[str]:
        """Terminals of the cheapest way to a whole program."""
        current: Stack | None = stack
        while current is not None:
            _, symbols, current = self._ending(current)
            yield from self._expand(symbols)

    def _ending(self, stack: Stack) -> Ending:
        stack = stack.twin
        if self._measure not in stack.endings:
            self._search(stack)
        return stack.endings[self._measure]

    def _expand(self, symbols: tuple[str, ...]) -> Iterator[str]:
        waiting = list(reversed(symbols))
        while waiting:
            symbol = waiting.pop()
            if symbol in self._cheapest:
                waiting += reversed(self._cheapest[symbol])
            elif symbol != END:
                yield symbol

    def _search(self, start: Stack) -> None:
        """Down to a stack that is known, as long as there is one way only, and from a fork on the cheapest way."""
        chain: list[tuple[Stack, float, tuple[str, ...], Stack | None]] = []
        current: Stack | None = start
        while current is not None and self._measure not in current.endings:
            ways = [(cost, symbols, after) for cost, symbols, after in self._ways(current) if after is not current]
            if len(ways) != 1 or len(chain) == _MAX_CHAIN:
                self._fork(current)
                break
            chain.append((current, *ways[0]))
            current = ways[0][2]
        for stack, cost, symbols, after in reversed(chain):
            rest = 0.0 if after is None else after.endings[self._measure].cost
            ending = Ending(cost + rest, symbols, after) if cost + rest < math.inf else _NO_ENDING
            stack.endings.setdefault(self._measure, ending)

    def _fork(self, start: Stack) -> None:
        """Dijkstra from ``start`` down to the root item; stacks on the best way learn what they miss."""
        order = count()  # breaks ties, so that stacks are never compared
        heap: list[tuple[float, int, Stack | None]] = [(0.0, next(order), start)]
        found: dict[Stack | None, float] = {}
        reached: dict[Stack | None, tuple[float, Stack, tuple[str, ...]]] = {}
        while heap:
            cost, _, stack = heapq.heappop(heap)
            if stack in found:
                continue
            found[stack] = cost
            if stack is None:
                self._remember(reached, start)
                return
            known = stack.endings.get(self._measure)
            for step, symbols, after in [(known.cost, (), None)] if known else self._ways(stack):
                total = cost + step
                if total < math.inf and (after not in reached or total < reached[after][0]):
                    reached[after] = (total, stack, symbols)
                    heapq.heappush(heap, (total, next(order), after))
        start.endings[self._measure] = _NO_ENDING

    def _ways(self, stack: Stack) -> Iterator[_Way]:
        """How each of a state's items goes on: its cost, the symbols, and the stack once its left side is read."""
        steps = self._steps_of.get(stack.state)
        if steps is None:
            steps = self._steps_of[stack.state] = self._steps(stack.state)
        for cost, symbols, left, dot in steps:
            yield cost, symbols, None if left == _ROOT else self._tables._goto(stack.pop(dot), left)

    def _steps(self, state: int) -> list[_Step]:
        """The cheapest of the items that lead to one stack: they have one left side, and as much of them is read."""
        cheapest: dict[tuple[str, int], _Step] = {}
        for left, right, dot in sorted(self._tables._items[state]):
            step = (self.of(right[dot:]), right[dot:], left, dot)
            if step[0] < cheapest.setdefault((left, dot), step)[0]:
                cheapest[left, dot] = step
        return list(cheapest.values())

    def _remember(self, reached: Mapping[Stack | None, tuple[float, Stack, tuple[str, ...]]], start: Stack) -> None:
        total = reached[None][0]
        after: Stack | None = None
        while after is not start:
            _, stack, symbols = reached[after]
            spent = reached[stack][0] if stack is not start else 0.0
            stack.endings.setdefault(self._measure, Ending(total - spent, symbols, after))
            after = stack
