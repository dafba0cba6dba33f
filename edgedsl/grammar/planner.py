"""Programs that end in time: a token passes only while the program can still be finished inside the budget.

The idea is TruncProof's (arXiv 2605.13076): know the shortest completion of every prefix. Here the bound is not trusted
but shown: near the end, each token that passes comes with a completion in tokens that fits, and that the decoding
engine itself has accepted. Its first token always passes at the next step, so a request never runs out of budget
inside a program.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy

from edgedsl.errors import GrammarError
from edgedsl.grammar.lalr import Costs, Stack
from edgedsl.grammar.node import Ways
from edgedsl.grammar.position import EMPTY, Automaton, Position
from edgedsl.grammar.token_classes import TokenClasses
from edgedsl.grammar.vocabulary import Vocabulary

_BYTES_PER_TOKEN = 2  # a guess that only orders a search
# An ending that is a little too long is searched for a shorter one, this hard, where the lexer is this small.
_MAX_EXCESS = 2
_MAX_VISITS = 64
_MAX_LEXER_STATES = 256
_MAX_OPTIONS = 8  # spellings of one terminal that are compared
Check = Callable[[list[int]], bool]


class Planner:
    """Knows for each position how a program may end soonest. One per grammar and tokenizer.

    What it says of a position does not depend on which programs came by before.

    Attributes:
        enough_tokens: those of a short program; the shortest one rarely has fewer.

    Raises:
        GrammarError: no program of the grammar can be spelled with these tokens.
    """

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, is_program: Check) -> None:
        self.vocabulary = vocabulary
        self.classes = TokenClasses(automaton, vocabulary.token_bytes)
        self._few_tokens: dict[tuple[int, int], tuple[int, bytes] | None] = {}
        self._is_small = len(automaton.nfa.moves) <= _MAX_LEXER_STATES
        self._bind(automaton, automaton.terminals, {}, is_program)

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
        if automaton.dfa is not self.automaton.dfa:
            restricted._few_tokens = {}
        terminals = self.automaton.catalogue_terminals | automaton.catalogue_terminals
        restricted._bind(automaton, terminals, self._shortest, is_program)
        return restricted

    def _bind(
        self,
        automaton: Automaton,
        terminals: Iterable[str],
        known: Mapping[str, tuple[int, bytes] | None],
        is_program: Check,
    ) -> None:
        """Work out costs; ``known`` are the shortest lexemes of the terminals that are not in ``terminals``."""
        self.automaton = automaton
        self._spellings: dict[tuple[int, str], tuple[bytes, int] | None] = {}
        self._shortest = {**known}
        for name in terminals:
            self._shortest[name] = self._find_rest(automaton.terminal_start(name), automaton.patterns_of(name))
        tokens = {name: found[0] if found else math.inf for name, found in self._shortest.items()}
        self._costs = Costs(automaton.tables, "tokens", tokens)
        self._byte_costs = Costs(automaton.tables, "bytes", {name: automaton.length(name) for name in tokens})
        self._separators = [found[1] for name, found in self._shortest.items() if name in automaton.ignored and found]
        self._is_program = is_program
        self._min_tokens: int | None = None
        self.enough_tokens = self._short_program(automaton.start())

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
            node.bound = self._least(position, self._costs)
        return node.bound

    def completion(self, position: Position) -> list[int] | None:
        """Tokens of a short ending, spelled; empty where the program may end here, None where none can be spelled."""
        if self.automaton.is_complete(position):
            return []
        for text in self._texts(position):
            reached = self.automaton.advance(position, text)
            tokens = self.vocabulary.segment(text)
            if tokens is not None and reached is not None and self.automaton.is_complete(reached):
                return tokens
        return None

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
        if ways.spelled is not None and len(ways.spelled) <= budget and is_ending(ways.spelled):
            return ways.spelled
        if not ways.is_searched:
            ways.shortest = self._shorten(position, ways.spelled, is_ending)
            ways.is_searched = True
        return ways.shortest if ways.shortest is not None and len(ways.shortest) <= budget else None

    def _shorten(self, position: Position, spelled: list[int] | None, is_ending: Check) -> list[int] | None:
        """The shortest ending that trying tokens finds."""
        if spelled is None or not is_ending(spelled):
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
            (num_bytes + costs.missing(after) for num_bytes, _, after in self._nearest(stack, lexeme)), default=math.inf
        )

    def _nearest(self, stack: Stack, lexeme: int) -> Iterator[tuple[float, int, Stack]]:
        """For each terminal that the begun lexeme may become its nearest pattern: bytes to it, number, stack after it.

        What may follow a name differs from name to name, but its cost does not.
        """
        for patterns in self.automaton.distances(lexeme).values():
            for num_bytes, pattern in patterns:
                after = self.automaton.after(stack, pattern)
                if after is not None:
                    yield num_bytes, pattern, after
                    break

    def _texts(self, position: Position) -> Iterator[bytes]:
        """Ways to end, spelled, the cheaper ones first."""
        stack, lexeme = position
        if lexeme == EMPTY:
            yield from self._tails(stack)
            return
        nearest = sorted(self._nearest(stack, lexeme), key=lambda way: way[0] + self._costs.missing(way[2]))
        for _, pattern, after in [*nearest, *self._others(stack, lexeme)]:
            for tail in self._tails(after):
                for rest in self._rests(lexeme, pattern):
                    text = self._join(stack, lexeme, rest, after, tail)
                    if text is not None:
                        yield text

    def _tails(self, stack: Stack) -> Iterator[bytes]:
        """Endings between two lexemes: the one for any names, which may not fit here, then the one for these."""
        for known in dict.fromkeys([stack.twin, stack]):
            text = self._text(known)
            if text is not None:
                yield text

    def _rests(self, state: int, pattern: int) -> Iterator[bytes]:
        """What is missing of a pattern: the fewest bytes, then those of few tokens after which nothing else matches."""
        yield self.automaton.dfa.rest(state, pattern)
        key = (state, pattern)
        if key not in self._few_tokens:
            self._few_tokens[key] = self._find_rest(state, [pattern])
        found = self._few_tokens[key]
        if found is not None:
            yield found[1]

    def _others(self, stack: Stack, lexeme: int) -> Iterator[tuple[float, int, Stack]]:
        """The patterns that are not the nearest of their terminal."""
        for patterns in self.automaton.distances(lexeme).values():
            for num_bytes, pattern in patterns:
                after = self.automaton.after(stack, pattern)
                if after is not None:
                    yield num_bytes, pattern, after

    def _find_rest(self, start: int, patterns: list[int]) -> tuple[int, bytes] | None:
        """Best-first over tokens. Estimated by the bytes that are left, so not always the fewest, but soon found."""
        dfa, vocabulary, wanted = self.automaton.dfa, self.vocabulary, frozenset(patterns)

        def step(state: int, byte: int) -> int | None:
            target = dfa.step(state, byte)
            return target if target >= 0 and not wanted.isdisjoint(dfa.patterns[target]) else None

        def is_match(state: int) -> bool:
            return bool(dfa.accepts[state]) and dfa.accepts[state][0] in wanted

        if is_match(start):
            return 0, b""
        heap: list[tuple[float, int, bytes, int]] = [(0.0, 0, b"", start)]
        seen = {start}
        while heap:
            _, count, text, state = heapq.heappop(heap)
            for token_id, target in vocabulary.walk(state, step, dfa.few_bytes):
                if target in seen:
                    continue
                spelled = text + vocabulary.token_bytes[token_id]
                if is_match(target):
                    return count + 1, spelled
                seen.add(target)
                missing = min(size for pattern, size in dfa.distances(target).items() if pattern in wanted)
                heapq.heappush(heap, (count + 1 + missing / _BYTES_PER_TOKEN, count + 1, spelled, target))
        return None

    def _text(self, stack: Stack) -> bytes | None:
        """The bytes of the cheapest ending between two lexemes; None where it cannot be spelled."""
        pending: list[tuple[Stack, bytes, Stack]] = []
        current = stack
        while not (node := Position(current).node).is_spelled:
            name = next(self._costs.completion(current), None)
            found = None if name is None else self._next_lexeme(current, name)
            if found is None:
                node.text, node.is_spelled = b"" if name is None else None, True
                break
            pending.append((current, *found))
            current = found[1]
        for before, spelling, after in reversed(pending):
            tail, node = Position(after).node.text, Position(before).node
            start = self.automaton.lexer_start(before)
            node.text = None if tail is None else self._join(before, start, spelling, after, tail)
            node.is_spelled = True
        return Position(stack).node.text

    def _next_lexeme(self, stack: Stack, terminal: str) -> tuple[bytes, Stack] | None:
        """A cheap spelling of a terminal here, and the stack after it."""
        key = (self.automaton.lexer_start(stack), terminal)
        if key not in self._spellings:
            self._spellings[key] = self._spell(stack, *key)
        found = self._spellings[key]
        after = None if found is None else self.automaton.after(stack, found[1])
        return None if found is None or after is None else (found[0], after)

    def _spell(self, stack: Stack, start: int, terminal: str) -> tuple[bytes, int] | None:
        """The spelling of fewest tokens among a terminal's nearest patterns, and the pattern."""
        automaton = self.automaton
        options: list[tuple[int, bytes, int]] = []
        for _, pattern in automaton.distances(start).get(terminal, ())[:_MAX_OPTIONS]:
            after = automaton.after(stack, pattern)
            if after is None:
                continue
            for rest in self._rests(start, pattern):
                tokens = self.vocabulary.segment(rest)
                if tokens is not None and self._becomes(stack, self._end_of(start, rest), after):
                    options.append((len(tokens), rest, pattern))
                    break
        return min(options)[1:] if options else None

    def _join(self, stack: Stack, lexeme: int, rest: bytes, after: Stack, tail: bytes) -> bytes | None:
        """A lexeme and the text behind it, with something ignored between them where they would run together.

        Args:
            stack: before the lexeme.
            lexeme: the lexer's state inside it.
            rest: the bytes that are missing of it.
            after: the stack behind it.
            tail: an ending from there.
        """
        automaton = self.automaton
        lexeme = self._end_of(lexeme, rest)
        if not self._becomes(stack, lexeme, after):
            return None
        for separator in (b"", *self._separators):
            between = separator + tail
            if between and automaton.dfa.step(lexeme, between[0]) >= 0:
                continue
            reached = automaton.advance(Position(after), separator)
            if reached is not None and automaton.close(*reached) is after and not self._runs_on(reached.lexeme, tail):
                return rest + between
        return None

    def _end_of(self, lexeme: int, rest: bytes) -> int:
        """The lexer's state after more bytes of a lexeme; EMPTY where it does not take them."""
        for byte in rest:
            if lexeme != EMPTY:
                lexeme = self.automaton.dfa.step(lexeme, byte)
        return lexeme

    def _becomes(self, stack: Stack, lexeme: int, after: Stack) -> bool:
        return lexeme != EMPTY and self.automaton.close(stack, lexeme) is after

    def _runs_on(self, lexeme: int, tail: bytes) -> bool:
        return lexeme != EMPTY and bool(tail) and self.automaton.dfa.step(lexeme, tail[0]) >= 0
