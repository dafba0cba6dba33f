"""Programs that end in time: a token passes only while the program can still be finished inside the budget.

The idea is TruncProof's (arXiv 2605.13076): know the shortest completion of every prefix. Here the bound is not trusted
but shown: near the end, each token that passes comes with a completion in tokens that fits, and that the decoding
engine itself has accepted. Its first token always passes at the next step, so a request never runs out of budget
inside a program.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

from edgedsl.errors import GrammarError
from edgedsl.grammar.lalr import Costs, Plan, Stack
from edgedsl.grammar.position import EMPTY, Automaton, Position
from edgedsl.grammar.token_classes import TokenClasses
from edgedsl.grammar.vocabulary import Vocabulary

_BYTES_PER_TOKEN = 2  # a guess that only orders a search
# A completion that is a little too long is searched for a shorter one, this hard.
_MAX_EXCESS = 2
_MAX_VISITS = 64
Check = Callable[[list[int]], bool]


class Planner:
    """Knows for each position how a program may end soonest. One per grammar and tokenizer.

    Raises:
        GrammarError: no program of the grammar can be spelled with these tokens.
    """

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, is_program: Check) -> None:
        self.automaton = automaton
        self.vocabulary = vocabulary
        self.classes = TokenClasses(automaton, vocabulary.token_bytes)
        self._rests: dict[tuple[int, int], tuple[int, bytes] | None] = {}
        spellings = {
            name: self._find_rest(automaton.terminal_start(name), automaton.patterns_of(name))
            for name in automaton.terminals
        }
        tokens = {name: spelling[0] if spelling else math.inf for name, spelling in spellings.items()}
        fewest = {
            name: min(automaton.dfa.min_bytes(automaton.pattern_start(n), n) for n in automaton.patterns_of(name))
            for name in automaton.terminals
        }
        self._costs = Costs(automaton.tables, "tokens", tokens)
        self._byte_costs = Costs(automaton.tables, "bytes", fewest)
        self._separators = [
            spelling[1] for name, spelling in spellings.items() if name in automaton.ignored and spelling
        ]
        start = automaton.start()
        self.min_tokens = self._shortest_program(start, is_program)

    def _shortest_program(self, start: Position, is_program: Check) -> int:
        least = self._costs.missing(start.stack)
        tokens = None if math.isinf(least) else self.ending(start, int(least) + _MAX_EXCESS, is_program)
        if tokens is None:
            raise GrammarError("no program of the grammar can be spelled with the tokens of this tokenizer")
        while tokens and (shorter := self.search(start, len(tokens) - 1, is_program)) is not None:
            tokens = shorter
        return len(tokens)

    def rough_bound(self, position: Position) -> float:
        """Tokens that are enough to end the program: those of what follows, and a token a byte for the begun lexeme."""
        return self._least(position, self._costs)

    def completion(self, position: Position) -> list[int] | None:
        """Tokens of a shortest ending, as far as known; empty where the program may end here, None where it cannot."""
        if self.automaton.is_complete(position):
            return []
        for _, rest, stack in sorted(self._endings(position), key=lambda ending: ending[0]):
            text = self._spell(position, rest, stack)
            tokens = None if text is None else self.vocabulary.segment(text)
            if tokens is not None:
                return tokens
        return None

    def ending(self, position: Position, budget: int, is_ending: Check) -> list[int] | None:
        """An ending of at most ``budget`` tokens; None where none was found.

        Args:
            position: where the program stands.
            budget: number of tokens.
            is_ending: the decoding engine's opinion of an ending.
        """
        plan = self._plan(position)
        if plan.best is not None and len(plan.best) <= budget and is_ending(plan.best):
            return plan.best
        excess = 0 if plan.best is None else len(plan.best) - budget
        if excess > _MAX_EXCESS or budget <= plan.searched:
            return None
        found = self.search(position, budget, is_ending)
        if found is None:
            plan.searched = budget
        else:
            plan.best = found
        return found

    def _plan(self, position: Position) -> Plan:
        plans = position.stack.plans
        if position.lexeme not in plans:
            plans[position.lexeme] = Plan(self.completion(position))
        return plans[position.lexeme]

    def search(self, position: Position, budget: int, is_ending: Check) -> list[int] | None:
        """An ending of at most ``budget`` tokens, found by trying tokens; None where none was found.

        Exact while the search is small; a large one is given up, which only forbids more than it must.
        """
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
        if position.lexeme == EMPTY:
            return costs.missing(position.stack)
        dfa = self.automaton.dfa
        return min(
            (
                dfa.min_bytes(position.lexeme, pattern) + costs.missing(after)
                for pattern in dfa.patterns[position.lexeme]
                if (after := self.automaton.after(position.stack, pattern)) is not None
            ),
            default=math.inf,
        )

    def _endings(self, position: Position) -> Iterator[tuple[float, bytes, Stack]]:
        """Ways to end: cost in tokens, the rest of the begun lexeme, the stack after it."""
        automaton, stack = self.automaton, position.stack
        if position.lexeme == EMPTY:
            yield self._costs.missing(stack), b"", stack
            return
        for pattern in automaton.dfa.patterns[position.lexeme]:
            after = automaton.after(stack, pattern)
            rest = None if after is None else self._rest(position.lexeme, pattern)
            if rest is not None and after is not None:
                yield rest[0] + self._costs.missing(after), rest[1], after

    def _rest(self, state: int, pattern: int) -> tuple[int, bytes] | None:
        """The fewest tokens from a lexer state to a match of the pattern: their number and bytes."""
        key = (state, pattern)
        if key not in self._rests:
            self._rests[key] = self._find_rest(state, [pattern])
        return self._rests[key]

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
                rest = min(dfa.min_bytes(target, p) for p in wanted & dfa.patterns[target]) / _BYTES_PER_TOKEN
                heapq.heappush(heap, (count + 1 + rest, count + 1, spelled, target))
        return None

    def _spell(self, position: Position, rest: bytes, stack: Stack) -> bytes | None:
        """The bytes of an ending, checked by walking them; None where lexemes run together and nothing parts them."""
        automaton = self.automaton
        text = bytearray(rest)
        reached = automaton.advance(position, rest)
        if reached is None or automaton.close(reached.stack, reached.lexeme) is not stack:
            return None
        for name in self._costs.completion(stack):
            closed = automaton.close(reached.stack, reached.lexeme)
            if closed is None:
                return None
            found = self._next_lexeme(closed, name)
            if found is None:
                return None
            moved = self._join(reached, *found)
            if moved is None:
                return None
            piece, reached = moved
            text += piece
        return bytes(text) if automaton.is_complete(reached) else None

    def _next_lexeme(self, stack: Stack, terminal: str) -> tuple[bytes, Stack] | None:
        """The cheapest spelling of a terminal here, and the stack after it."""
        automaton = self.automaton
        start = automaton.lexer_start(stack)
        options = [
            (rest, after)
            for pattern in automaton.patterns_of(terminal)
            if pattern in automaton.dfa.patterns[start]
            and (rest := self._rest(start, pattern)) is not None
            and (after := automaton.after(stack, pattern)) is not None
        ]
        if not options:
            return None
        (_, spelling), after = min(options, key=lambda option: option[0])
        return spelling, after

    def _join(self, position: Position, spelling: bytes, wanted: Stack) -> tuple[bytes, Position] | None:
        """Append a lexeme, with something ignored before it where it would run into the one before."""
        automaton = self.automaton
        for separator in (b"", *self._separators):
            reached = automaton.advance(position, separator + spelling)
            if reached is not None and automaton.close(reached.stack, reached.lexeme) is wanted:
                return separator + spelling, reached
        return None
