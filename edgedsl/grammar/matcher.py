"""The grammar, once per model, and the matcher, once per request.

Two engines read the same bound Lark text: llguidance (the engine behind Outlines' CFG type) says which token may come
next, and Lark's LALR parser, which shares no code with it, re-parses every finished program.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
from lark import Lark
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr
from numpy.typing import NDArray

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import EngineLimitError, GrammarError, MatcherError, RequestError
from edgedsl.grammar.legal_tokens import LegalTokenCache
from edgedsl.grammar.planner import Planner
from edgedsl.grammar.position import Automaton
from edgedsl.grammar.scopes import violation
from edgedsl.grammar.spans import Spans
from edgedsl.grammar.specialise import specialise
from edgedsl.grammar.subset import Subset
from edgedsl.grammar.vocabulary import Vocabulary
from edgedsl.tokenizer import Tokenizer

START = "start"
MAX_WRITTEN_SCOPES = 1000
_MAX_RESTRICTED = 16
_LIMITS = ("TooComplex", "too many", "Too many", "fuel")  # what llguidance says where it stops at one of its limits


class Grammar:
    """A Lark grammar with its catalogue bound, checked to be LALR(1) with the start rule ``start``."""

    def __init__(self, source: str, *, name: str = "grammar", catalogue: Catalogue | None = None) -> None:
        self.source = source
        self.name = name
        self.catalogue = catalogue
        try:
            self.lark = Lark(source, parser="lalr", lexer="contextual", start=START)
        except (LarkError, RecursionError, OSError) as exc:
            raise lark_failure(exc, name) from exc
        try:
            self.decoding_source = self._decoding_source()
            self._compiled: str = llguidance.grammar_from("lark", self.decoding_source)
            error = llguidance.LLMatcher.validate_grammar(self._compiled, None)
        except ValueError as exc:
            error = str(exc)
        if error:
            raise GrammarError(
                f"grammar '{name}' does not compile for decoding: {error.splitlines()[0]}",
                hint="write terminals without look-around, back-references, atomic groups, priorities and templates",
            )

    def _decoding_source(self) -> str:
        """What llguidance reads: the same language, with the catalogue's scopes written out as rules.

        A catalogue of thousands of functions would be more rules than it takes (65,000 symbols): there it reads the
        names without their scopes, and the budget guard and the re-parse, which know them, hold them alone.
        """
        if self.catalogue is None or not self.catalogue.is_scoped or self.catalogue.num_scopes > MAX_WRITTEN_SCOPES:
            return self.source
        return specialise(self.source, self.lark, self.catalogue, START)

    @classmethod
    def from_files(cls, lark_path: Path, catalogue_path: Path | None = None) -> Grammar:
        """Read a grammar and bind its catalogue.

        Raises:
            GrammarError: missing or malformed file, or a grammar that is not LALR(1).
        """
        try:
            text = lark_path.read_text(encoding="utf-8")
        except FileNotFoundError as exc:
            raise GrammarError(
                f"grammar '{lark_path}' does not exist", hint="set [project] grammar in edgedsl.toml"
            ) from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise GrammarError(f"grammar '{lark_path}' cannot be read: {exc}") from exc
        catalogue = Catalogue.from_file(catalogue_path) if catalogue_path else None
        return cls(bind(text, catalogue), name=lark_path.name, catalogue=catalogue)

    def restrict(self, catalogue: Catalogue) -> Grammar:
        """The grammar of the programs that use only a part of the catalogue; it shares all that was compiled."""
        restricted = copy(self)
        restricted.catalogue = catalogue
        return restricted

    def parse(self, text: str) -> Any:
        """The Lark tree of a program.

        Raises:
            GrammarError: the text is not a program of the language; line, column and the text around it are named.
        """
        try:
            tree = self.lark.parse(text)
        except UnexpectedInput as exc:
            raise GrammarError(f"'{text[:80]}' does not parse under '{self.name}': {_where(text, exc)}") from exc
        found = violation(tree, self.catalogue) if self.catalogue else None
        if found:
            terminal, name, owner = found
            who = f"'{owner}' has" if owner else "there is"
            raise GrammarError(f"'{text[:80]}' does not fit the catalogue: {who} no {terminal} '{name}' here")
        return tree

    def accepts(self, text: str) -> bool:
        """Whether the text is a whole program."""
        try:
            self.parse(text)
        except GrammarError:
            return False
        return True

    def tokens(self, text: str) -> list[tuple[str, str]]:
        """Terminal and text of each lexer token of a program, without what the grammar ignores.

        A terminal that spells one fixed string is named by that string in double quotes: ``("\"set\"", "set")``.

        Raises:
            GrammarError: the text is not a program of the language.
        """
        literals = {t.name: f'"{t.pattern.value}"' for t in self.lark.terminals if isinstance(t.pattern, PatternStr)}
        try:
            parser = self.lark.parse_interactive(text)
            # Parsing along, not lexing alone: the contextual lexer needs the parser's state to tell terminals apart.
            tokens = list(parser.iter_parse())
            parser.feed_eof(tokens[-1] if tokens else None)  # type: ignore[no-untyped-call]
        except UnexpectedInput as exc:
            raise GrammarError(f"'{text[:80]}' does not parse under '{self.name}': {_where(text, exc)}") from exc
        return [(literals.get(token.type, token.type), str(token)) for token in tokens]

    def compile(self, tokenizer: Tokenizer, end_token_ids: list[int]) -> CompiledGrammar:
        """Bind the grammar to a tokenizer.

        Args:
            tokenizer: of the model that will be decoded.
            end_token_ids: tokens that the mask allows exactly where a program may end.
        """
        return CompiledGrammar(self, tokenizer, end_token_ids)


class CompiledGrammar:
    """A grammar over the tokens of one tokenizer. Immutable; matchers are made from it."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer, end_token_ids: list[int]) -> None:
        self.grammar = grammar
        self.vocab_size = tokenizer.vocab_size
        self.end_token_ids = frozenset(end_token_ids)
        self.legal_tokens = LegalTokenCache(self.vocab_size)
        self._special_token_ids = tokenizer.special_token_ids
        try:
            self._llg_tokenizer = llguidance.LLTokenizer(tokenizer.json_text, eos_token=list(end_token_ids))
        except ValueError as exc:
            raise GrammarError(f"the tokenizer cannot be used for constrained decoding: {exc}") from exc
        if self._llg_tokenizer.vocab_size != self.vocab_size:
            raise GrammarError(
                f"the constraint sees {self._llg_tokenizer.vocab_size} tokens, the tokenizer has {self.vocab_size}"
            )
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
        decode = self._llg_tokenizer.decode_bytes
        token_bytes = [b"" if i in special else decode([i]) for i in range(self.vocab_size)]
        automaton = Automaton(self.grammar.lark, START, self.grammar.catalogue)
        return Planner(automaton, Vocabulary(token_bytes), self._is_program)

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
        least = self.planner.min_tokens
        if max_tokens < least:
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

        return LLGuidanceLogitsProcessor(self.grammar._compiled, self._llg_tokenizer, "numpy")


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
        self._first = llguidance.LLMatcher(self._tokenizer, self._grammar._compiled, log_level=0, limits=self.limits)
        if self._first.is_error():
            reason = self._first.get_error().splitlines()[0]
            raise GrammarError(f"grammar '{self._grammar.name}' does not compile: {reason}")


