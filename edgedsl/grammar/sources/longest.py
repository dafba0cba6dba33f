"""Regular expressions whose first match is their longest.

Lark's lexer takes the first match that ``re`` finds, ``on`` of ``on|once``. The imported notations know no such order,
so a terminal is rewritten where it matters.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import MAX_CODE_POINT, Span
from edgedsl.grammar.sources import expression as ex

_MAX_STATES = 2000
_MAX_REWRITTEN = 60
_MAX_SHARED = 100  # places at which alternatives may begin alike
Atoms = frozenset[int]


def first_is_longest(node: ex.Node) -> ex.Node:
    """The same language, written so that ``re`` finds the longest match first.

    Args:
        node: without references, not nullable.

    Raises:
        GrammarError: it would have to be rewritten, and is too large for that.
    """
    if isinstance(node, ex.Choice) and all(ex.plain_text(option) is not None for option in node.options):
        return ex.Choice(tuple(sorted(node.options, key=lambda option: -ex.size(option))))
    if _Deterministic(node).check(node, frozenset()):
        return node
    machine = _Machine(node)
    if machine.is_prefix_free():
        return node
    factored = _Factoring().of(node)
    if ex.size(factored) <= ex.MAX_SIZE and _Deterministic(factored).check(factored, frozenset()):
        return factored
    if len(machine.moves) > _MAX_REWRITTEN:
        if _is_greedy(node):
            return node
        raise GrammarError(
            f"a regular expression of {ex.size(node)} characters cannot be written so that its longest match is found",
            hint="make its alternatives begin differently",
        )
    try:
        return machine.expression()
    except GrammarError:
        if _is_greedy(node):
            return node
        raise


def _atoms(node: ex.Node) -> list[int]:
    """First code points of the intervals that the node's classes do not tell apart."""
    edges = {edge for spans in _spans(node) for low, high in spans for edge in (low, high + 1)}
    return sorted(edges)


def _intervals(node: ex.Node) -> list[Span]:
    atoms = _atoms(node)
    return list(zip(atoms, [*(code - 1 for code in atoms[1:]), MAX_CODE_POINT], strict=True))


def _spans(node: ex.Node) -> Iterator[tuple[Span, ...]]:
    if isinstance(node, ex.Chars):
        yield node.spans
    for child in ex.children(node):
        yield from _spans(child)


def _has(node: ex.Chars, code: int) -> bool:
    return any(low <= code <= high for low, high in node.spans)


class _Factoring:
    """Writes the beginnings that alternatives share only once, as in ``on(ce)?``; gives up where there are too many."""

    def __init__(self) -> None:
        self._left = _MAX_SHARED

    def of(self, node: ex.Node) -> ex.Node:
        match node:
            case ex.Sequence(items):
                return ex.sequence(map(self.of, items))
            case ex.Repeat(item, least, most):
                return ex.repeat(self.of(item), least, most)
            case ex.Choice(options) if self._left > 0:
                if _Deterministic(node).is_distinct(options, frozenset()):
                    return ex.choice(map(self.of, options))
                return self._by_first_character(node)
        return node

    def _by_first_character(self, node: ex.Choice) -> ex.Node:
        self._left -= 1
        groups: dict[tuple[ex.Node, ...], list[Span]] = {}
        for low, high in _intervals(node):
            if rests := tuple(dict.fromkeys(_after(node, low))):
                groups.setdefault(rests, []).append((low, high))
        options = [ex.sequence([ex.chars(spans), self.of(ex.choice(rests))]) for rests, spans in groups.items()]
        return ex.choice([*options, *([ex.EMPTY] if ex.is_nullable(node) else [])])


class _Deterministic:
    """Whether one character always tells how a match goes on; greedy counts then find the longest one."""

    def __init__(self, node: ex.Node) -> None:
        self._atoms = _atoms(node)
        self._first: dict[ex.Node, Atoms] = {}

    def check(self, node: ex.Node, follow: Atoms) -> bool:
        match node:
            case ex.Sequence(items):
                for item in reversed(items):
                    if not self.check(item, follow):
                        return False
                    follow = self.first(item) | (follow if ex.is_nullable(item) else frozenset())
            case ex.Choice(options):
                return self.is_distinct(options, follow) and all(self.check(option, follow) for option in options)
            case ex.Repeat(item, least, most):
                if ex.is_nullable(item) or (least != most and self.first(item) & follow):
                    return False
                return self.check(item, follow if most == 1 else follow | self.first(item))
        return True

    def first(self, node: ex.Node) -> Atoms:
        if node not in self._first:
            self._first[node] = self._find_first(node)
        return self._first[node]

    def is_distinct(self, options: tuple[ex.Node, ...], follow: Atoms) -> bool:
        """Whether the next character picks the option, or none of them before ``follow``."""
        firsts = [self.first(option) for option in options]
        num_empty = sum(map(ex.is_nullable, options))
        union = frozenset[int]().union(*firsts)
        return num_empty <= 1 and sum(map(len, firsts)) == len(union) and not (num_empty and union & follow)

    def _find_first(self, node: ex.Node) -> Atoms:
        match node:
            case ex.Chars():
                return frozenset(code for code in self._atoms if _has(node, code))
            case ex.Sequence(items):
                found: Atoms = frozenset()
                for item in items:
                    found |= self.first(item)
                    if not ex.is_nullable(item):
                        break
                return found
        return frozenset[int]().union(*map(self.first, ex.children(node)))


