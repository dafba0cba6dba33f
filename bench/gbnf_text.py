"""How GBNF spells rules: names, texts, classes, counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from edgedsl.grammar.code_points import MAX_CODE_POINT, Span, outside
from edgedsl.grammar.sources import expression as ex

ROOT = "root"
_SURROGATES = range(0xD800, 0xE000)
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}


def render(rules: Mapping[str, ex.Node], start: str) -> str:
    """GBNF of the rules that ``start`` leads to, a line each; ``start`` is called ``root``."""
    reached: dict[str, None] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = None
            waiting += reversed(list(ex.references(rules[name])))
    names = _names(reached, start)
    return "".join(f"{names[name]} ::= {_text(rules[name], names)}\n" for name in reached)


def _names(rules: Iterable[str], start: str) -> dict[str, str]:
    """Names of letters, digits and hyphens, which is all that llama.cpp takes."""
    names = {start: ROOT}
    taken = {ROOT}
    for rule in rules:
        if rule != start:
            base = re.sub(r"[^A-Za-z0-9]+", "-", rule).strip("-") or "rule"
            candidates = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
            names[rule] = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(names[rule])
    return names


def _text(node: ex.Node, names: Mapping[str, str]) -> str:
    match node:
        case ex.Reference(name):
            return names[name]
        case ex.Chars(spans):
            return _class(spans)
        case ex.Choice(options):
            return " | ".join(_text(option, names) for option in options)
        case ex.Sequence(items):
            return " ".join(_runs(items, names)) or '""'
        case ex.Repeat(item, least, most):
            inner = _text(item, names)
            # xgrammar refuses `[0-9]{1,3}?`.
            is_single = isinstance(item, ex.Reference | ex.Chars)
            return (inner if is_single else f"({inner})") + _count(least, most)
    raise AssertionError(node)


def _runs(items: Iterable[ex.Node], names: Mapping[str, str]) -> Iterator[str]:
    """Items of a row; single characters that follow one another become one text."""
    run = ""
    for item in items:
        char = ex.plain_text(item)
        if char is not None:
            run += char
            continue
        if run:
            yield _quoted(run)
        run = ""
        yield f"({_text(item, names)})" if isinstance(item, ex.Choice) else _text(item, names)
    if run:
        yield _quoted(run)


def _count(least: int, most: int | None) -> str:
    short = {(0, 1): "?", (0, None): "*", (1, None): "+"}
    if (least, most) in short:
        return short[least, most]
    return f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(char, '"') for char in text) + '"'


def _class(spans: tuple[Span, ...]) -> str:
    literal = ex.plain_text(ex.Chars(spans))
    if literal is not None:
        return _quoted(literal)
    is_negated = spans[-1][1] == MAX_CODE_POINT
    shown = outside(spans) if is_negated else _without_surrogates(spans)
    inner = "".join(_range(low, high) for low, high in shown)
    return f"[{'^' if is_negated else ''}{inner}]" if inner else "."


def _without_surrogates(spans: Iterable[Span]) -> Iterator[Span]:
    """UTF-8 has no surrogates, and llama.cpp refuses them."""
    for low, high in spans:
        below, above = (low, min(high, _SURROGATES.start - 1)), (max(low, _SURROGATES.stop), high)
        yield from (span for span in (below, above) if span[0] <= span[1])


def _range(low: int, high: int) -> str:
    first, last = (_escaped(chr(code), "[]-^") for code in (low, high))
    return first if low == high else f"{first}{'-' if high > low + 1 else ''}{last}"


def _escaped(char: str, special: str) -> str:
    if char in special:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    # Not \xHH: xgrammar reads on while hexadecimal digits follow.
    return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"
