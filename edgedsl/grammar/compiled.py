"""A grammar over the tokens of one model."""

from __future__ import annotations

from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from edgedsl.catalogue import Catalogue
from edgedsl.errors import GrammarError, RequestError
from edgedsl.grammar import lexemes
from edgedsl.grammar.grammar import START, Grammar
from edgedsl.grammar.legal_tokens import LegalTokenCache
from edgedsl.grammar.matcher import Matcher, MatcherFactory
from edgedsl.grammar.planner import Planner
from edgedsl.grammar.position import Automaton
from edgedsl.grammar.reachable import reachable_tokens
from edgedsl.grammar.spans import Spans
from edgedsl.grammar.subset import Subset
from edgedsl.grammar.vocabulary import Vocabulary
from edgedsl.tokenizer import Tokenizer

_MAX_RESTRICTED = 16
_MAX_TEXTS = 4096
_PROBES = ("a", " a", "b c", "1", "(")
# llguidance knows beforehand which tokens are of these characters, and so legal in most strings. It has four such sets
# by default; this one does as much for the languages here, and takes a quarter of the time to prepare.
_FREE_TEXT = r"[^\"\\\x00-\x1F\x7F]+"


class _EngineTokens:
    """A tokenizer as llguidance asks for it: from the tokenizer.json it would read it a second time.

    Args:
        tokenizer: of the model.
        end_token_ids: that end a program.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_ids: list[int]) -> None:
        self.tokens = tokenizer.token_bytes
        self.special_token_ids = sorted(tokenizer.special_token_ids)
        self.eos_token_id = end_token_ids[0]
        self.bos_token_id = None
        self.is_tokenizer_wrapper = True
        # Asked with every mask for the text that is forced there; a language has few of them.
        self._encode = lru_cache(_MAX_TEXTS)(tokenizer.encode_plain)

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _engine_tokenizer(tokenizer: Tokenizer, end_token_ids: list[int]) -> llguidance.LLTokenizer:
    """A tokenizer that puts a blank before each text is read by llguidance itself, which knows to take it away."""
    source = _EngineTokens(tokenizer, end_token_ids) if _keeps_bytes(tokenizer) else tokenizer.json_text
    return llguidance.LLTokenizer(source, eos_token=end_token_ids, slices=[_FREE_TEXT])


def _keeps_bytes(tokenizer: Tokenizer) -> bool:
    spelled = (b"".join(tokenizer.token_bytes[i] for i in tokenizer.encode_plain(text)) for text in _PROBES)
    return list(spelled) == [text.encode() for text in _PROBES]


class CompiledGrammar:
    """A grammar over the tokens of one tokenizer. Immutable; matchers are made from it. See :meth:`Grammar.compile`."""

    def __init__(
        self, grammar: Grammar, tokenizer: Tokenizer, end_token_ids: list[int], lexemes_path: Path | None = None
    ) -> None:
        self.grammar = grammar
        self.vocab_size = tokenizer.vocab_size
        self.end_token_ids = frozenset(end_token_ids)
        self.legal_tokens = LegalTokenCache(self.vocab_size)
        self._lexemes = lexemes.read(lexemes_path, grammar.source, tokenizer.json_text) if lexemes_path else None
        self._special_token_ids = tokenizer.special_token_ids
        self._token_bytes = tokenizer.token_bytes
        if len(self._token_bytes) != self.vocab_size:
            raise GrammarError(
                f"the constraint sees {len(self._token_bytes)} tokens, the tokenizer has {self.vocab_size}"
            )
        self._llg_tokenizer = _engine_tokenizer(tokenizer, end_token_ids)
        self.matchers = MatcherFactory(self._llg_tokenizer, grammar)
        self._restricted: dict[tuple[Subset | Spans, ...], CompiledGrammar] = {}
        self.matcher().fill_bitmask(np.empty(self.bitmask_size, np.int32))  # warm: the first request pays nothing

    @cached_property
    def planner(self) -> Planner:
        """Knows how a program may end soonest; worked out when first asked for.

        Raises:
            GrammarError: a terminal that no finite automaton can match, or no program can be spelled.
        """
        special = self._special_token_ids
        token_bytes = [b"" if i in special else data for i, data in enumerate(self._token_bytes)]
        automaton = Automaton(self.grammar.lark, START, self.grammar.catalogue)
        return Planner(automaton, Vocabulary(token_bytes), self._is_program, self._lexemes)

    @cached_property
    def reachable(self) -> NDArray[np.int64]:
        """Token ids, ascending, that a program may hold or end with: those of a part of the catalogue are among them.

        Raises:
            GrammarError: see :attr:`planner`.
        """
        found = reachable_tokens(self.planner.vocabulary.token_bytes, self.grammar.lark.terminals)
        return np.union1d(found, sorted(self.end_token_ids)).astype(np.int64)

    def restrict(self, *parts: Subset | Spans) -> CompiledGrammar:
        """The same grammar over a part of its names; nothing is compiled again, and the last few subsets are kept.

        llguidance goes on to read the whole catalogue: what it alone allows, the budget guard refuses, and the re-parse
        knows the part only.

        Args:
            parts: subsets of the catalogue, each a part of what the one before it leaves, and spans of a sentence.

        Raises:
            RequestError: an unknown name, no catalogue, or no program is left.
        """
        if any(isinstance(part, Spans) for part in parts):  # no other sentence has these
            return self._restrict(parts)
        if parts not in self._restricted:
            self._restricted[parts] = self._restrict(parts)
            while len(self._restricted) > _MAX_RESTRICTED:
                del self._restricted[next(iter(self._restricted))]
        self._restricted[parts] = self._restricted.pop(parts)  # now the last to go
        return self._restricted[parts]

    def _restrict(self, parts: tuple[Subset | Spans, ...]) -> CompiledGrammar:
        catalogue = whole = self.grammar.catalogue or Catalogue({})
        for part in parts:
            if isinstance(part, Spans):
                part.check(whole, self.grammar.lark)
            catalogue = part.of(catalogue, self.grammar.lark)
        restricted = copy(self)
        restricted.grammar = self.grammar.restrict(catalogue)
        restricted._restricted = {}
        try:
            restricted.planner = self.planner.restrict(self.planner.automaton.restrict(catalogue), self._is_program)
        except GrammarError as exc:
            raise RequestError(
                "no program can be written with the names that are left",
                hint="allow more of the catalogue, or texts that are not in the sentence",
            ) from exc
        return restricted

    def _is_program(self, token_ids: list[int]) -> bool:
        return self.matcher().accepts([*token_ids, min(self.end_token_ids)])

    def check_budget(self, max_tokens: int) -> None:
        """Refuse a budget that no program fits into.

        Raises:
            RequestError: the message names the minimum.
        """
        if not self.planner.fits(max_tokens):
            least = self.planner.min_tokens
            raise RequestError(
                f"max_tokens is {max_tokens}, the shortest program of '{self.grammar.name}' has {least} tokens",
                hint=f"give max_tokens at least {least}",
            )

    @property
    def bitmask_size(self) -> int:
        """Words (int32) of a bitmask."""
        return (self.vocab_size + 31) // 32

    def matcher(self) -> Matcher:
        """A matcher at the start of a program."""
        return self.matchers.new()

    def outlines_processor(self) -> Any:
        """Outlines' own logits processor (numpy, batch 1), for use inside Outlines and to check ours against it."""
        from outlines.backends.llguidance import LLGuidanceLogitsProcessor

        source = self.grammar.with_written_scopes().engine_source
        return LLGuidanceLogitsProcessor(source, self._llg_tokenizer, "numpy")
