"""How programs may end, spelled: from any position the bytes of endings, the cheap ones first."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator

from edgedsl.grammar.dfa import PLAIN_LETTER
from edgedsl.grammar.lalr import Costs, Stack
from edgedsl.grammar.lexemes import Lexemes
from edgedsl.grammar.position import EMPTY, Automaton, Position
from edgedsl.grammar.vocabulary import Vocabulary

_BYTES_PER_TOKEN = 2  # a guess that only orders a search
_MAX_OPTIONS = 8  # spellings of one terminal that are compared


class Spelling:
    """Endings of an automaton's positions.

    Args:
        automaton: of the grammar, or of a part of its catalogue.
        vocabulary: of the tokenizer.
        whole: that of the whole catalogue, where the automaton is of a part: most of what it found holds here too.
        known: ``lexemes``, if they were found before.

    Attributes:
        costs: of what may follow a stack, in tokens.
        lexemes: by terminal the tokens of its shortest lexeme, a number, and its bytes; None where it has none.
    """

    def __init__(
        self,
        automaton: Automaton,
        vocabulary: Vocabulary,
        whole: Spelling | None = None,
        known: Lexemes | None = None,
    ) -> None:
        self._automaton = automaton
        self._vocabulary = vocabulary
        has_lexer_of_whole = whole is not None and whole._automaton.dfa is automaton.dfa
        self._few_tokens: dict[tuple[int, int], tuple[int, bytes] | None] = (
            whole._few_tokens if whole and has_lexer_of_whole else {}
        )
        self._spellings: dict[tuple[int, str], tuple[bytes, int] | None] = {}
        self.lexemes: Lexemes = dict(whole.lexemes) if whole else dict(known or {})
        terminals: Iterable[str] = automaton.terminals if self.lexemes.keys() != set(automaton.terminals) else ()
        if whole:  # a part of the names: only terminals that have names may be spelled otherwise
            terminals = whole._automaton.catalogue_terminals | automaton.catalogue_terminals
        for name in terminals:
            self.lexemes[name] = self._find_rest(automaton.terminal_start(name), automaton.patterns_of(name))
        tokens = {name: found[0] if found else math.inf for name, found in self.lexemes.items()}
        self.costs = Costs(automaton.tables, "tokens", tokens)
        self._separators = [found[1] for name, found in self.lexemes.items() if name in automaton.ignored and found]

    def ways(self, position: Position) -> Iterator[Iterator[bytes]]:
        """Ways to end, the cheaper ones first by a guess: for each its spellings, of which one is as good as another.

        What the begun lexeme becomes makes the way: of each terminal the pattern that misses the fewest tokens.
        """
        stack, lexeme = position
        if lexeme == EMPTY:
            yield self._tails(stack)
            return
        options = [self._options(stack, lexeme, patterns) for patterns in self._automaton.distances(lexeme).values()]
        best = sorted((min(found) for found in options if found), key=lambda way: way[0])
        yield from (self._texts(stack, lexeme, pattern) for _, pattern in best)

    def all_ways(self, position: Position) -> Iterator[Iterator[bytes]]:
        """Where none of :meth:`ways` can be spelled: every pattern, the nearest ones by bytes first."""
        stack, lexeme = position
        if lexeme == EMPTY:
            return
        for _, pattern in itertools.chain(*self._automaton.distances(lexeme).values()):
            yield self._texts(stack, lexeme, pattern)

    def _options(self, stack: Stack, lexeme: int, patterns: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
        """Some patterns of a terminal that may come here, the nearest ones by bytes: tokens to the end, number."""
        found: list[tuple[float, int]] = []
        for _, pattern in patterns:
            after = self._automaton.after(stack, pattern)
            if after is not None:
                tokens = self._vocabulary.segment(self._automaton.dfa.rest(lexeme, pattern))
                missing = math.inf if tokens is None else len(tokens)
                found.append((missing + self.costs.missing(after), pattern))
                if len(found) == _MAX_OPTIONS:
                    break
        return found

    def _texts(self, stack: Stack, lexeme: int, pattern: int) -> Iterator[bytes]:
        """Endings in which a begun lexeme becomes one of a pattern; none where that cannot come here."""
        after = self._automaton.after(stack, pattern)
        if after is None:
            return
        for tail in self._tails(after):
            for rest in self._rests(lexeme, pattern):
                text = self._join(stack, lexeme, rest, after, tail)
                if text is not None:
                    yield text

    def nearest(self, stack: Stack, lexeme: int) -> Iterator[tuple[float, int, Stack]]:
        """For each terminal that the begun lexeme may become its nearest pattern: bytes to it, number, stack after it.

        What may follow a name differs from name to name, but its cost does not.
        """
        for patterns in self._automaton.distances(lexeme).values():
            for num_bytes, pattern in patterns:
                after = self._automaton.after(stack, pattern)
                if after is not None:
                    yield num_bytes, pattern, after
                    break

    def _tails(self, stack: Stack) -> Iterator[bytes]:
        """Endings between two lexemes: the one for any names, which may not fit here, then the one for these."""
        for known in dict.fromkeys([stack.twin, stack]):
            text = self._text(known)
            if text is not None:
                yield text

    def _rests(self, state: int, pattern: int) -> Iterator[bytes]:
        """What is missing of a pattern: the fewest bytes, then those of few tokens after which nothing else matches."""
        yield self._automaton.dfa.rest(state, pattern)
        key = (state, pattern)
        if key not in self._few_tokens:
            self._few_tokens[key] = self._find_rest(state, [pattern])
        found = self._few_tokens[key]
        if found is not None:
            yield found[1]

    def _find_rest(self, start: int, patterns: list[int]) -> tuple[int, bytes] | None:
        """Best-first over tokens. Estimated by the bytes that are left, so not always the fewest, but soon found."""
        dfa, vocabulary, wanted = self._automaton.dfa, self._vocabulary, frozenset(patterns)

        def step(state: int, byte: int) -> int | None:
            target = dfa.step(state, byte)
            return target if target >= 0 and not wanted.isdisjoint(dfa.patterns[target]) else None

        def is_match(state: int) -> bool:
            return bool(dfa.accepts[state]) and dfa.accepts[state][0] in wanted

        if is_match(start):
            return 0, b""
        # A letter is a token with a blank before it too; a digit mostly is not.
        letter = step(start, PLAIN_LETTER)
        if letter is not None and is_match(letter) and vocabulary.segment(bytes([PLAIN_LETTER])):
            return 1, bytes([PLAIN_LETTER])
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
            name = next(self.costs.completion(current), None)
            found = None if name is None else self._next_lexeme(current, name)
            if found is None:
                node.text, node.is_spelled = b"" if name is None else None, True
                break
            pending.append((current, *found))
            current = found[1]
        for before, spelling, after in reversed(pending):
            tail, node = Position(after).node.text, Position(before).node
            start = self._automaton.lexer_start(before)
            node.text = None if tail is None else self._join(before, start, spelling, after, tail)
            node.is_spelled = True
        return Position(stack).node.text

    def _next_lexeme(self, stack: Stack, terminal: str) -> tuple[bytes, Stack] | None:
        """A cheap spelling of a terminal here, and the stack after it."""
        key = (self._automaton.lexer_start(stack), terminal)
        if key not in self._spellings:
            self._spellings[key] = self._spell(stack, *key)
        found = self._spellings[key]
        after = None if found is None else self._automaton.after(stack, found[1])
        return None if found is None or after is None else (found[0], after)

    def _spell(self, stack: Stack, start: int, terminal: str) -> tuple[bytes, int] | None:
        """The spelling of fewest tokens among a terminal's nearest patterns, and the pattern."""
        automaton = self._automaton
        options: list[tuple[int, bytes, int]] = []
        for _, pattern in automaton.distances(start).get(terminal, ())[:_MAX_OPTIONS]:
            after = automaton.after(stack, pattern)
            if after is None:
                continue
            for rest in self._rests(start, pattern):
                tokens = self._vocabulary.segment(rest)
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
        automaton = self._automaton
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
                lexeme = self._automaton.dfa.step(lexeme, byte)
        return lexeme

    def _becomes(self, stack: Stack, lexeme: int, after: Stack) -> bool:
        return lexeme != EMPTY and self._automaton.close(stack, lexeme) is after

    def _runs_on(self, lexeme: int, tail: bytes) -> bool:
        return lexeme != EMPTY and bool(tail) and self._automaton.dfa.step(lexeme, tail[0]) >= 0
