"""Grammar expressions as trees, and how Lark spells them.

A tree without references is a regular expression over code points. It is written in the part of the regular-expression
languages on which Python's ``re`` (Lark), llguidance and our byte automaton agree: literals, classes, groups, counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import MAX_CODE_POINT, Span, merged, outside

TOO_DEEP = "take levels out of it"
MAX_LEAST = 1000  # repeats that there must be: our automaton writes them out
MAX_MOST = 2**31 - 1  # repeats that there may be
MAX_SIZE = 20_000  # characters and classes of one terminal, counted repeats written out
MAX_TEXT = 250_000  # the same of a list of texts


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point out of sorted spans that do not touch."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; without items the empty text."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several; without options nothing at all."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``least`` to ``most`` times; ``None`` is without end."""

    item: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Another rule."""

    name: str


Node = Chars | Sequence | Choice | Repeat | Reference
EMPTY = Sequence(())
NOTHING = Choice(())


def chars(spans: Iterable[Span]) -> Node:
    """A class of code points, from spans in any order."""
    found = tuple(merged(spans))
    return Chars(found) if found else NOTHING


def other_chars(spans: Iterable[Span]) -> Node:
    """Every code point outside the spans."""
    return chars(outside(merged(spans)))


ANY = Chars(((0, MAX_CODE_POINT),))


def text(value: str) -> Node:
    """The characters of a text.

    Raises:
        GrammarError: they are too many.
    """
    if len(value) > MAX_SIZE:
        raise GrammarError(f"a text of {len(value)} characters is not supported, expected at most {MAX_SIZE}")
    return _character(ord(value)) if len(value) == 1 else Sequence(tuple(_character(ord(c)) for c in value))


@cache
def _character(code: int) -> Chars:
    return Chars(((code, code),))


def sequence(items: Iterable[Node]) -> Node:
    """Items in a row, without needless nesting."""
    flat: list[Node] = []
    for item in items:
        flat += item.items if isinstance(item, Sequence) else [item]
    if NOTHING in flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def choice(options: Iterable[Node]) -> Node:
    """Distinct options, without needless nesting."""
    flat: dict[Node, None] = {}
    for option in options:
        flat |= dict.fromkeys(option.options if isinstance(option, Choice) else [option])
    if EMPTY in flat and any(option != EMPTY and is_nullable(option) for option in flat):
        del flat[EMPTY]
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(item: Node, least: int, most: int | None) -> Node:
    """``item`` so many times.

    Raises:
        GrammarError: counts above :data:`MAX_LEAST` and :data:`MAX_MOST`, or fewer at most than at least.
    """
    for count, limit in ((least, MAX_LEAST), (most or 0, MAX_MOST)):
        if count > limit:
            raise GrammarError(f"a repeat of {count} times is not supported, expected at most {limit}")
    if most is not None and least > most:
        raise GrammarError(f"a repeat of {least} to {most} times is empty")
    if item == NOTHING:
        return NOTHING if least else EMPTY
    if most == 0 or item == EMPTY:
        return EMPTY
    if isinstance(item, Repeat) and (item.least, item.most) == (0, 1):
        return Repeat(item.item, 0, most)
    if isinstance(item, Repeat) and item.least <= 1 and item.most is None:
        return Repeat(item.item, item.least * least, None)
    return item if (least, most) == (1, 1) else Repeat(item, least, most)


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    match node:
        case Sequence(parts) | Choice(parts):
            return parts
        case Repeat(item, _, _):
            return (item,)
    return ()


def references(node: Node) -> Iterator[str]:
    """Names that the node refers to, in order, repeated ones too."""
    if isinstance(node, Reference):
        yield node.name
    for child in children(node):
        yield from references(child)


def size(node: Node) -> int:
    """Characters and classes, counted repeats written out as far as anything writes them out."""
    if isinstance(node, Repeat):
        most = node.most if node.most and node.most <= MAX_LEAST else 1
        return size(node.item) * max(node.least, most)
    return sum(map(size, children(node))) or 1


def replace(node: Node, change: Callable[[Chars | Reference], Node]) -> Node:
    """The node with each class and reference changed."""
    match node:
        case Sequence(items):
            return sequence(replace(item, change) for item in items)
        case Choice(options):
            return choice(replace(option, change) for option in options)
        case Repeat(item, least, most):
            return repeat(replace(item, change), least, most)
    return change(node)


def is_nullable(node: Node) -> bool:
    """Whether a node without references matches the empty text."""
    match node:
        case Sequence(items):
            return all(map(is_nullable, items))
        case Choice(options):
            return any(map(is_nullable, options))
        case Repeat(item, least, _):
            return least == 0 or is_nullable(item)
    return False


def without_empty(node: Node) -> Node:
    """The same language without the empty text, which no terminal of Lark may match."""
    if not is_nullable(node):
        return node
    match node:
        case Sequence(items) if items:
            rest = sequence(items[1:])
            return choice([sequence([without_empty(items[0]), rest]), without_empty(rest)])
        case Choice(options):
            return choice(map(without_empty, options))
        case Repeat(item, _, most):
            return repeat(without_empty(item), 1, most)
    return NOTHING


def plain_text(node: Node) -> str | None:
    """The one text that the node matches; None where it is not written as one."""
    if isinstance(node, Sequence):
        parts = [plain_text(item) for item in node.items]
        return None if None in parts else "".join(part or "" for part in parts)
    if isinstance(node, Chars) and len(node.spans) == 1 and node.spans[0][0] == node.spans[0][1]:
        return chr(node.spans[0][0])
    return None


def is_list(node: Node) -> bool:
    """Whether the node is a choice of texts and nothing else."""
    return isinstance(node, Choice) and all(plain_text(option) is not None for option in node.options)


def terminal(node: Node) -> str:
    """Lark text of a terminal: a string or a regular expression.

    Raises:
        GrammarError: it matches nothing, or it is too large.
    """
    if node in (EMPTY, NOTHING):
        raise GrammarError("a terminal that matches no text is not supported")
    limit = MAX_TEXT if is_list(node) else MAX_SIZE
    if size(node) > limit:
        raise GrammarError(
            f"a terminal of {size(node)} characters is not supported, expected at most {limit}",
            hint="lower its counts, or divide it among several terminals",
        )
    literal = plain_text(node)
    # Lark and llguidance read backslashes and control characters in strings differently.
    if literal is not None and literal.isprintable() and "\\" not in literal:
        return '"' + literal.replace('"', '\\"') + '"'
    # Lark takes the backslash before a quote for an escape, whatever comes before it.
    return "/" + _pattern(node).replace('\\\\"', '\\\\["]') + "/"


def _pattern(node: Node) -> str:
    match node:
        case Chars(spans):
            return _class(spans)
        case Sequence(items):
            return "".join(f"({_pattern(i)})" if isinstance(i, Choice) else _pattern(i) for i in items)
        case Choice(options):
            # An option that may be empty always matches; what comes after it would never be tried.
            joined = "|".join(_pattern(option) for option in sorted(options, key=is_nullable) if option != EMPTY)
            return f"({joined})?" if EMPTY in options else joined
        case Repeat(item, least, most):
            inner = _pattern(item)
            return (inner if isinstance(item, Chars) else f"({inner})") + _count(least, most)
    raise AssertionError(node)


def _count(least: int, most: int | None) -> str:
    short = {(0, 1): "?", (0, None): "*", (1, None): "+"}
    if (least, most) in short:
        return short[least, most]
    return f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"


def _class(spans: tuple[Span, ...]) -> str:
    if spans == ((0, MAX_CODE_POINT),):
        return r"(.|\n)"
    if len(spans) == 1 and spans[0][0] == spans[0][1]:
        return _escaped(spans[0][0], r".^$*+?{}[]\|()/")
    is_negated = spans[-1][1] == MAX_CODE_POINT
    shown = outside(spans) if is_negated else spans
    inner = "".join(
        _in_class(low) + ("" if low == high else ("-" if high > low + 1 else "") + _in_class(high))
        for low, high in shown
    )
    return f"[{'^' if is_negated else ''}{inner}]"


def _in_class(code: int) -> str:
    return _escaped(code, r"[]\^-&~|/")


def _escaped(code: int, special: str) -> str:
    char = chr(code)
    if char in special:
        return "\\" + char
    if char.isprintable():
        return char
    if char in "\n\r\t":
        return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[char]
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
