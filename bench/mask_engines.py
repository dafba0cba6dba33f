"""The engines of :mod:`edgedsl.bench.masks`, each moved along a program one token at a time.

xgrammar is no dependency: it is imported by name, in the interpreter that ``--xgrammar-python`` names.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import MatcherError, NoTokenError, first_line
from edgedsl.grammar import BudgetGuard, Grammar
from edgedsl.grammar.authoring.language import open_language
from edgedsl.grammar.legal_tokens import Logits
from edgedsl.machine import version
from edgedsl.runtime.sampling import SamplingParams, sample
from edgedsl.tokenizer import Tokenizer

SPARE = 128  # tokens of edgedsl's budget above what a program has, so that none is steered to its end
WARM = 'start: "a"'
_PEAK = np.float32(1e9)  # the logit of a token that the model wants
_GREEDY = SamplingParams()
_RNG = np.random.default_rng(0)  # not drawn from at temperature 0


@dataclass(frozen=True)
class Step:
    """What came of one token of a program.

    Attributes:
        seconds: that a decoder would have waited for.
        is_allowed: whether the program may go on with the token.
        drawn: the token that random logits would have led to; None where none was drawn.
    """

    seconds: float
    is_allowed: bool
    drawn: int | None = None


class MaskEngine(ABC):
    """One engine with one tokenizer, made ready for one grammar, and moved along one program at a time.

    Attributes:
        tokenizer_s: that the tokenizer took to be made ready; None where each compilation does it anew.
    """

    package = ""
    tokenizer_s: float | None = None

    def __init__(self, tokenizer: Path, end_token_id: int) -> None:
        self.end_token_id = end_token_id
        self.tokenizer = Tokenizer.from_file(tokenizer)

    @property
    def version(self) -> str:
        """Of the engine."""
        return version(self.package) or "unknown"

    @abstractmethod
    def compile(self, source: str) -> None:
        """Make a grammar ready.

        Args:
            source: of the kind that the engine reads.

        Raises:
            EdgeDSLError: the engine does not take it.
            ValueError: the same.
        """

    @abstractmethod
    def begin(self, num_tokens: int) -> None:
        """Start a program of so many tokens."""

    @abstractmethod
    def step(self, token_id: int, logits: Logits) -> Step:
        """Mask, and consume the token if the mask allows it.

        Args:
            token_id: next of the program, or the end token.
            logits: [vocab], random and finite; may be changed.

        Raises:
            GenerationError: the engine failed.
        """


class EdgedslFull(MaskEngine):
    """Matcher and budget guard as :mod:`edgedsl.runtime.engine` uses them where every step needs the mask."""

    package = "edgedsl"

    def __init__(self, tokenizer: Path, end_token_id: int) -> None:
        super().__init__(tokenizer, end_token_id)
        self._compile(Grammar(WARM))

    def compile(self, source: str) -> None:
        """``source`` is the name or path of a grammar; its Lark parser and the tokenizer's part are made too."""
        self._compile(open_language(source).grammar())

    def _compile(self, grammar: Grammar) -> None:
        self._compiled = grammar.compile(self.tokenizer, [self.end_token_id])
        _ = self._compiled.planner  # as the engine does: worked out before the first request

    def begin(self, num_tokens: int) -> None:
        """A matcher and its guard."""
        self._matcher = self._compiled.matcher()
        self._guard = BudgetGuard(self._compiled, self._matcher)
        self._tokens_left = num_tokens + SPARE

    def step(self, token_id: int, logits: Logits) -> Step:
        """Choose from the masked logits; what was chosen is set aside, and the program's token is consumed."""
        if self._is_over(token_id):
            return self._end()
        started = time.perf_counter()
        drawn = self._guard.choose(logits, _largest, self._tokens_left)
        seconds = time.perf_counter() - started
        logits[token_id] = _PEAK
        if not self._chooses(token_id, logits):
            return Step(seconds, is_allowed=False, drawn=drawn)
        return Step(seconds + self._consume(token_id), is_allowed=True, drawn=drawn)

    def _is_over(self, token_id: int) -> bool:
        """Whether the engine would end here without another choice; counts the token."""
        self._tokens_left -= 1
        return token_id == self.end_token_id and self._guard.is_over()

    def _end(self) -> Step:
        """What an engine does with a whole program, which may be the first that llguidance hears of its tokens."""
        started = time.perf_counter()
        is_whole = self._guard.is_whole()
        return Step(time.perf_counter() - started, is_allowed=is_whole)

    def _chooses(self, token_id: int, logits: Logits) -> bool:
        try:
            return self._guard.choose(logits, _largest, self._tokens_left) == token_id
        except NoTokenError:
            return False

    def _consume(self, token_id: int) -> float:
        started = time.perf_counter()
        if token_id == self.end_token_id:
            self._guard.is_whole()
        else:
            self._guard.consume(token_id)
            self._guard.is_over()
        return time.perf_counter() - started


class EdgedslGreedy(EdgedslFull):
    """The same at temperature 0 with a model that wants the program: its token is asked for, no mask is made."""

    def step(self, token_id: int, logits: Logits) -> Step:
        """Choose, and consume what was chosen."""
        if self._is_over(token_id):
            return self._end()
        logits[token_id] = _PEAK
        started = time.perf_counter()
        is_allowed = self._guard.permits(int(logits.argmax()), self._tokens_left)
        seconds = time.perf_counter() - started
        return Step(seconds + self._consume(token_id) if is_allowed else seconds, is_allowed)


