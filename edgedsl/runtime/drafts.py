"""Where drafts come from: tokens guessed ahead without the model, which checks them all in one call.

Four sources: the grammar's forced string; n-grams of the training programs; the programs of like training sentences,
in the words of this one; copies of words of the sentence. The likeliest token of them is taken at each place, and the
grammar cuts the draft off at the first token that it does not allow. A draft is a guess: it changes how many calls an
answer takes, never the answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgedsl.grammar import Matcher
from edgedsl.runtime import neighbours as neighbour_files
from edgedsl.runtime import ngrams as ngram_files
from edgedsl.runtime.analogy import Analogy
from edgedsl.runtime.copies import Copies
from edgedsl.runtime.neighbours import NeighbourIndex
from edgedsl.runtime.ngrams import NgramIndex
from edgedsl.runtime.retrieved import Retrieved
from edgedsl.tokenizer import Tokenizer

Source = Literal["forced", "ngrams", "neighbours", "copies"]
SOURCES: tuple[Source, ...] = ("forced", "ngrams", "neighbours", "copies")
NUM_NEIGHBOURS = 32
_SURE = 0.9  # from here on the grammar is not asked what it forces: it would say the same
_LONG = 4  # tokens; neighbours that agree on fewer do not know better than the n-grams
_DOUBT = 0.6  # occurrences, of a token never seen after a context that was seen
_CERTAIN = 0.99  # nothing is surer: even a forced string may be spelt in other tokens
_MAX_REPAIRS = 3  # of a draft: tokens that are not legal
_HOPELESS = 0.02  # no call gets cheaper by a token that is reached less often


@dataclass
class Draft:
    """Tokens that may come next, one after the other.

    Attributes:
        token_ids: legal in a row.
        probabilities: of each token to be accepted, given that those before it were.
        sources: where each token is from.
    """

    token_ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def shortened(self, num_tokens: int) -> Draft:
        """Its first tokens."""
        if num_tokens >= len(self.token_ids):
            return self
        return Draft(self.token_ids[:num_tokens], self.probabilities[:num_tokens], self.sources[:num_tokens])


_Guess = tuple[int, float, Source]


class Acceptance:
    """How much a source's probabilities are worth, from what was accepted of it: their odds times a running factor.

    One weight of a logistic regression, learned online, so that old answers fade; it begins with probabilities as they
    are.
    """

    _RATE = 0.05
    _BOUND = 3.0  # of the logarithm: odds are never corrected by more than a factor of 20

    def __init__(self) -> None:
        self._log_factor = 0.0
        self._factor = 1.0

    def corrected(self, probability: float) -> float:
        """A source's probability, from 0 to below 1, as experience has it."""
        odds = self._factor * probability / (1 - probability)
        return min(odds / (1 + odds), _CERTAIN)

    def learn(self, probability: float, is_accepted: bool) -> None:
        """Take one checked token into account, with the corrected probability that it had."""
        log_factor = self._log_factor + self._RATE * (is_accepted - probability)
        self._log_factor = min(max(log_factor, -self._BOUND), self._BOUND)
        self._factor = math.exp(self._log_factor)


