"""One request's budget: which tokens still leave time to finish the program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import GenerationError, NoTokenError
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.legal_tokens import LegalTokens, Logits
from edgedsl.grammar.matcher import Matcher
from edgedsl.grammar.position import Position

# While twice the bytes that are missing, and this many tokens more, fit into the budget, no completion is worked out.
_FAR = 16
_PATIENCE = 3  # refusals after which tokens are refused by where they lead, not one by one
_MAX_TARGETS = 4096
Draw = Callable[[Logits], int]
LogitsOf = Callable[[NDArray[np.int64]], Logits]


class BudgetGuard:
    """Moves along a program beside its matcher and chooses tokens after which it can still end in time.

    A token that Lark's lexer would not take is refused too: what the engine alone allows need not parse. What the
    engine said at a position holds for every program that comes by: it is asked once, and hears of tokens that it is
    known to allow no sooner than it has to. So a finished program has to be told it (:meth:`is_whole`).

    Attributes:
        is_steering: whether a token was refused for want of budget; the program is then another one than without it.
    """

    def __init__(self, compiled: CompiledGrammar, matcher: Matcher) -> None:
        self._compiled = compiled
        self._matcher = matcher
        self._planner = compiled.planner
        self._end_token_ids = compiled.end_token_ids
        self._position = self._planner.automaton.start()
        self._ending: list[int] | None = None  # tokens that would end the program from here, once it is near
        self._next: tuple[int, Position, list[int] | None] | None = None
        self._values: Logits | None = None
        self._is_alike: NDArray[np.bool_] | None = None
        self.is_steering = False

    def choose(self, logits: Logits, draw: Draw, tokens_left: int) -> int:
        """Draw until a token is legal and leaves time to end.

        Args:
            logits: [vocab] or wider, finite; what is beyond the vocabulary is padding. Not changed.
            draw: the index of one of the values it is given; those that are -inf are not to be taken.
            tokens_left: budget after the token; see :meth:`permits`.

        Raises:
            NoTokenError: no token is left.
            MatcherError: the engine failed.
        """
        if self._values is None:
            self._values = np.empty(self._compiled.vocab_size, np.float32)
        logits = logits[: self._compiled.vocab_size]
        return self._choose(*self._legal().select(logits, self._planned, self._values), draw, tokens_left)

    def choose_of_few(self, logits_of: LogitsOf, draw: Draw, tokens_left: int) -> int | None:
        """Like :meth:`choose`, where few tokens are legal: only their logits are asked for. None where they are many.

        Args:
            logits_of: the logits of some tokens, given their ids.
            draw: see :meth:`choose`.
            tokens_left: likewise.
        """
        token_ids = self.few()
        return None if token_ids is None else self._choose(logits_of(token_ids), token_ids, draw, tokens_left)

    def few(self) -> NDArray[np.int64] | None:
        """The legal tokens; None where they are many. The engine is not asked in free text, where its mask takes long.

        Raises:
            NoTokenError: no token is left.
            MatcherError: the engine failed.
        """
        if self._planner.automaton.is_wide(self._position):
            return None
        return self._legal().few(self._planned)

    @property
    def _planned(self) -> int | None:
        """Legal too: where one text only can follow, the mask holds its canonical token alone, perhaps a short one."""
        return self._ending[0] if self._ending else None

    def _choose(self, values: Logits, token_ids: NDArray[np.int64] | None, draw: Draw, tokens_left: int) -> int:
        num_refused = 0
        while True:
            index = draw(values)
            token_id = index if token_ids is None else int(token_ids[index])
            if tokens_left < 0 or self._permits(token_id, tokens_left, is_legal=True):
                return token_id
            values[index] = -np.inf
            num_refused += 1
            if num_refused > _PATIENCE and token_id not in self._end_token_ids:
                self._rule_out(values, token_ids, self._alike(token_id))

    def _rule_out(self, values: Logits, token_ids: NDArray[np.int64] | None, alike: NDArray[np.integer[Any]]) -> None:
        if token_ids is None:
            values[alike] = -np.inf
            return
        if self._is_alike is None:
            self._is_alike = np.zeros(self._compiled.vocab_size, np.bool_)
        self._is_alike[alike] = True  # np.isin would sort them
        values[self._is_alike[token_ids]] = -np.inf
        self._is_alike[alike] = False

    def permits(self, token_id: int, tokens_left: int) -> bool:
        """Whether the token is legal and the program can still be finished after it, or may end with it.

        Args:
            token_id: below the size of the vocabulary.
            tokens_left: budget after it. Below 0 the program is whole, and the caller only asks what would come next.
        """
        if tokens_left < 0:
            return self._matcher.allows(token_id)
        return self._permits(token_id, tokens_left, is_legal=False)

    def may_end(self) -> bool:
        """Whether the program is whole for both engines."""
        node = self._position.node
        if node.may_end is None:
            is_complete = self._planner.automaton.is_complete(self._position)
            node.may_end = is_complete and self._matcher.is_accepting()
        return node.may_end

    def is_over(self) -> bool:
        """Whether the program is whole and nothing can follow it."""
        node = self._position.node
        if node.is_last is None:
            node.is_last = self.may_end() and self._matcher.is_stopped()
        return node.is_last

    def is_whole(self) -> bool:
        """Whether the engine, told of every token, takes the program as whole.

        Raises:
            MatcherError: it does not allow one of them, or it failed.
        """
        return self._matcher.is_accepting()

    def consume(self, token_id: int) -> None:
        """Advance, with the matcher, by a token that was permitted.

        Raises:
            GenerationError: it was not the one last asked for.
        """
        if self._next is None or self._next[0] != token_id:
            raise GenerationError(f"token {token_id} was not checked against the budget")
        _, self._position, self._ending = self._next
        self._next = None
        self._matcher.follow(token_id)

    def _permits(self, token_id: int, tokens_left: int, *, is_legal: bool) -> bool:
        """Like :meth:`permits`; ``is_legal``: the engine is known to allow the token."""
        position = self._position.node.passed.get(token_id)
        if position is None:
            if token_id in self._end_token_ids:
                return self.may_end()
            position = self._pass(token_id, is_legal=is_legal)
            if position is None:
                return False
        ending: list[int] | None = None
        if 2 * position.node.bound + _FAR > tokens_left:
            ending = self._find_ending(token_id, position, tokens_left)
            if ending is None:
                self.is_steering = True
                return False
        self._next = (token_id, position, ending)
        return True

    def _pass(self, token_id: int, *, is_legal: bool) -> Position | None:
        """The position after a token that both engines allow, kept for the next program."""
        position = self._target(token_id)
        # Infinite after names that a subset of the catalogue leaves out.
        if position is None or math.isinf(self._planner.rough_bound(position)):
            return None
        node = self._position.node
        # More may be legal than the mask has, see _planned.
        is_legal = is_legal or (node.legal is not None and token_id in node.legal)
        if not is_legal and not self._matcher.allows(token_id):
            return None
        node.passed[token_id] = position
        return position

    def _find_ending(self, token_id: int, position: Position, tokens_left: int) -> list[int] | None:
        """A completion that fits and that the decoding engine accepts."""
        if self._ending and self._ending[0] == token_id and len(self._ending) <= tokens_left + 1:
            return self._ending[1:]
        end = min(self._end_token_ids)
        return self._planner.ending(
            position, tokens_left, lambda ending: self._matcher.accepts([token_id, *ending, end])
        )

    def _target(self, token_id: int) -> Position | None:
        targets = self._position.node.targets
        if token_id not in targets:
            if len(targets) >= _MAX_TARGETS:
                targets.clear()
                self._position.node.passed.clear()
            spelled = self._planner.vocabulary.token_bytes[token_id]
            targets[token_id] = self._planner.automaton.advance(self._position, spelled) if spelled else None
        return targets[token_id]

    def _legal(self) -> LegalTokens:
        """What the engine allows; a position that another program came by is known."""
        node = self._position.node
        if node.legal is None:
            bitmask = np.empty(self._compiled.bitmask_size, np.int32)
            self._matcher.fill_bitmask(bitmask)
            legal = self._compiled.legal_tokens.get(bitmask)
            if legal.is_empty:
                raise NoTokenError("no token can follow: the grammar engine allows none")
            node.legal = legal
        return node.legal

    def _alike(self, token_id: int) -> NDArray[np.integer[Any]]:
        """The tokens that lead where this one leads, so that one verdict does for all of them."""
        classes = self._planner.classes.at(self._position)
        position = self._target(token_id)
        if position is not None:
            return classes[position]
        leads_on = np.zeros(self._compiled.vocab_size, np.bool_)
        leads_on[list(self._end_token_ids)] = True
        for token_ids in classes.values():
            leads_on[token_ids] = True
        return np.flatnonzero(~leads_on)
