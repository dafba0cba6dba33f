"""Programs that end in time: a token passes only while the program can still be finished inside the budget.

The idea is TruncProof's (arXiv 2605.13076): know the shortest completion of every prefix. Here the bound is not trusted
but shown: near the end, each token that passes comes with a completion in tokens that fits, and that the decoding
engine itself has accepted. Its first token always passes at the next step, so a request never runs out of budget
inside a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import islice

from edgedsl.errors import GrammarError
from edgedsl.grammar.lalr import Costs
from edgedsl.grammar.lexemes import Lexemes
from edgedsl.grammar.node import Ways
from edgedsl.grammar.position import EMPTY, Automaton, Position
from edgedsl.grammar.spelling import Spelling
from edgedsl.grammar.token_classes import TokenClasses
from edgedsl.grammar.vocabulary import Vocabulary

# An ending that is a little too long is searched for a shorter one, this hard, where the lexer is this small.
_MAX_EXCESS = 2
_NUM_COMPARED = 3  # ways to end, cheap by a guess, of which the one of fewest tokens is taken
_MAX_VISITS = 64
_MAX_LEXER_STATES = 256
Check = Callable[[list[int]], bool]


class Planner:
    """Knows for each position how a program may end soonest. One per grammar and tokenizer.

    What it says of a position does not depend on which programs came by before.

    Args:
        lexemes: the shortest of each terminal, if they were found before.

    Attributes:
        enough_tokens: those of a short program; the shortest one rarely has fewer.

    Raises:
        GrammarError: no program of the grammar can be spelled with these tokens.
    """

    def __init__(
        self, automaton: Automaton, vocabulary: Vocabulary, is_program: Check, lexemes: Lexemes | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self.classes = TokenClasses(automaton, vocabulary.token_bytes)
        self._is_small = len(automaton.nfa.moves) <= _MAX_LEXER_STATES
        self._bind(automaton, Spelling(automaton, vocabulary, known=lexemes), is_program)

    def restrict(self, automaton: Automaton, is_program: Check) -> Planner:
        """The planner of a part of the catalogue.

        Args:
            automaton: this planner's, restricted.
            is_program: the decoding engine's opinion of a program.

        Raises:
            GrammarError: no program is left.
        """
        restricted = copy(self)
        restricted.classes = self.classes.restrict(automaton)
        restricted._bind(automaton, Spelling(automaton, self.vocabulary, self._spelling), is_program)
        return restricted

    def _bind(self, automaton: Automaton, spelling: Spelling, is_program: Check) -> None:
        self.automaton = automaton
        self._spelling = spelling
        self._byte_costs = Costs(automaton.tables, "bytes", {name: automaton.length(name) for name in spelling.lexemes})
        self._is_program = is_program
        self._min_tokens: int | None = None
        self.enough_tokens = self._short_program(automaton.start())

    @property
    def lexemes(self) -> Lexemes:
        """The shortest of each terminal."""
        return self._spelling.lexemes

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest program, worked out when first asked for: see ``enough_tokens``."""
        if self._min_tokens is None:
            start, least = self.automaton.start(), self.enough_tokens
            while least and (shorter := self._search(start, least - 1, self._is_program)) is not None:
                least = len(shorter)
            self._min_tokens = least
        return self._min_tokens

    def fits(self, budget: int) -> bool:
        """Whether a program of at most so many tokens exists."""
        return budget >= self.enough_tokens or budget >= self.min_tokens

    def _short_program(self, start: Position) -> int:
        least = self.rough_bound(start)
        tokens = None if math.isinf(least) else self._spelled_or_found(start, int(least), self._is_program)
        if tokens is None:
            raise GrammarError("no program of the grammar can be spelled with the tokens of this tokenizer")
        return len(tokens)

    def rough_bound(self, position: Position) -> float:
        """Tokens that are enough to end the program: those of what follows, and a token a byte for the begun lexeme."""
        node = position.node
        if node.bound < 0:
            node.bound = self._least(position, self._spelling.costs)
        return node.bound

    def completion(self, position: Position) -> list[int] | None:
        """Tokens of a short ending, spelled; empty where the program may end here, None where none can be spelled."""
        if self.automaton.is_complete(position):
            return []
        found = self._endings(position, self._spelling.ways(position))
        return min(islice(found, _NUM_COMPARED), key=len, default=None) or next(
            self._endings(position, self._spelling.all_ways(position)), None
        )

    def _endings(self, position: Position, ways: Iterable[Iterable[bytes]]) -> Iterator[list[int]]:
        """Tokens of the first spelling of each way that ends the program."""
        for texts in ways:
            tokens = next(filter(None, (self._tokens_of(position, text) for text in texts)), None)
            if tokens is not None:
                yield tokens

    def _tokens_of(self, position: Position, text: bytes) -> list[int] | None:
        """Tokens of a text, if it ends the program from here."""
        reached = self.automaton.advance(position, text)
        is_ending = reached is not None and self.automaton.is_complete(reached)
        return self.vocabulary.segment(text) if is_ending else None

    def ending(self, position: Position, budget: int, is_ending: Check) -> list[int] | None:
        """An ending of at most ``budget`` tokens; None where none was found.

        Exact while the lexer is small and so is the search: a large one is given up, which only forbids more than it
        must.

        Args:
            position: where the program stands.
            budget: number of tokens.
            is_ending: the decoding engine's opinion of an ending.
        """
        node = position.node
        if node.ways is None:
            node.ways = Ways(self.completion(position))
        ways = node.ways
        spelled = ways.spelled
        if spelled is not None and len(spelled) <= budget and self._is_accepted(ways, is_ending):
            return spelled
        if not ways.is_searched:
            is_accepted = spelled is not None and self._is_accepted(ways, is_ending)
            ways.shortest = self._shorten(position, spelled if is_accepted else None, is_ending)
            ways.is_searched = True
        return ways.shortest if ways.shortest is not None and len(ways.shortest) <= budget else None

    def _is_accepted(self, ways: Ways, is_ending: Check) -> bool:
        if ways.is_accepted is None:
            ways.is_accepted = is_ending(ways.spelled or [])
        return ways.is_accepted

    def _shorten(self, position: Position, spelled: list[int] | None, is_ending: Check) -> list[int] | None:
        """The shortest ending that trying tokens finds; ``spelled``: one that the decoding engine accepts."""
        if spelled is None:
            bound = self.rough_bound(position)
            return None if math.isinf(bound) else self._search(position, int(bound) + _MAX_EXCESS, is_ending)
        found = None
        for excess in range(1, 1 + _MAX_EXCESS if self._is_small else 0):
            shorter = self._search(position, len(spelled) - excess, is_ending)
            if shorter is None:
                break
            found = shorter
        return found

    def _spelled_or_found(self, position: Position, bound: int, is_ending: Check) -> list[int] | None:
        spelled = self.completion(position)
        if spelled is not None and is_ending(spelled):
            return spelled
        return self._search(position, bound + _MAX_EXCESS, is_ending)

    def _search(self, position: Position, budget: int, is_ending: Check) -> list[int] | None:
        """An ending of at most ``budget`` tokens, found by trying tokens; None where none was found."""
        if self.automaton.is_complete(position) and is_ending([]):
            return []
        visits = 0
        level: list[tuple[Position, list[int]]] = [(position, [])]
        seen = {position}
        for left in reversed(range(budget)):
            following = []
            for reached, tokens in level:
                for target, token_ids in self.classes.at(reached).items():
                    if target in seen:
                        continue
                    visits += 1
                    if visits > _MAX_VISITS:
                        return None
                    ending = [*tokens, int(token_ids[0])]
                    if self.automaton.is_complete(target) and is_ending(ending):
                        return ending
                    seen.add(target)
                    if self._least(target, self._byte_costs) <= left * self.vocabulary.longest:
                        following.append((target, ending))
            level = following
        return None

    def _least(self, position: Position, costs: Costs) -> float:
        """The bytes that the begun lexeme misses, and the cost of what follows."""
        stack, lexeme = position
        if lexeme == EMPTY:
            return costs.missing(stack)
        return min(
            (num_bytes + costs.missing(after) for num_bytes, _, after in self._spelling.nearest(stack, lexeme)),
            default=math.inf,
        )
