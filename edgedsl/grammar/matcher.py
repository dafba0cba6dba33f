"""The matcher: where one program stands in the grammar, one per request."""

from __future__ import annotations

from collections.abc import Callable

import llguidance
import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import EngineLimitError, GrammarError, MatcherError
from edgedsl.grammar.grammar import Grammar

_LIMITS = ("TooComplex", "too many", "Too many", "fuel")  # what llguidance says where it stops at one of its limits


class Matcher:
    """Where one program stands in the grammar. Asks the engine for its error after every step: it fails closed.

    Tokens that are known to be legal may be followed without the engine, which hears of them when it is asked next: of
    many at once it takes half the time, and its code is not fetched into the caches for each.
    """

    def __init__(self, matcher: llguidance.LLMatcher, on_failure: Callable[[], None] = lambda: None) -> None:
        self._matcher = matcher
        self._on_failure = on_failure
        self._untold: list[int] = []  # tokens that the engine has not heard of

    def fill_bitmask(self, bitmask: NDArray[np.int32]) -> None:
        """Write the allowed tokens into ``bitmask`` [ceil(vocab / 32)], bit i of word w for token 32 w + i.

        Raises:
            MatcherError: engine error or limit.
        """
        self.catch_up()
        self._matcher.unsafe_compute_mask_ptr(bitmask.ctypes.data, bitmask.nbytes)
        self._check()

    def allows(self, token_id: int) -> bool:
        """Whether this token may come next."""
        return self.count_accepted([token_id]) == 1

    def accepts(self, token_ids: list[int]) -> bool:
        """Whether all of these tokens may come next, one after the other."""
        return self.count_accepted(token_ids) == len(token_ids)

    def count_accepted(self, token_ids: list[int]) -> int:
        """How many of these tokens may come next, one after the other, before the first that may not."""
        self.catch_up()
        count = int(self._matcher.validate_tokens(token_ids))
        self._check()
        return count

    def forced_tokens(self) -> list[int]:
        """Tokens of the string that the grammar leaves no choice about, without what may merge with what follows it."""
        self.catch_up()
        token_ids: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return token_ids

    def consume(self, token_id: int) -> None:
        """Advance by one token.

        Raises:
            MatcherError: the token is not allowed here, or the engine failed.
        """
        self.follow(token_id)
        self.catch_up()

    def follow(self, token_id: int) -> None:
        """Advance by a token that is known to be legal here; if it is not, the next question raises MatcherError."""
        self._untold.append(token_id)

    def catch_up(self) -> None:
        """Tell the engine of the tokens that it has not heard of.

        Raises:
            MatcherError: one of them is not allowed where it stands, or the engine failed.
        """
        if not self._untold:
            return
        token_ids, self._untold = self._untold, []
        is_taken = self._matcher.consume_tokens(token_ids)
        self._check()
        if not is_taken:
            raise MatcherError(f"the grammar does not allow token {token_ids[-1]} here")

    def is_accepting(self) -> bool:
        """Whether the program may end here."""
        self.catch_up()
        accepting = bool(self._matcher.is_accepting())
        self._check()
        return accepting

    def is_stopped(self) -> bool:
        """Whether nothing can follow any more."""
        self.catch_up()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        self._on_failure()
        reason = f"{self._matcher.stop_reason()} {self._matcher.get_error()}"
        if any(limit in reason for limit in _LIMITS):
            raise EngineLimitError(
                "the grammar engine met a limit; the program was discarded",
                hint="simplify the grammar: long lists and free text are what meets a limit",
            )
        raise MatcherError("the grammar engine failed; the program was discarded")


class MatcherFactory:
    """Makes matchers as copies of one at the start of a program; all parts of a catalogue share it.

    Attributes:
        limits: of the engine, for matchers after the next ``renew``.
    """

    def __init__(self, tokenizer: llguidance.LLTokenizer, grammar: Grammar) -> None:
        # Error texts of the engine quote the tokens so far; they must not reach a log or an answer.
        self.limits = llguidance.LLParserLimits(verbose_errors=False)
        self._tokenizer = tokenizer
        self._grammar = grammar
        self.renew()

    def new(self) -> Matcher:
        """A matcher at the start of a program."""
        return Matcher(self._first.deep_copy(), self.renew)

    def renew(self) -> None:
        """Copies share a lexer, which stays broken once it met a limit: the next program gets a new one."""
        self._first = llguidance.LLMatcher(
            self._tokenizer, self._grammar.engine_source, log_level=0, limits=self.limits
        )
        if self._first.is_error():
            reason = self._first.get_error().splitlines()[0]
            raise GrammarError(f"grammar '{self._grammar.name}' does not compile: {reason}")
