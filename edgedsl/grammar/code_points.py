"""Code points: sets of them as spans, the ones that a piece of a regular expression matches, their bytes in UTF-8."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

MAX_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
Span = tuple[int, int]  # first and last code point

_op: Any = getattr(re, "_constants")  # noqa: B009  the parser behind re.compile; its module has no public name


def utf8_ranges(first: int, last: int) -> Iterator[list[Span]]:
    """Code points ``first`` to ``last`` as sequences of byte ranges, surrogates left out."""
    edges = (0x7F, 0x7FF, _SURROGATES[0] - 1, _SURROGATES[1], 0xFFFF, MAX_CODE_POINT)
    low = first
    for edge in edges:
        high = min(last, edge)
        if low <= high and low not in range(_SURROGATES[0], _SURROGATES[1] + 1):
            yield from _byte_ranges(chr(low).encode(), chr(high).encode())
        low = max(low, edge + 1)


def _byte_ranges(low: bytes, high: bytes) -> Iterator[list[Span]]:
    """Byte strings of one length between two, as products of ranges."""
    if len(low) == 1:
        yield [(low[0], high[0])]
        return
    first, last = low[0], high[0]
    smallest, largest = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    if first == last:
        yield from ([(first, first), *rest] for rest in _byte_ranges(low[1:], high[1:]))
        return
    if low[1:] != smallest:
        yield from ([(first, first), *rest] for rest in _byte_ranges(low[1:], largest))
        first += 1
    has_tail = high[1:] != largest
    if first <= last - has_tail:
        yield [(first, last - has_tail), *[(0x80, 0xBF)] * (len(low) - 1)]
    if has_tail:
        yield from ([(last, last), *rest] for rest in _byte_ranges(smallest, high[1:]))


def matched(operator: Any, argument: Any, flags: int) -> list[Span]:
    """Code points that one item matches, as sorted spans that do not touch."""
    if operator is _op.ANY:
        return [(0, MAX_CODE_POINT)] if flags & re.DOTALL else outside([(10, 10)])
    if operator is _op.LITERAL:
        return merged(_fold([(argument, argument)], flags))
    if operator is _op.NOT_LITERAL:
        return outside(merged(_fold([(argument, argument)], flags)))
    is_negated = bool(argument) and argument[0][0] is _op.NEGATE
    spans: list[Span] = []
    for kind, value in argument[is_negated:]:
        if kind is _op.LITERAL:
            spans += _fold([(value, value)], flags)
        elif kind is _op.RANGE:
            spans += _fold([value], flags)
        else:
            spans += _category(str(value).lower(), bool(flags & re.ASCII))
    return outside(merged(spans)) if is_negated else merged(spans)


def _fold(spans: list[Span], flags: int) -> list[Span]:
    """The spans with the other case of their letters, where case is ignored."""
    if not flags & re.IGNORECASE:
        return spans
    # Spans over most of Unicode hold both cases already.
    letters = {c for low, high in spans if high - low < 0x3000 for c in range(low, high + 1)}
    others = {ord(o) for c in letters for o in (chr(c).lower(), chr(c).upper()) if len(o) == 1}
    return spans + [(c, c) for c in others - letters]


@cache
def _category(name: str, is_ascii: bool) -> list[Span]:
    kind = name.removeprefix("category_").removeprefix("uni_")
    letter = {"digit": "d", "space": "s", "word": "w"}[kind.removeprefix("not_")]
    matches = re.compile(f"\\{letter}", re.ASCII if is_ascii else 0).match
    found = merged((c, c) for c in range(128 if is_ascii else MAX_CODE_POINT + 1) if matches(chr(c)))
    return outside(found) if kind.startswith("not_") else found


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same code points as sorted spans that do not touch."""
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def outside(spans: Sequence[Span]) -> list[Span]:
    """Every code point outside of sorted spans that do not touch."""
    inverted, low = [], 0
    for first, last in spans:
        if low < first:
            inverted.append((low, first - 1))
        low = last + 1
    return [*inverted, (low, MAX_CODE_POINT)] if low <= MAX_CODE_POINT else inverted
