"""Random and shortest derivations of a grammar, as rows of terminals."""

from __future__ import annotations

import math
from random import Random

from edgedsl.errors import GrammarError
from edgedsl.grammar.authoring.structure import Structure
from edgedsl.grammar.grammar import START

_MAX_TREE = 500  # symbols; a repeat of 2^31 times may ask for more than memory holds


class Derivations:
    """Rows of terminals that a grammar derives.

    Raises:
        GrammarError: it derives none.
    """

    def __init__(self, structure: Structure) -> None:
        self._costs = structure.costs
        self._alternatives = {
            name: [right for right in rights if self._cost(right) < math.inf]
            for name, rights in structure.alternatives.items()
        }
        if not self._alternatives.get(START):
            raise GrammarError("the grammar derives no program", hint=f"give '{START}' an alternative that ends")
        self._cheapest = {name: self._cheapest_of(rights) for name, rights in self._alternatives.items() if rights}
        self._dearest = {name: max(map(self._cost, rights)) for name, rights in self._alternatives.items() if rights}

    def random(self, rng: Random, max_size: int) -> list[str]:
        """Terminals of a random program: each alternative is as likely as the others of its rule.

        Args:
            rng: makes the choices.
            max_size: of the tree; once it is reached, every rule takes its smallest alternative.
        """
        terminals: list[str] = []
        waiting, pending = [START], self._costs[START]
        while waiting:
            symbol = waiting.pop()
            pending -= self._costs.get(symbol, 1.0)
            if symbol not in self._alternatives:
                terminals.append(symbol)
                continue
            size = len(terminals) + pending
            right = rng.choice(self._cheapest[symbol] if size > max_size else self._fitting(symbol, _MAX_TREE - size))
            waiting += reversed(right)
            pending += sum(self._costs.get(s, 1.0) for s in right)
        return terminals

    def shortest(self, symbols: list[str]) -> list[str]:
        """Terminals of the smallest derivation of symbols in a row; symbols that derive nothing are left out."""
        terminals: list[str] = []
        waiting = list(reversed(symbols))
        while waiting:
            symbol = waiting.pop()
            if symbol in self._cheapest:
                waiting += reversed(self._cheapest[symbol][0])
            elif symbol not in self._alternatives:
                terminals.append(symbol)
        return terminals

    def _fitting(self, symbol: str, most: float) -> list[tuple[str, ...]]:
        """The alternatives of this cost at most, and the cheapest ones in any case."""
        if self._dearest[symbol] <= most:
            return self._alternatives[symbol]
        return [r for r in self._alternatives[symbol] if self._cost(r) <= most] or self._cheapest[symbol]

    def _cheapest_of(self, rights: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        least = min(map(self._cost, rights))
        return [right for right in rights if self._cost(right) == least]

    def _cost(self, right: tuple[str, ...]) -> float:
        return 1 + sum(self._costs.get(symbol, 1.0) for symbol in right)
