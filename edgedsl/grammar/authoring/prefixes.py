"""Short texts that lead to a state of a parser: the examples in messages."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from edgedsl.grammar.authoring.derivation import Derivations
from edgedsl.grammar.authoring.lexicon import Lexicon
from edgedsl.grammar.authoring.structure import Structure

State = TypeVar("State", bound=Hashable)


class Prefixes:
    """Spells rows of symbols.

    Raises:
        GrammarError: the grammar derives no program, or a terminal that no finite automaton can match.
    """

    def __init__(self, structure: Structure) -> None:
        self._derivations = Derivations(structure)
        self.lexicon = Lexicon(structure.terminals.values())
        self._separator = self.lexicon.shortest(structure.ignored[0]) if structure.ignored else b""

    def text(self, symbols: Iterable[str]) -> str:
        """A short text of rules and terminals in a row."""
        return self.spelled(self._derivations.shortest(list(symbols)))

    def spelled(self, terminals: Iterable[str]) -> str:
        """A short text of terminals in a row."""
        return self._separator.join(map(self.lexicon.shortest, terminals)).decode(errors="replace")


def shortest_paths(start: State, edges: Callable[[State], Iterable[tuple[str, State]]]) -> dict[State, tuple[str, ...]]:
    """For each state that is reached, the fewest symbols that lead there."""
    paths: dict[State, tuple[str, ...]] = {start: ()}
    waiting = [start]
    for state in waiting:
        for symbol, target in edges(state):
            if target not in paths:
                paths[target] = (*paths[state], symbol)
                waiting.append(target)
    return paths
