"""JSON numbers between two bounds, as expressions over their digits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.keywords import NUMBER_BOUNDS

_LARGEST = 10**19 - 1  # as json_text has it: 19 digits before the point, 18 after it
_DIGIT = ex.chars([(48, 57)])
_NONZERO_DIGIT = ex.chars([(49, 57)])
_ZERO = ex.text("0")
_FRACTION = ex.sequence([ex.text("."), ex.repeat(_DIGIT, 1, 18)])
_ZEROS = ex.sequence([ex.text("."), ex.repeat(_ZERO, 1, 18)])
# Ends in another digit than 0, as canonical fractions do.
_POSITIVE_FRACTION = ex.sequence(
    [ex.text("."), ex.repeat(ex.sequence([ex.repeat(_ZERO, 0, 17), _NONZERO_DIGIT]), 1, 18)]
)


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, with or without these; None is no bound."""

    low: int | None = None
    high: int | None = None
    is_open_low: bool = False
    is_open_high: bool = False

    def mirrored(self) -> Range:
        """The values with the other sign."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Range(low, high, self.is_open_high, self.is_open_low)

    def from_zero(self) -> Range | None:
        """The part that is not negative; None where there is none."""
        if self.high is not None and (self.high < 0 or (self.high == 0 and self.is_open_high)):
            return None
        return Range(0, self.high, False, self.is_open_high) if self.low is None or self.low < 0 else self


def between(schema: dict[str, Any], name: str, pointer: str) -> ex.Node | None:
    """The values of a number schema with bounds; None where it has none.

    Args:
        schema: with ``minimum``, ``maximum``, ``exclusiveMinimum``, ``exclusiveMaximum``.
        name: "integer" or "number".
        pointer: to the schema, for messages.

    Raises:
        GrammarError: a bound is no whole number, or no value lies between them.
    """
    found = {key: _bound(schema, key, pointer) for key in NUMBER_BOUNDS & schema.keys()}
    if not found:
        return None
    span = _range(found)
    node = _integers(span) if name == "integer" else _numbers(span)
    if node == ex.NOTHING:
        raise GrammarError(f"{pointer}: no {name} lies between {' and '.join(f'{k} {v}' for k, v in found.items())}")
    return node


def _bound(schema: dict[str, Any], key: str, pointer: str) -> int:
    bound = schema[key]
    is_whole = isinstance(bound, int | float) and not isinstance(bound, bool) and bound == bound // 1
    if not is_whole or abs(bound) > _LARGEST:
        raise GrammarError(
            f"{pointer}/{key}: {json.dumps(bound)} is not supported, expected a whole number of at most 19 digits",
            hint="take it out of the schema; what it demands is then not in the grammar",
        )
    return int(bound)


def _range(found: dict[str, int]) -> Range:
    """Of two bounds on one side the stricter one."""
    lows = [(found[key], is_open) for key, is_open in (("minimum", False), ("exclusiveMinimum", True)) if key in found]
    highs = [(found[key], is_open) for key, is_open in (("maximum", False), ("exclusiveMaximum", True)) if key in found]
    low, is_open_low = max(lows, default=(None, False))
    high, is_open_high = min(highs, key=lambda bound: (bound[0], not bound[1]), default=(None, False))
    return Range(low, high, is_open_low, is_open_high)


def _integers(span: Range) -> ex.Node:
    low = -_LARGEST if span.low is None else span.low + span.is_open_low
    high = _LARGEST if span.high is None else span.high - span.is_open_high
    negative = [ex.sequence([ex.text("-"), digits]) for digits in _digits(max(1, -high), -low)]
    return ex.choice([*_digits(max(0, low), high), *negative])


def _numbers(span: Range) -> ex.Node:
    options: list[ex.Node] = []
    if span.low is not None and span.high is not None and span.low > span.high:
        return ex.NOTHING
    if (positive := span.from_zero()) is not None:
        options += _magnitudes(positive, is_negative=False)
    if (negative := span.mirrored().from_zero()) is not None:
        options += [ex.sequence([ex.text("-"), node]) for node in _magnitudes(negative, is_negative=True)]
    return ex.choice(options)


def _magnitudes(span: Range, *, is_negative: bool) -> Iterator[ex.Node]:
    """Numbers from 0 up without a sign. Behind a minus sign 0 has a fraction: -0 is not canonical, -0.5 is."""
    low, high = span.low or 0, _LARGEST if span.high is None else span.high
    if low == high:
        if not (span.is_open_low or span.is_open_high):
            yield _exactly(high, is_negative)
        return
    if span.is_open_low or (is_negative and low == 0):
        yield ex.sequence([ex.text(str(low)), _POSITIVE_FRACTION if span.is_open_low else _FRACTION])
        low += 1
    for digits in _digits(low, high - (span.high is not None)):
        yield ex.sequence([digits, ex.repeat(_FRACTION, 0, 1)])
    if span.high is not None and not span.is_open_high:
        yield _exactly(high, is_negative)


def _exactly(value: int, is_negative: bool) -> ex.Node:
    return ex.sequence([ex.text(str(value)), ex.repeat(_ZEROS, int(is_negative and value == 0), 1)])


def _digits(low: int, high: int) -> Iterator[ex.Node]:
    """Whole numbers from ``low`` (0 or more) to ``high``, one node for each number of digits."""
    for size in range(len(str(max(low, 0))), len(str(max(high, 0))) + 1):
        least, most = max(low, 10 ** (size - 1) if size > 1 else 0), min(high, 10**size - 1)
        if least <= most:
            yield _same_size(str(least), str(most))


def _same_size(low: str, high: str) -> ex.Node:
    if not low:
        return ex.EMPTY
    if set(low) == {"0"} and set(high) == {"9"}:
        return ex.repeat(_DIGIT, len(low), len(low))
    first, last = ord(low[0]), ord(high[0])
    if first == last:
        return ex.sequence([ex.text(low[0]), _same_size(low[1:], high[1:])])
    options: list[ex.Node] = []
    if low[1:].strip("0"):
        options.append(ex.sequence([ex.text(low[0]), _same_size(low[1:], "9" * (len(low) - 1))]))
        first += 1
    tail: list[ex.Node] = []
    if high[1:].strip("9"):
        tail.append(ex.sequence([ex.text(high[0]), _same_size("0" * (len(high) - 1), high[1:])]))
        last -= 1
    if first <= last:
        options.append(ex.sequence([ex.chars([(first, last)]), ex.repeat(_DIGIT, len(low) - 1, len(low) - 1)]))
    return ex.choice([*options, *tail])