def _is_greedy(node: ex.Node) -> bool:
    """Whether ``re``, which tries one way after the other, always tries longer ones before it may end.

    The ways are followed side by side, those it tries first in front. Where one of them ends, all behind it are lost;
    if there is never another one, none is. False also where that is not found out.
    """
    intervals, known = _intervals(node), dict[ex.Node, list[_Way]]()
    start: tuple[ex.Node, ...] = (node,)
    seen, waiting = {start}, [start]
    try:
        while waiting:
            ways = [way for part in waiting.pop() for way in _ways(part, known)]
            end = ways.index(None) if None in ways else len(ways)
            kept = dict.fromkeys(way for way in ways[:end] if way)
            if any(way and way not in kept for way in ways[end:]):
                return False
            for low, _ in intervals:
                state = tuple(dict.fromkeys(rest for chars, rest in kept if _has(chars, low)))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
            if len(seen) > _MAX_STATES:
                return False
    except _UnclearError:
        return False
    return True


_Way = tuple[ex.Chars, ex.Node] | None  # a character and what follows it, or the end


class _UnclearError(Exception):
    """``re`` has rules of its own for repeats of what may be empty."""


def _ways(node: ex.Node, known: dict[ex.Node, list[_Way]]) -> list[_Way]:
    """How a match may go on, in the order in which ``re`` tries it."""
    if node not in known:
        known[node] = list(_find_ways(node, known))
    return known[node]


def _find_ways(node: ex.Node, known: dict[ex.Node, list[_Way]]) -> Iterator[_Way]:
    match node:
        case ex.Chars():
            yield node, ex.EMPTY
        case ex.Sequence(()):
            yield None
        case ex.Sequence(items):
            yield from _followed(items[0], ex.sequence(items[1:]), known)
        case ex.Choice(options):
            for option in sorted(options, key=lambda option: (ex.is_nullable(option), option == ex.EMPTY)):
                yield from _ways(option, known)
        case ex.Repeat(item, least, most):
            if ex.is_nullable(item):
                raise _UnclearError
            yield from _followed(item, ex.repeat(item, max(least - 1, 0), None if most is None else most - 1), known)
            if least == 0:
                yield None


def _followed(node: ex.Node, rest: ex.Node, known: dict[ex.Node, list[_Way]]) -> Iterator[_Way]:
    for way in _ways(node, known):
        if way is None:
            yield from _ways(rest, known)
        else:
            yield way[0], ex.sequence([way[1], rest])


class _Machine:
    """The deterministic automaton of a node, from its partial derivatives (Antimirov, 1996)."""

    def __init__(self, node: ex.Node) -> None:
        intervals = _intervals(node)
        start = frozenset([node])
        ids = {start: 0}
        waiting = [start]
        self.moves: list[dict[int, list[Span]]] = [{}]
        self.accepting: set[int] = set()
        while waiting:
            state = waiting.pop()
            if any(map(ex.is_nullable, state)):
                self.accepting.add(ids[state])
            for low, high in intervals:
                target = frozenset(rest for part in state for rest in _after(part, low))
                if not target:
                    continue
                if target not in ids:
                    ids[target] = len(ids)
                    self.moves.append({})
                    waiting.append(target)
                self.moves[ids[state]].setdefault(ids[target], []).append((low, high))
            if len(ids) > _MAX_STATES:
                raise GrammarError(f"a regular expression of more than {_MAX_STATES} states is not supported")

    def is_prefix_free(self) -> bool:
        """Whether no match goes on to another one: then there is only one to find."""
        return not any(self.moves[state] for state in self.accepting)

    def expression(self) -> ex.Node:
        """By elimination of states. Ways through a state come before those past it, so going on comes before ending."""
        end, start = len(self.moves), -1
        edges: dict[tuple[int, int], ex.Node] = {(start, 0): ex.EMPTY}
        for state, targets in enumerate(self.moves):
            edges |= {(state, target): ex.chars(spans) for target, spans in targets.items()}
        edges |= {(state, end): ex.EMPTY for state in self.accepting}
        left = set(range(end))
        while left:
            state = min(left, key=lambda s: (sum(s in edge for edge in edges), -s))
            left.remove(state)
            loop = ex.repeat(edges.pop((state, state), ex.EMPTY), 0, None)
            into = {edge[0]: edges.pop(edge) for edge in list(edges) if edge[1] == state}
            out = {edge[1]: edges.pop(edge) for edge in list(edges) if edge[0] == state}
            for source, before in into.items():
                for target, after in out.items():
                    through = ex.sequence([before, loop, after])
                    past = [edges[source, target]] if (source, target) in edges else []
                    edges[source, target] = ex.choice([through, *past])
                    if ex.size(edges[source, target]) > ex.MAX_SIZE:
                        raise GrammarError("a regular expression becomes too large when its longest match is sought")
        return edges[start, end]


def _after(node: ex.Node, code: int) -> Iterator[ex.Node]:
    """What may follow the character ``code``."""
    match node:
        case ex.Chars():
            if _has(node, code):
                yield ex.EMPTY
        case ex.Sequence(items) if items:
            rest = ex.sequence(items[1:])
            yield from (ex.sequence([part, rest]) for part in _after(items[0], code))
            if ex.is_nullable(items[0]):
                yield from _after(rest, code)
        case ex.Choice(options):
            for option in options:
                yield from _after(option, code)
        case ex.Repeat(item, least, most):
            more = ex.repeat(item, max(least - 1, 0), None if most is None else most - 1)
            yield from (ex.sequence([part, more]) for part in _after(item, code))