class Llguidance(MaskEngine):
    """llguidance alone: the mask is computed, not applied."""

    package = "llguidance"

    def __init__(self, tokenizer: Path, end_token_id: int) -> None:
        super().__init__(tokenizer, end_token_id)
        started = time.perf_counter()
        self._llg_tokenizer = llguidance.LLTokenizer(self.tokenizer.json_text, eos_token=[end_token_id])
        self.tokenizer_s = time.perf_counter() - started
        self._bitmask = np.zeros((self.tokenizer.vocab_size + 31) // 32, np.int32)
        self._address, self._num_bytes = self._bitmask.ctypes.data, self._bitmask.nbytes
        self.compile(WARM)

    def compile(self, source: str) -> None:
        """``source`` is Lark text."""
        compiled = llguidance.grammar_from("lark", source)
        limits = llguidance.LLParserLimits(verbose_errors=False)  # error texts would quote the tokens so far
        self._first = llguidance.LLMatcher(self._llg_tokenizer, compiled, log_level=0, limits=limits)
        _check(self._first)

    def begin(self, num_tokens: int) -> None:
        """A copy of the first matcher, which is quicker than a new one."""
        self._matcher = self._first.deep_copy()

    def step(self, token_id: int, logits: Logits) -> Step:
        """Mask and consume."""
        started = time.perf_counter()
        self._matcher.unsafe_compute_mask_ptr(self._address, self._num_bytes)
        seconds = time.perf_counter() - started
        _check(self._matcher)
        allowed = _unpacked(self._bitmask, len(logits))
        if allowed[token_id] and token_id != self.end_token_id:
            started = time.perf_counter()
            self._matcher.consume_token(token_id)
            seconds += time.perf_counter() - started
            _check(self._matcher)
        return Step(seconds, bool(allowed[token_id]), _drawn(logits, allowed))


class Outlines(Llguidance):
    """Outlines' logits processor for a grammar as ``CompiledGrammar.outlines_processor`` makes it: numpy, batch 1."""

    package = "outlines"

    def compile(self, source: str) -> None:
        """``source`` is Lark text."""
        from outlines.backends.llguidance import LLGuidanceLogitsProcessor

        compiled = llguidance.grammar_from("lark", source)
        self._processor: Any = LLGuidanceLogitsProcessor(compiled, self._llg_tokenizer, "numpy")

    def begin(self, num_tokens: int) -> None:
        """As Outlines does for each generation; the matcher is made in the first step."""
        self._processor.reset()
        self._token_ids = np.zeros((1, num_tokens + 2), np.int64)
        self._length = 1  # a prompt of one token

    def step(self, token_id: int, logits: Logits) -> Step:
        """Mask; the processor consumes the token before in the same call, and applies the mask."""
        row = logits[None]  # [1, vocab]
        started = time.perf_counter()
        masked = self._processor(self._token_ids[:, : self._length], row)[0]
        seconds = time.perf_counter() - started
        _check(self._processor.ll_matchers[0])
        self._token_ids[0, self._length] = token_id
        self._length += 1
        allowed = np.isfinite(masked)
        return Step(seconds, bool(allowed[token_id]), _drawn(masked, allowed))


class Xgrammar(MaskEngine):
    """xgrammar alone, one thread: the mask is computed, not applied."""

    package = "xgrammar"

    def __init__(self, tokenizer: Path, end_token_id: int) -> None:
        self._xgrammar: Any = importlib.import_module("xgrammar")
        from transformers import PreTrainedTokenizerFast

        super().__init__(tokenizer, end_token_id)
        size = self.tokenizer.vocab_size
        hf = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
        started = time.perf_counter()
        info = self._xgrammar.TokenizerInfo.from_huggingface(hf, vocab_size=size, stop_token_ids=[end_token_id])
        self.tokenizer_s = time.perf_counter() - started
        self._compiler = self._xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._mask = self._xgrammar.allocate_token_bitmask(1, size)
        self._bitmask = self._mask.numpy()[0]  # the same memory
        self.compile('root ::= "a"')

    def compile(self, source: str) -> None:
        """``source`` is GBNF."""
        try:
            self._compiled = self._compiler.compile_grammar(self._xgrammar.Grammar.from_ebnf(source))
        except RuntimeError as exc:
            raise MatcherError(f"xgrammar: {first_line(exc)}") from exc

    def begin(self, num_tokens: int) -> None:
        """A matcher of the compiled grammar."""
        self._matcher = self._xgrammar.GrammarMatcher(self._compiled)

    def step(self, token_id: int, logits: Logits) -> Step:
        """Mask and consume."""
        started = time.perf_counter()
        self._matcher.fill_next_token_bitmask(self._mask)
        seconds = time.perf_counter() - started
        allowed = _unpacked(self._bitmask, len(logits))
        if allowed[token_id] and token_id != self.end_token_id:
            started = time.perf_counter()
            is_accepted = self._matcher.accept_token(token_id)
            seconds += time.perf_counter() - started
            if not is_accepted:
                raise MatcherError(f"xgrammar: token {token_id} was allowed and then refused")
        return Step(seconds, bool(allowed[token_id]), _drawn(logits, allowed))


def _largest(values: Logits) -> int:
    return sample(values, _GREEDY, _RNG)


def _unpacked(bitmask: NDArray[np.int32], num: int) -> NDArray[np.bool_]:
    """Whether each token [num] is allowed."""
    return np.unpackbits(bitmask.view(np.uint8), count=num, bitorder="little").view(np.bool_)


def _drawn(logits: Logits, allowed: NDArray[np.bool_]) -> int | None:
    return int(np.where(allowed, logits, -np.inf).argmax()) if allowed.any() else None


def _check(matcher: Any) -> None:
    if matcher.is_error():
        raise MatcherError(f"llguidance: {matcher.get_error().splitlines()[0]}")
