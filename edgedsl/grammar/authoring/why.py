"""A text token by token: what was allowed, and where and why it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgedsl.errors import GenerationError, GrammarError
from edgedsl.grammar.authoring.refusal import expected_terminals, find_refusal, is_unicode, shorten
from edgedsl.grammar.authoring.structure import Structure
from edgedsl.grammar.authoring.token_set import TokenSet
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.grammar import Grammar
from edgedsl.grammar.matcher import Matcher
from edgedsl.grammar.position import Position

_EXAMPLES = 5


@dataclass(frozen=True)
class Step:
    """One token of the text.

    Attributes:
        token: its text.
        num_allowed: tokens that could come here, the end token too.
        expected: terminals that could come here; empty where Lark had given up before.
        examples: texts of a few of the tokens that could come, shortest first.
        is_allowed: whether this one could.
    """

    token: str
    num_allowed: int
    expected: tuple[str, ...]
    examples: tuple[str, ...]
    is_allowed: bool


@dataclass(frozen=True)
class Explanation:
    """The steps up to the token that is refused, and the verdict on the whole text."""

    steps: tuple[Step, ...]
    verdict: str


def explain(grammar: Grammar, tokens: TokenSet, text: str) -> Explanation:
    """Walk the text through the grammar.

    Raises:
        GrammarError: the grammar does not compile with these tokens, or the text is not valid Unicode.
    """
    if not is_unicode(text):
        raise GrammarError("the text is not valid Unicode", hint="give it in UTF-8")
    walk = _Walk(grammar, tokens)
    steps = tuple(walk.steps(tokens.tokenizer.encode_plain(text)))
    return Explanation(steps, walk.verdict(text, steps))


class _Walk:
    def __init__(self, grammar: Grammar, tokens: TokenSet) -> None:
        self._grammar = grammar
        self._compiled: CompiledGrammar = tokens.compile(grammar.with_written_scopes())
        self._automaton = self._compiled.planner.automaton
        self._token_bytes = self._compiled.planner.vocabulary.token_bytes
        self._structure = Structure(grammar.source, grammar.name)
        self._end = self._compiled.end_token_ids
        self._is_complete = False

    def steps(self, token_ids: list[int]) -> Iterator[Step]:
        """One for each token, up to the first that is refused."""
        matcher = self._compiled.matcher()
        position: Position | None = self._automaton.start()
        for token_id in token_ids:
            step = self._step(matcher, position, token_id)
            yield step
            if not step.is_allowed:
                return
            matcher.consume(token_id)
            position = position and self._automaton.advance(position, self._token_bytes[token_id])
        self._is_complete = matcher.is_accepting()

    def verdict(self, text: str, steps: tuple[Step, ...]) -> str:
        """What both engines make of the text."""
        refusal = find_refusal(self._automaton, text, self._structure.label)
        is_refused = bool(steps) and not steps[-1].is_allowed
        if self._grammar.accepts(text):
            return "accepted: a whole program" if self._is_complete else "Lark parses it, the decoding engine does not"
        if refusal is None:
            return "the decoding engine allows it, Lark does not parse it"
        if refusal.is_incomplete or is_refused:
            return f"{'incomplete' if refusal.is_incomplete else 'refused'}: {refusal}"
        return f"the decoding engine allows it, Lark refuses it: {refusal}"

    def _step(self, matcher: Matcher, position: Position | None, token_id: int) -> Step:
        bitmask = np.zeros(self._compiled.bitmask_size, np.int32)
        matcher.fill_bitmask(bitmask)
        allowed = np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist()
        expected = expected_terminals(self._automaton, position, self._structure.label) if position else ()
        texts = sorted((self._text(i) for i in allowed[:4096] if i not in self._end), key=lambda t: (len(t), t))
        return Step(self._text(token_id), len(allowed), expected, tuple(texts[:_EXAMPLES]), _allows(matcher, token_id))

    def _text(self, token_id: int) -> str:
        return self._token_bytes[token_id].decode(errors="replace")


def lines(explanation: Explanation) -> Iterator[str]:
    """The explanation for a reader: one line a token, then the verdict."""
    for number, step in enumerate(explanation.steps, 1):
        mark = " " if step.is_allowed else "x"
        examples = " ".join(map(repr, step.examples))
        allowed = f"of {step.num_allowed} allowed: {shorten(step.expected, 4)}"
        yield f"{mark} {number:3} {step.token!r:14} {allowed}; as {examples}"
    yield explanation.verdict


def _allows(matcher: Matcher, token_id: int) -> bool:
    try:
        return matcher.allows(token_id)
    except GenerationError:
        return False
