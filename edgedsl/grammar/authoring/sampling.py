"""Random programs of a grammar."""

from __future__ import annotations

from random import Random

from edgedsl.errors import GrammarError
from edgedsl.grammar.authoring.derivation import Derivations
from edgedsl.grammar.authoring.lexicon import Speller
from edgedsl.grammar.authoring.structure import Structure
from edgedsl.grammar.grammar import START, Grammar
from edgedsl.grammar.position import Automaton, Position

_MAX_SIZE = 60
_PROGRAM_TRIES = 100
_LEXEME_TRIES = 8
_KEPT = 50


class Sampler:
    """Draws programs: a random derivation, its terminals spelled by random walks. Lark has accepted every one.

    Args:
        grammar: to draw from.
        seed: of the random numbers; the same seed gives the same programs.

    Attributes:
        num_refused: derivations that could not be spelled, or whose text Lark does not parse.
        refused: some of those texts.
    """

    def __init__(self, grammar: Grammar, seed: int = 0) -> None:
        self._grammar = grammar
        self._rng = Random(seed)
        self._derivations = Derivations(Structure(grammar.source, grammar.name))
        self._automaton = Automaton(grammar.lark, START, grammar.catalogue)
        self._speller = Speller(self._automaton.dfa)
        self._ignored = sorted(n for t in self._automaton.ignored for n in self._automaton.patterns_of(t))
        self.num_refused = 0
        self.refused: list[str] = []

    def sample(self) -> str:
        """A random program.

        Raises:
            GrammarError: none was found in a hundred tries: terminals overlap so that texts are read otherwise.
        """
        for _ in range(_PROGRAM_TRIES):
            text = self._spell(self._derivations.random(self._rng, self._rng.randrange(4, _MAX_SIZE)))
            if text is not None and self._grammar.accepts(text):
                return text
            self.num_refused += 1
            if text is not None and len(self.refused) < _KEPT and text not in self.refused:
                self.refused.append(text)
        raise GrammarError(
            f"no program of '{self._grammar.name}' could be sampled in {_PROGRAM_TRIES} tries",
            hint=f"terminals overlap; run 'edgedsl grammar check {self._grammar.name}'",
        )

    def samples(self, num: int) -> list[str]:
        """Several random programs; short languages give the same one again."""
        return [self.sample() for _ in range(num)]

    def _spell(self, terminals: list[str]) -> str | None:
        """Text of terminals in a row; None where lexemes run into one another and nothing parts them."""
        position, text = self._automaton.start(), bytearray()
        for number, name in enumerate(terminals):
            placed = self._place(position, name, is_first=number == 0)
            if placed is None:
                return None
            piece, position = placed
            text += piece
        return text.decode(errors="strict")

    def _place(self, position: Position, name: str, *, is_first: bool) -> tuple[bytes, Position] | None:
        """A lexeme of the terminal that is read as such, with something ignored before it where that is needed."""
        automaton = self._automaton
        closed = automaton.close(position.stack, position.lexeme)
        if closed is None:
            return None
        possible = automaton.dfa.patterns[automaton.lexer_start(closed)]
        patterns = [number for number in automaton.patterns_of(name) if number in possible]
        for _ in range(_LEXEME_TRIES if patterns else 0):
            pattern = self._rng.choice(patterns)
            wanted = automaton.after(closed, pattern)
            lexeme = self._speller.random(automaton.pattern_start(pattern), pattern, self._rng)
            # llguidance takes nothing ignored before the first terminal.
            for piece in [lexeme] if is_first else self._shuffled(lexeme):
                reached = automaton.advance(position, piece)
                if reached is not None and wanted and automaton.close(reached.stack, reached.lexeme) is wanted:
                    return piece, reached
        return None

    def _shuffled(self, lexeme: bytes) -> list[bytes]:
        """The lexeme alone and after something ignored, in either order: where both are read, both should be seen."""
        if not self._ignored:
            return [lexeme]
        pattern = self._rng.choice(self._ignored)
        ignored = self._speller.shortest(self._automaton.pattern_start(pattern), pattern)
        return [lexeme, ignored + lexeme] if self._rng.random() < 0.5 else [ignored + lexeme, lexeme]
