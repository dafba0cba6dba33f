"""A regular expression as a grammar of its own, matched whole.

Python's ``re`` reads it. Taken over is what every dialect means alike; look-around, back-references, word boundaries,
atomic groups and flags are refused.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import Span
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.imported import Imported, imported
from edgedsl.grammar.sources.longest import first_is_longest

_sre: Any = getattr(re, "_parser")  # noqa: B009  the parser behind re.compile; its module has no public name
_op: Any = getattr(re, "_constants")  # noqa: B009
_ASCII: dict[str, list[Span]] = {
    "digit": [(48, 57)],
    "space": [(9, 13), (32, 32)],
    "word": [(48, 57), (65, 90), (95, 95), (97, 122)],
}
_ENDS = (_op.AT_END, _op.AT_END_STRING)
_MAX_SHOWN = 80
_READ = "use literals, classes, groups, alternatives and counts, with ^ and $ at the ends only"
_CLASS_NOTE = r"\d, \w and \s stand for ASCII characters only; . is any character but a line feed"


def to_lark(pattern: str) -> Imported:
    """A grammar of the texts that ``pattern`` matches as a whole (``re.fullmatch`` with ``re.ASCII``).

    Raises:
        GrammarError: not a regular expression, or one with something that is not supported.
    """
    node = parse(pattern)
    if node in (ex.EMPTY, ex.NOTHING):
        raise GrammarError(
            f"the regular expression {_shown(pattern)} matches no text but the empty one",
            hint="write one that matches what a program may say",
        )
    start = "TEXT?" if ex.is_nullable(node) else "TEXT"
    source = f"start: {start}\nTEXT: {ex.terminal(first_is_longest(ex.without_empty(node)))}\n"
    notes = [_CLASS_NOTE] if re.search(r"\.|\\[dwsDWS]", pattern) else []
    return imported("regular expression", source, ["the whole expression -> terminal TEXT"], notes, is_prefix_free=True)


def parse(pattern: str, *, is_search: bool = False) -> ex.Node:
    """The expression as a tree; ``^`` and ``$`` may stand at the ends of an alternative only.

    Args:
        pattern: the expression.
        is_search: a match anywhere in the text counts, as in JSON Schema, not one of the whole text.

    Raises:
        GrammarError: see :func:`to_lark`.
    """
    if len(pattern) > ex.MAX_TEXT:
        raise GrammarError(
            f"a regular expression of {len(pattern)} characters, expected at most {ex.MAX_TEXT}",
            hint="a catalogue holds more: write the terminal with %declare, and the names into catalogue.json",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a later Python will read otherwise is not portable
            tree = _sre.parse(pattern)
    except RecursionError as exc:
        raise GrammarError(f"{_shown(pattern)} is nested more deeply than can be read", hint=ex.TOO_DEEP) from exc
    except (re.error, OverflowError, Warning) as exc:
        raise GrammarError(f"{_shown(pattern)} is not a portable regular expression: {exc}", hint=_READ) from exc
    if tree.state.flags & ~re.UNICODE:
        raise _refused(pattern, "a flag")
    return _Reader(pattern, is_search).whole(list(tree))


def _refused(pattern: str, what: str) -> GrammarError:
    return GrammarError(
        f"the regular expression {_shown(pattern)} has {what}, which is not supported",
        hint=_READ,
    )


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= _MAX_SHOWN else pattern[:_MAX_SHOWN] + "...")


def _is_anchor(item: Any, kinds: tuple[Any, ...]) -> bool:
    return item[0] is _op.AT and item[1] in kinds


class _Reader:
    """Turns the tree of ``re`` into ours."""

    def __init__(self, pattern: str, is_search: bool) -> None:
        self._pattern = pattern
        self._is_search = is_search

    def whole(self, items: list[Any]) -> ex.Node:
        """Alternatives at the outside, each with its own anchors."""
        if len(items) == 1 and items[0][0] is _op.BRANCH:
            return ex.choice(self.whole(list(branch)) for branch in items[0][1][1])
        if len(items) == 1 and items[0][0] is _op.SUBPATTERN and not (items[0][1][1] or items[0][1][2]):
            return self.whole(list(items[0][1][3]))
        is_at_start = bool(items) and _is_anchor(items[0], (_op.AT_BEGINNING, _op.AT_BEGINNING_STRING))
        inner = self._tail(items[is_at_start:])
        return inner if is_at_start else ex.sequence([self._rest(), inner])

    def _tail(self, items: list[Any]) -> ex.Node:
        """Up to the end of the text. ``re`` factors out what alternatives begin with, and leaves their anchors in."""
        if items and _is_anchor(items[-1], _ENDS):
            return self._sequence(items[:-1])
        if items and items[-1][0] is _op.BRANCH:
            branches = [list(branch) for branch in items[-1][1][1]]
            if any(branch and _is_anchor(branch[-1], _ENDS) for branch in branches):
                return ex.sequence([self._sequence(items[:-1]), ex.choice(map(self._tail, branches))])
        return ex.sequence([self._sequence(items), self._rest()])

    def _rest(self) -> ex.Node:
        return ex.repeat(ex.ANY, 0, None) if self._is_search else ex.EMPTY

    def _sequence(self, items: Any) -> ex.Node:
        return ex.sequence(self._piece(operator, argument) for operator, argument in items)

    def _piece(self, operator: Any, argument: Any) -> ex.Node:
        if operator is _op.LITERAL:
            return ex.chars([(argument, argument)])
        if operator is _op.NOT_LITERAL:
            return ex.other_chars([(argument, argument)])
        if operator is _op.ANY:
            return ex.other_chars([(10, 10)])
        if operator is _op.IN:
            return self._class(argument)
        if operator is _op.BRANCH:
            return ex.choice(self._sequence(branch) for branch in argument[1])
        if operator is _op.SUBPATTERN and not (argument[1] or argument[2]):
            return self._sequence(argument[3])
        if operator in (_op.MAX_REPEAT, _op.MIN_REPEAT):  # a lazy count matches the same texts
            least, most, items = argument
            return ex.repeat(self._sequence(items), int(least), None if most is _op.MAXREPEAT else int(most))
        raise _refused(
            self._pattern, "an anchor or word boundary inside" if operator is _op.AT else str(operator).lower()
        )

    def _class(self, items: list[Any]) -> ex.Node:
        spans: list[Span] = []
        for operator, argument in items:
            if operator is _op.LITERAL:
                spans.append((argument, argument))
            elif operator is _op.RANGE:
                spans.append(argument)
            elif operator is _op.CATEGORY:
                spans += _category(str(argument).lower())
        return ex.other_chars(spans) if items[0][0] is _op.NEGATE else ex.chars(spans)


def _category(name: str) -> list[Span]:
    kind = name.removeprefix("category_")
    node = ex.chars(_ASCII[kind.removeprefix("not_")])
    assert isinstance(node, ex.Chars)
    inverted = ex.other_chars(node.spans) if kind.startswith("not_") else node
    assert isinstance(inverted, ex.Chars)
    return list(inverted.spans)