class Matcher:
    """Where one program stands in the grammar. Asks the engine for its error after every step: it fails closed."""

    def __init__(self, matcher: llguidance.LLMatcher, on_failure: Callable[[], None] = lambda: None) -> None:
        self._matcher = matcher
        self._on_failure = on_failure

    def fill_bitmask(self, bitmask: NDArray[np.int32]) -> None:
        """Write the allowed tokens into ``bitmask`` [ceil(vocab / 32)], bit i of word w for token 32 w + i.

        Raises:
            MatcherError: engine error or limit.
        """
        self._matcher.unsafe_compute_mask_ptr(bitmask.ctypes.data, bitmask.nbytes)
        self._check()

    def allows(self, token_id: int) -> bool:
        """Whether this token may come next."""
        allowed = bool(self._matcher.validate_tokens([token_id]) == 1)
        self._check()
        return allowed

    def accepts(self, token_ids: list[int]) -> bool:
        """Whether all of these tokens may come next, one after the other."""
        accepted = bool(self._matcher.validate_tokens(token_ids) == len(token_ids))
        self._check()
        return accepted

    def count_accepted(self, token_ids: list[int]) -> int:
        """How many of these tokens may come next, one after the other, before the first that may not."""
        count = int(self._matcher.validate_tokens(token_ids))
        self._check()
        return count

    def forced_tokens(self) -> list[int]:
        """Tokens of the string that the grammar leaves no choice about, without what may merge with what follows it."""
        token_ids: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return token_ids

    def consume(self, token_id: int) -> None:
        """Advance by one token.

        Raises:
            MatcherError: the token is not allowed here, or the engine failed.
        """
        if not self._matcher.consume_token(token_id):
            self._check()
            raise MatcherError(f"the grammar does not allow token {token_id} here")
        self._check()

    def is_accepting(self) -> bool:
        """Whether the program may end here."""
        accepting = bool(self._matcher.is_accepting())
        self._check()
        return accepting

    def is_stopped(self) -> bool:
        """Whether nothing can follow any more."""
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


def lark_failure(exc: Exception, name: str) -> GrammarError:
    """What Lark's error means; it opens files that an %import names, and says so with an OSError."""
    if isinstance(exc, OSError):
        return GrammarError(
            f"grammar '{name}' does not compile: '{exc.filename}' cannot be read",
            hint="a grammar is one file: write into it what %import takes from others",
        )
    return GrammarError(
        f"grammar '{name}' does not compile: {_first_lines(exc)}", hint="see the Lark grammar reference"
    )


def _where(text: str, exc: UnexpectedInput) -> str:
    if isinstance(exc, UnexpectedToken) and exc.token.type == "$END":
        return f"it ends too early, at column {len(text) + 1}"
    if isinstance(exc, UnexpectedCharacters | UnexpectedToken):
        return f"line {exc.line}, column {exc.column}: unexpected {text[exc.pos_in_stream or 0 :][:12]!r}"
    return "it ends too early"


def _first_lines(exc: BaseException) -> str:
    return " ".join(line.strip() for line in str(exc).splitlines()[:3]) or type(exc).__name__
