"""One request's budget: which tokens still leave time to finish the program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import GenerationError
from edgedsl.grammar.matcher import CompiledGrammar, Matcher, apply_bitmask
from edgedsl.grammar.position import Position

# While twice the bytes that are missing, and this many tokens more, fit into the budget, no completion is worked out.
_FAR = 16


class BudgetGuard:
    """Moves along a program beside its matcher and refuses tokens after which it could not end in time.

    A token that Lark's lexer would not take is refused too: what the engine alone allows need not parse.

    Attributes:
        is_steering: whether a token was refused for want of budget; the program is then another one than without it.
    """

    def __init__(self, compiled: CompiledGrammar, matcher: Matcher) -> None:
        self._matcher = matcher
        self._planner = compiled.planner
        self._end_token_ids = compiled.end_token_ids
        self._position = self._planner.automaton.start()
        self._ending: list[int] | None = None  # tokens that would end the program from here, once it is near
        self._next: tuple[int, Position, list[int] | None] | None = None
        self._classes: dict[Position, NDArray[np.int32]] | None = None
        self.is_steering = False

    def mask(self, logits: NDArray[np.float32], bitmask: NDArray[np.int32]) -> None:
        """Apply the matcher's bitmask in place, but keep the first token of the ending that is known to fit.

        Where only one text can follow, llguidance's mask holds just its canonical token, which may be a short one.
        """
        planned = self._ending[:1] if self._ending else []
        kept = logits[planned]
        apply_bitmask(logits, bitmask)
        logits[planned] = kept

    def choose(self, logits: NDArray[np.float32], draw: Callable[[NDArray[np.float32]], int], tokens_left: int) -> int:
        """Draw until a token is permitted; refused ones are masked in place.

        This gives the distribution that masking all refused tokens beforehand would give.

        Args:
            logits: [vocab], masked by the matcher.
            draw: picks a token id.
            tokens_left: budget after the token.

        Raises:
            GenerationError: no token is left.
        """
        while not self.permits(token_id := draw(logits), tokens_left):
            self._mask_refused(logits, token_id)
        return token_id

    def _mask_refused(self, logits: NDArray[np.float32], token_id: int) -> None:
        """Mask a refused token, with all that lead to the same position, and once all that lead to none."""
        logits[token_id] = -np.inf
        if token_id in self._end_token_ids:
            return
        if self._classes is None:
            self._classes = self._planner.classes.at(self._position)
            kept = np.concatenate([*self._classes.values(), np.array(sorted(self._end_token_ids), np.int32)])
            values = logits[kept]
            logits[:] = -np.inf
            logits[kept] = values
        target = self._target(token_id)
        if target is not None:
            logits[self._classes[target]] = -np.inf

    def may_end(self) -> bool:
        """Whether the program is whole for Lark too."""
        return self._planner.automaton.is_complete(self._position)

    def permits(self, token_id: int, tokens_left: int) -> bool:
        """Whether the program can still be finished after this token, or may end with it.

        Args:
            token_id: one that the matcher allows here.
            tokens_left: budget after it. Below 0 the program is whole, and the caller only asks what would come next.
        """
        if tokens_left < 0:
            return True
        if token_id in self._end_token_ids:
            return self.may_end()
        position = self._target(token_id)
        return position is not None and self._permits(token_id, position, tokens_left)

    def _target(self, token_id: int) -> Position | None:
        return self._planner.automaton.advance(self._position, self._planner.vocabulary.token_bytes[token_id])

    def consume(self, token_id: int) -> None:
        """Advance by a token that was permitted.

        Raises:
            GenerationError: it was not the one last asked for.
        """
        if self._next is None or self._next[0] != token_id:
            raise GenerationError(f"token {token_id} was not checked against the budget")
        _, self._position, self._ending = self._next
        self._next = self._classes = None

    def _permits(self, token_id: int, position: Position, tokens_left: int) -> bool:
        if 2 * self._planner.rough_bound(position) + _FAR <= tokens_left:
            self._next = (token_id, position, None)
            return True
        ending = self._find_ending(token_id, position, tokens_left)
        if ending is None:
            self.is_steering = True
            return False
        self._next = (token_id, position, ending)
        return True

    def _find_ending(self, token_id: int, position: Position, tokens_left: int) -> list[int] | None:
        """A completion that fits and that the decoding engine accepts."""
        if self._ending and self._ending[0] == token_id and len(self._ending) <= tokens_left + 1:
            return self._ending[1:]
        end = min(self._end_token_ids)
        return self._planner.ending(
            position, tokens_left, lambda ending: self._matcher.accepts([token_id, *ending, end])
        )
