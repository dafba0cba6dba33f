"""Chooses the training programs that a server walks before anyone asks: those that visit most of what others visit.

Walks the grammar's positions (:mod:`edgedsl.grammar.position`); what a position allows is asked where it is served.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from edgedsl.grammar import CompiledGrammar
from edgedsl.grammar.position import Position
from edgedsl.runtime.warm_up import IDLE_TOKENS, WHILE_IDLE

_Program = tuple[int, ...]


def most_visited(
    programs: Iterable[Sequence[int]], compiled: CompiledGrammar, most: int = WHILE_IDLE
) -> list[_Program]:
    """Distinct programs, the most useful first, until the rest visit nothing new or there are ``most``.

    A position is worth the visits of all programs, once; a program is worth its new positions over the square root of
    their number, since each takes time. That is nearly the greedy cover of Chvatal (1979): a value is worked out again
    only when it comes first.

    Args:
        programs: token ids of each; one that is there twice counts twice.
        compiled: the grammar over the tokens.
        most: to choose.
    """
    counts = Counter(map(tuple, programs))
    start = compiled.planner.automaton.start()  # one for all: positions of two are never the same
    visited = {program: frozenset(_positions(program, start, compiled)) for program in counts}
    visits: Counter[Position] = Counter()
    for program, positions in visited.items():
        for position in positions:
            visits[position] += counts[program]
    known: set[Position] = set()

    def worth(program: _Program) -> float:
        new = visited[program] - known
        return sum(visits[position] for position in new) / math.sqrt(max(1, len(new)))

    waiting = [(-worth(program), program) for program in counts]
    heapq.heapify(waiting)
    chosen: list[_Program] = []
    while waiting and len(chosen) < most:
        _, program = heapq.heappop(waiting)
        value = worth(program)
        if not value:
            continue
        if waiting and value < -waiting[0][0]:
            heapq.heappush(waiting, (-value, program))
            continue
        chosen.append(program)
        known |= visited[program]
    return chosen


def _positions(program: _Program, start: Position, compiled: CompiledGrammar) -> Iterator[Position]:
    """Before and behind each token that a walk takes, as far as they are the grammar's."""
    automaton, token_bytes = compiled.planner.automaton, compiled.planner.vocabulary.token_bytes
    position = start
    yield position
    for token_id in program[:IDLE_TOKENS]:
        reached = automaton.advance(position, token_bytes[token_id]) if token_bytes[token_id] else None
        if reached is None:
            return
        position = reached
        yield position
