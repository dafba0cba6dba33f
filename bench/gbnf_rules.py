"""Rules on their way to GBNF: what llama.cpp cannot read is refused, and what can be said more simply is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import expression as ex

Rules = dict[str, ex.Node]


def check_left_recursion(rules: Mapping[str, ex.Node]) -> None:
    """Refuse a rule that may begin with itself.

    Raises:
        GrammarError: the message names it.
    """
    nullable: set[str] = set()
    while added := {name for name in rules if name not in nullable and _is_nullable(rules[name], nullable)}:
        nullable |= added
    begins = {name: {used for used in _first(node, nullable) if used in rules} for name, node in rules.items()}
    for name in rules:
        if name in _reached(begins, name):
            raise GrammarError(
                f"rule '{name}' begins with itself through other rules, which GBNF cannot say",
                hint="write it with * or + instead",
            )


def _reached(begins: Mapping[str, set[str]], name: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(begins[name])
    while waiting:
        following = waiting.pop()
        if following not in reached:
            reached.add(following)
            waiting += begins[following]
    return reached


def _is_nullable(node: ex.Node, nullable: set[str]) -> bool:
    def change(leaf: ex.Chars | ex.Reference) -> ex.Node:
        return ex.EMPTY if isinstance(leaf, ex.Reference) and leaf.name in nullable else leaf

    return ex.is_nullable(ex.replace(node, change))


def _first(node: ex.Node, nullable: set[str]) -> Iterator[str]:
    """Rules and terminals that a node may begin with."""
    match node:
        case ex.Reference(name):
            yield name
        case ex.Sequence(items):
            for item in items:
                yield from _first(item, nullable)
                if not _is_nullable(item, nullable):
                    return
        case _:
            for child in ex.children(node):
                yield from _first(child, nullable)


def with_inlined(rules: Mapping[str, ex.Node], is_inline: Callable[[str], bool]) -> Rules:
    """Rules of such names that are used in one place are written out there."""
    uses = _uses(rules)
    inline = {name for name in rules if uses[name] == 1 and is_inline(name)}

    def change(leaf: ex.Chars | ex.Reference) -> ex.Node:
        if isinstance(leaf, ex.Reference) and leaf.name in inline:
            return ex.replace(rules[leaf.name], change)
        return leaf

    return {name: ex.replace(node, change) for name, node in rules.items() if name not in inline}


def looped(rules: Mapping[str, ex.Node], terminals: Mapping[str, ex.Node]) -> Rules:
    """A loop over loops is one: ``(a{1,64} | b)+`` accepts what ``(a | b)+`` does.

    Lark's lexer takes the longest match, so there the inner count bounds nothing but a lexeme; without a lexer it is
    only another way to read the same text, and engines that keep all readings become slow.
    """
    flattened = _Loops(rules, terminals)
    return {name: flattened.node(node) for name, node in rules.items()}


class _Loops:
    def __init__(self, rules: Mapping[str, ex.Node], terminals: Mapping[str, ex.Node]) -> None:
        self._rules = rules
        self._terminals = terminals
        self._uses = _uses(rules)

    def node(self, node: ex.Node) -> ex.Node:
        match node:
            case ex.Sequence(items):
                return ex.sequence(map(self.node, items))
            case ex.Choice(options):
                return ex.choice(map(self.node, options))
            case ex.Repeat(item, least, None) if least <= 1:
                return ex.repeat(ex.choice(map(self.node, self._options(item))), least, None)
            case ex.Repeat(item, least, most):
                return ex.repeat(self.node(item), least, most)
        return node

    def _options(self, item: ex.Node) -> Iterator[ex.Node]:
        """What is repeated, each of it without a loop of its own."""
        match item:
            case ex.Choice(options):
                for option in options:
                    yield from self._options(option)
            case ex.Repeat(inner, 1, _):
                yield from self._options(inner)
            case ex.Reference(name) if isinstance(self._terminals.get(name), ex.Repeat | ex.Choice):
                parts = list(self._options(self._terminals[name]))
                # A terminal without a loop keeps its name.
                yield from [item] if ex.choice(parts) == self._terminals[name] else parts
            case ex.Reference(name) if self._uses[name] == 1 and isinstance(self._rules.get(name), ex.Choice):
                yield from self._options(self._rules[name])
            case _:
                yield item


def _uses(rules: Mapping[str, ex.Node]) -> Counter[str]:
    return Counter(name for node in rules.values() for name in ex.references(node))
