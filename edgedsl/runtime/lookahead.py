"""The model runs on drafted tokens together with the last chosen one; what was drafted wrongly is taken back.

The drafts change the number of calls and nothing else: each token is still chosen from the logits that the model gives
after the tokens before it (speculative decoding with a draft that is certain of itself, Leviathan et al., 2023: a
sampled token that equals the draft keeps it, any other ends it, so the distribution is the model's).

ONNX Runtime's kernels for quantised weights (MatMulNBits) round a row on its own in another way than a row of many;
of many, its logits are the same to the bit whatever the others are. So no call has one token: a call without a
draft is padded, and what is decoded does not depend on what was drafted. edgedsl's own operators need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgedsl.grammar import Matcher
from edgedsl.runtime.call_costs import CallCosts, TokenCost
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.rows import Row, Rows

if TYPE_CHECKING:
    from edgedsl.runtime.drafts import Draft, Drafter

MAX_DRAFT = 16
# What a drafted token is worth, in tokens: less where the first one waits for it, more where it saves another call and
# what is done between two. On AVX2: as many answers a second as with 1 and 1, the first token 10 to 20 % sooner.
_WITH_PROMPT, _LATER = 0.6, 1.2


@dataclass
class Lookahead:
    """One request's calls of the model.

    Attributes:
        drafter: None decodes token by token.
        is_padded: no call has one token only.
        token_cost: of the engine: what calls after the prompt's brought.
        num_calls: calls of the model so far.
        num_drafted: tokens that were drafted.
        num_accepted: those of them that were right.
    """

    decoder: Decoder
    costs: CallCosts | None = None
    drafter: Drafter | None = None
    is_padded: bool = False
    token_cost: TokenCost = field(default_factory=TokenCost)
    num_calls: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    _draft: Draft | None = None
    _rows: Rows | Sequence[Row] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _num_right: int = 0
    _spent_ms: float = 0.0  # on the last call, until its draft is at an end

    def start(
        self, prompt_token_ids: list[int], matcher: Matcher | None, tokens_left: int, token_ms: float = 0.0
    ) -> Row:
        """The logits after the prompt.

        Args:
            prompt_token_ids: of a new sequence.
            matcher: at the start of the program.
            tokens_left: most tokens of the program.
            token_ms: what a token costs that is not drafted now; 0: what it did lately.
        """
        self.decoder.reset()
        new = prompt_token_ids[len(self.decoder.prefix_token_ids) :]
        row = self._call(new, [], matcher, tokens_left, token_ms)
        self._spent_ms = 0.0  # mostly on the prompt
        return row

    def after(self, token_ids: list[int], matcher: Matcher | None, tokens_left: int) -> Row:
        """The logits after one more token.

        Args:
            token_ids: of the program, the new one included.
            matcher: behind the new token.
            tokens_left: most tokens that may follow.
        """
        row = self.known(token_ids)
        return self.call(token_ids, matcher, tokens_left) if row is None else row

    def known(self, token_ids: list[int]) -> Row | None:
        """The logits after one more token if it was drafted; if not, None, and the draft is at an end."""
        drafted = self._draft.token_ids if self._draft else []
        if self._num_right < len(drafted) and drafted[self._num_right] == token_ids[-1]:
            self._num_right += 1
            row: Row = self._rows[self._num_right]
            return row
        self._settle()
        return None

    def call(self, token_ids: list[int], matcher: Matcher | None, tokens_left: int) -> Row:
        """The logits after a token that :meth:`known` does not know; arguments as for :meth:`after`."""
        return self._call(token_ids[-1:], token_ids, matcher, tokens_left)

    def tokens_for(
        self, token_ids: list[int], matcher: Matcher | None, tokens_left: int, num_others: int, token_ms: float
    ) -> list[int]:
        """The last token and a draft behind it, for a call that has rows of others too; :meth:`take` has to follow.

        Args:
            token_ids: of the program.
            matcher: behind it.
            tokens_left: most tokens that may follow.
            num_others: rows that the call has beside these.
            token_ms: what a token is worth.
        """
        self._draft = self._propose(1, token_ids, matcher, tokens_left, token_ms, num_others)
        return [token_ids[-1], *(self._draft.token_ids if self._draft else [])]

    def take(self, rows: Sequence[Row], spent_ms: float) -> Row:
        """The logits after the last token; ``rows`` are those of :meth:`tokens_for`, and a share of the call's time."""
        self.num_calls += 1
        self.num_drafted += len(self._draft.token_ids) if self._draft else 0
        self._rows, self._spent_ms = rows, spent_ms
        first: Row = rows[0]
        return first

    def drop(self) -> None:
        """Forget a draft whose call failed."""
        self._draft, self._num_right = None, 0

    def finish(self) -> None:
        """Count the last draft."""
        self._settle()

    def _settle(self) -> None:
        """Take back what was drafted wrongly."""
        if self._spent_ms:
            self.token_cost.learn(self._spent_ms, 1 + self._num_right)
            self._spent_ms = 0.0
        if self._draft is None:
            return
        self.num_accepted += self._num_right
        self.decoder.truncate(self.decoder.length - len(self._draft.token_ids) + self._num_right)
        if self.drafter:
            self.drafter.learn(self._draft, self._num_right)
        self._draft, self._num_right = None, 0

    def _call(
        self, new: list[int], token_ids: list[int], matcher: Matcher | None, tokens_left: int, token_ms: float = 0.0
    ) -> Row:
        token_ms = token_ms or self._worth(is_later=bool(token_ids))
        self._draft = self._propose(len(new), token_ids, matcher, tokens_left, token_ms)
        drafted = self._draft.token_ids if self._draft else []
        self.num_calls += 1
        self.num_drafted += len(drafted)
        self._spent_ms = self.costs.of(len(new) + len(drafted)) if self.costs else 0.0
        if drafted:
            self._rows = self.decoder.rows([*new, *drafted], 1 + len(drafted))
        elif len(new) == 1 and self.is_padded and self._room(2) >= 0:
            self._rows = self.decoder.rows([*new, *new], 2)
            self.decoder.truncate(self.decoder.length - 1)
        else:
            self._rows = self.decoder.rows(new, 1)
        first: Row = self._rows[0]
        return first

    def _propose(
        self,
        num_new: int,
        token_ids: list[int],
        matcher: Matcher | None,
        tokens_left: int,
        token_ms: float,
        num_others: int = 0,
    ) -> Draft | None:
        if not (self.drafter and self.costs and matcher):
            return None
        draft = self.drafter.propose(token_ids, matcher, max(0, min(MAX_DRAFT, tokens_left, self._room(num_new))))
        length = self.costs.best_length(draft.probabilities, token_ms, num_new + num_others)
        return draft.shortened(length) if length else None

    def _worth(self, *, is_later: bool) -> float:
        """Milliseconds that a drafted token is worth; of no use where nothing was measured."""
        factor = _LATER if is_later else _WITH_PROMPT
        return self.token_cost.estimate(self.costs) * factor if self.costs else 0.0

    def _room(self, num_new: int) -> int:
        return self.decoder.info.context_length - self.decoder.length - num_new