class DraftSources:
    """What all requests of a bundle share: its indices, and how well each source did lately.

    Args:
        tokenizer: of the model.
        end_token_ids: never drafted, since nothing follows them that the model should be asked about.
        ngrams: of the training programs, where the bundle has them.
        neighbours: the training sentences, where the bundle has them.
        enabled: sources to use.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_token_ids: Iterable[int],
        *,
        ngrams: NgramIndex | None = None,
        neighbours: NeighbourIndex | None = None,
        enabled: Iterable[Source] = SOURCES,
    ) -> None:
        self.tokenizer = tokenizer
        self.end_token_ids = frozenset(end_token_ids)
        self.enabled = frozenset(enabled)
        self.ngrams = ngrams if "ngrams" in self.enabled else None
        self.neighbours = neighbours if "neighbours" in self.enabled else None
        self.acceptance: dict[Source, Acceptance] = {source: Acceptance() for source in SOURCES}

    @classmethod
    def from_bundle(cls, folder: Path, tokenizer: Tokenizer, end_token_ids: Iterable[int]) -> DraftSources:
        """With the indices that a bundle folder holds.

        Raises:
            BundleError: one of them is malformed, or made for another tokenizer.
        """
        ngrams, neighbours = folder / ngram_files.FILE_NAME, folder / neighbour_files.FILE_NAME
        size = tokenizer.vocab_size
        return cls(
            tokenizer,
            end_token_ids,
            ngrams=NgramIndex.from_file(ngrams, size) if ngrams.exists() else None,
            neighbours=NeighbourIndex.from_file(neighbours, size) if neighbours.exists() else None,
        )

    def only(self, enabled: Iterable[Source]) -> DraftSources:
        """Some of the sources, with nothing learned yet."""
        return DraftSources(
            self.tokenizer, self.end_token_ids, ngrams=self.ngrams, neighbours=self.neighbours, enabled=enabled
        )

    def start(self, sentence: str) -> Drafter:
        """A drafter for one request."""
        retrieved = copies = None
        if self.neighbours:
            fit = Analogy(self.tokenizer, sentence).fit
            found = self.neighbours.nearest(self.tokenizer.encode_plain(sentence), NUM_NEIGHBOURS, fit)
            retrieved = Retrieved(found, min(self.end_token_ids))
        if "copies" in self.enabled:
            copies = Copies(self.tokenizer, sentence)
        return Drafter(self, retrieved, copies)


class Drafter:
    """Drafts for one request.

    Args:
        sources: what requests share.
        retrieved: programs of sentences like this one.
        copies: words of this sentence.
    """

    def __init__(self, sources: DraftSources, retrieved: Retrieved | None, copies: Copies | None) -> None:
        self._sources = sources
        self._acceptance = sources.acceptance
        self._ngrams = sources.ngrams
        self._retrieved = retrieved
        self._copies = copies

    def propose(self, token_ids: Sequence[int], matcher: Matcher | None, max_tokens: int) -> Draft:
        """Guess what comes next.

        Args:
            token_ids: the program so far.
            matcher: where the program stands in the grammar; it stays there. None decodes without a grammar.
            max_tokens: most tokens to guess.

        Raises:
            MatcherError: the grammar engine failed.
        """
        draft, context = Draft(), list(token_ids)
        if self._retrieved:
            self._retrieved.seek(context)
        guess = self._guess(context)
        if matcher and "forced" in self._sources.enabled and (guess is None or guess[1] < _SURE):
            for token_id in matcher.forced_tokens()[:max_tokens]:
                self._append(draft, context, (token_id, _CERTAIN, "forced"))
            guess = self._guess(context) if draft.token_ids else guess
        end = self._extend(draft, context, guess, max_tokens)
        return self._legal(draft, end, token_ids, matcher, max_tokens) if matcher else draft

    def _extend(self, draft: Draft, context: list[int], guess: _Guess | None, max_tokens: int) -> list[int]:
        """Append guesses; the end token, if it is what was guessed last, is returned."""
        reach, end_token_ids = math.prod(draft.probabilities), self._sources.end_token_ids
        while guess and reach > _HOPELESS and len(draft.token_ids) < max_tokens:
            if guess[0] in end_token_ids:
                return [guess[0]]
            self._append(draft, context, guess)
            reach *= guess[1]
            guess = self._guess(context)
        return []

    def _legal(
        self, draft: Draft, end: list[int], token_ids: Sequence[int], matcher: Matcher, max_tokens: int
    ) -> Draft:
        """The draft with another guess where a token is not legal; like programs often differ in how they go on there.

        Args:
            draft: of any tokens.
            end: the end token, where it was guessed behind them.
            token_ids: the program so far.
            matcher: behind it.
            max_tokens: most tokens to guess.
        """
        refused: dict[int, set[int]] = {}  # by where they stood
        for num_left in reversed(range(_MAX_REPAIRS + 1)):
            guessed = draft.token_ids + end
            num_legal = matcher.count_accepted(guessed) if guessed else 0
            if num_legal == len(guessed):
                break
            draft = draft.shortened(num_legal)
            if not num_left:
                break
            refused.setdefault(num_legal, set()).add(guessed[num_legal])
            context = [*token_ids, *draft.token_ids]
            guess = self._guess(context, refused[num_legal])
            end = self._extend(draft, context, guess, max_tokens)
        return draft

    def learn(self, draft: Draft, num_accepted: int) -> None:
        """Take what the model said into account.

        Args:
            draft: what was proposed, or the beginning of it that was checked.
            num_accepted: tokens of it that the model agreed with; the one after them was refused.
        """
        for n, (probability, source) in enumerate(zip(draft.probabilities, draft.sources, strict=True)):
            if n > num_accepted:
                break
            self._sources.acceptance[source].learn(probability, n < num_accepted)

    def _append(self, draft: Draft, context: list[int], guess: _Guess) -> None:
        token_id, probability, source = guess
        draft.token_ids.append(token_id)
        draft.probabilities.append(probability)
        draft.sources.append(source)
        context.append(token_id)
        if self._retrieved:
            self._retrieved.advance(token_id)

    def _guess(self, context: list[int], refused: Collection[int] = ()) -> _Guess | None:
        """The likeliest next token by what the sources say; once one is sure, no other is asked.

        Args:
            context: the program up to there; where tokens are refused, the neighbours are sought again.
            refused: tokens that cannot come next.
        """
        found: _Guess | None = None
        order = length = 0
        if refused and self._retrieved:
            self._retrieved.seek(context, refused)
        if self._retrieved and (voted := self._retrieved.guess()):
            token_id, share, length = voted
            probability = self._acceptance["neighbours"].corrected(share)
            found = token_id, probability, "neighbours"
            if probability >= _SURE and length >= _LONG:
                return found
        if self._ngrams and (seen := self._ngrams.predict(context, refused)):
            token_id, count, total, order = seen
            if not found or length + 1 < order:
                found = token_id, self._acceptance["ngrams"].corrected(count / (total + _DOUBT)), "ngrams"
        if self._copies and not (found and found[1] >= _SURE) and (copied := self._copies.guess(context, refused)):
            chance = self._acceptance["copies"].corrected(copied[1])
            if not found or chance > found[1]:
                found = copied[0], chance, "copies"
        return found
