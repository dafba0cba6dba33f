"""How a wrong program differs from its target, by the tokens of the grammar's lexer; knows no language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.refusals import is_refusal

Tokens = list[tuple[str, str]]
Piece = tuple[str, bool]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def miss_class(grammar: Grammar, target: str, prediction: str, *, finish_reason: str | None) -> str:
    """Why ``prediction`` is not ``target``.

    Returns:
        One of: ``error`` (no answer), ``at max_tokens`` (that limit ended it), ``does not parse``, ``target does not
        parse``, ``refused`` (and should not have been), ``not refused``, ``same tokens, other spacing``, ``wrong value
        of TERMINAL`` (same terminals in the same order), ``wrong order`` (same tokens), ``wrong keyword`` (fixed
        strings differ, and besides them at most values), ``missing part``, ``extra part``, ``other structure``.
    """
    if finish_reason is None:
        return "error"
    if finish_reason != "stop":
        return "at max_tokens"
    try:
        wanted = grammar.tokens(target)
    except GrammarError:
        return "target does not parse"
    try:
        got = grammar.tokens(prediction)
    except GrammarError:
        return "does not parse"
    if is_refusal(grammar, target) != (refused := is_refusal(grammar, prediction)):
        return "refused" if refused else "not refused"
    return _compare(wanted, got)


def _compare(wanted: Tokens, got: Tokens) -> str:
    if wanted == got:
        return "same tokens, other spacing"
    different = [(a, b) for a, b in zip(wanted, got, strict=False) if a != b]
    if [kind for kind, _ in wanted] == [kind for kind, _ in got]:
        return f"wrong value of {', '.join(sorted({kind for (kind, _), _ in different}))}"
    counted, found = Counter(wanted), Counter(got)
    if counted == found:
        return "wrong order"
    if len(wanted) == len(got) and all(a[0] == b[0] or (_is_keyword(a) and _is_keyword(b)) for a, b in different):
        return "wrong keyword"
    if found < counted:
        return "missing part"
    if counted < found:
        return "extra part"
    return "other structure"


def count_classes(classes: Iterable[str]) -> list[tuple[str, int]]:
    """Classes with how often they occur, the commonest first, equal ones by name."""
    return sorted(Counter(classes).items(), key=lambda item: (-item[1], item[0]))


def difference(target: str, prediction: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces (text, is shared): the pieces of one side joined are that side, to the character."""
    wanted, got = _WORDS.findall(target), _WORDS.findall(prediction)
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, a, b, c, d in SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
        if a < b:
            left.append(("".join(wanted[a:b]), kind == "equal"))
        if c < d:
            right.append(("".join(got[c:d]), kind == "equal"))
    return left, right


def _is_keyword(token: tuple[str, str]) -> bool:
    """Whether the terminal spells one fixed string; :meth:`Grammar.tokens` names it by that string in quotes."""
    return token[0].startswith('"')
