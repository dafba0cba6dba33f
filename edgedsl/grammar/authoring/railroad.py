"""A Lark grammar as railroad diagrams, in one file that loads nothing."""

from __future__ import annotations

from html import escape
from typing import Any

from lark import Token, Tree
from lark.grammar import NonTerminal, Symbol

from edgedsl.grammar.authoring.diagram import STYLE, Box, Choice, Loop, Piece, Row, Skip, Track
from edgedsl.grammar.authoring.language import Language
from edgedsl.grammar.authoring.structure import Structure

_MAX_NAMES = 12  # of a catalogue's terminal
_PAGE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.4rem 0 0}h2:target{background:#fff3c4}"
    "div{overflow-x:auto}nav a{margin-right:.8rem;white-space:nowrap;display:inline-block}"
)


class Railroad:
    """The diagrams of a grammar's rules and terminals, in the order of the file.

    Raises:
        GrammarError: not a Lark grammar.
    """

    def __init__(self, language: Language) -> None:
        self._name = language.name
        self._names = dict(language.catalogue.terminals) if language.catalogue else {}
        # The catalogue is not bound: thousands of names would be thousands of boxes.
        parsed = Structure(language.text, language.name).parsed
        self._trees: dict[int, str] = {id(tree): str(name) for name, (tree, _) in parsed.term_defs if tree is not None}
        self._parts: list[tuple[str, Piece]] = [
            (_titled(n, p), self._piece(tree)) for n, p, tree, _ in parsed.rule_defs
        ]
        self._parts += [(str(name), self._terminal(str(name), tree)) for name, (tree, _) in parsed.term_defs]
        ignored = [Box(name, "pattern", _anchor(name)) for name in map(str, parsed.ignore)]
        if ignored:
            self._parts.append(("ignored between terminals", Choice(ignored)))

    def html(self) -> str:
        """One page: a list of links, then each rule and terminal with its diagram."""
        links = " ".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title, _ in self._parts)
        body = "\n".join(self._section(title, Track(piece)) for title, piece in self._parts)
        name = escape(self._name)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
            f"<title>{name}: railroad diagrams</title><style>{_PAGE}{STYLE}</style></head>\n"
            f"<body><h1>{name}</h1><nav>{links}</nav>\n{body}\n</body></html>\n"
        )

    def svg(self) -> str:
        """One drawing with all diagrams below each other."""
        y, width, drawn = 10.0, 300.0, []
        for title, piece in self._parts:
            track = Track(piece)
            drawn.append(f'<g id="{_anchor(title)}"><text class="title" x="10" y="{y + 16:.1f}">{escape(title)}</text>')
            drawn += [*track.draw(10, y + 24), "</g>"]
            y, width = y + track.height + 34, max(width, track.width + 20)
        title = escape(f"{self._name}: railroad diagrams")
        size = f'width="{width:.1f}" height="{y:.1f}" viewBox="0 0 {width:.1f} {y:.1f}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
            f"<title>{title}</title><style>{STYLE}.title{{text-anchor:start;font-weight:bold}}</style>"
            f'<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>\n{chr(10).join(drawn)}\n</svg>\n'
        )

    def _section(self, title: str, track: Track) -> str:
        size = (
            f'width="{track.width:.1f}" height="{track.height:.1f}" viewBox="0 0 {track.width:.1f} {track.height:.1f}"'
        )
        drawing = "".join(track.draw(0, 0))
        return f'<h2 id="{_anchor(title)}">{escape(title)}</h2>\n<div><svg {size}>{drawing}</svg></div>'

    def _terminal(self, name: str, tree: Tree[Any] | None) -> Piece:
        if tree is not None:
            return self._piece(tree, inside=name)
        names = self._names.get(name, ())
        shown: list[Piece] = [Box(entry) for entry in names[:_MAX_NAMES]]
        rest = f"{len(names) - _MAX_NAMES} more names of the catalogue" if names else "a name of the catalogue"
        return Choice([*shown, Box(rest, "pattern")]) if not names or len(names) > _MAX_NAMES else Choice(shown)

    def _piece(self, node: Any, inside: str = "") -> Piece:
        """The piece of a node of the grammar's own tree; ``inside`` is the terminal that is being drawn."""
        if isinstance(node, Symbol):
            return Box(node.name, "rule" if isinstance(node, NonTerminal) else "pattern", _anchor(node.name))
        if id(node) in self._trees and self._trees[id(node)] != inside:
            name = self._trees[id(node)]
            return Box(name, "pattern", _anchor(name))
        draw = {
            "expansions": self._choice, "expansion": self._row, "expr": self._repeat, "maybe": self._maybe,
            "literal": self._literal, "range": self._range, "template_usage": self._template,
        }.get(node.data)  # fmt: skip
        # `value` and `alias` only wrap what they hold.
        return draw(node.children, inside) if draw else self._piece(node.children[0], inside)

    def _choice(self, children: list[Any], inside: str) -> Piece:
        pieces = [self._piece(child, inside) for child in children]
        return Choice(pieces) if len(pieces) > 1 else pieces[0]

    def _row(self, children: list[Any], inside: str) -> Piece:
        pieces = [self._piece(child, inside) for child in children]
        return Skip() if not pieces else pieces[0] if len(pieces) == 1 else Row(pieces)

    def _maybe(self, children: list[Any], inside: str) -> Piece:
        return Choice([Skip(), self._piece(children[0], inside)])

    def _repeat(self, children: list[Any], inside: str) -> Piece:
        piece, operator, *numbers = children
        inner = self._piece(piece, inside)
        if operator == "?":
            return Choice([Skip(), inner])
        if operator in {"*", "+"}:
            return Loop(inner) if operator == "+" else Choice([Skip(), Loop(inner)])
        least, most = numbers[0], numbers[-1]
        return Loop(inner, f"{least} times" if least == most else f"{least} to {most} times")

    def _literal(self, children: list[Any], inside: str) -> Piece:
        token: Token = children[0]
        return Box(str(token), "pattern" if token.type == "REGEXP" else "text")

    def _range(self, children: list[Any], inside: str) -> Piece:
        return Box(f"{children[0]} to {children[1]}", "pattern")

    def _template(self, children: list[Any], inside: str) -> Piece:
        name = children[0].name
        return Row([Box(f"{name} of", "rule", _anchor(name)), *(self._piece(child, inside) for child in children[1:])])


def _titled(name: str, parameters: tuple[str, ...]) -> str:
    return f"{name}{{{', '.join(map(str, parameters))}}}" if parameters else str(name)


def _anchor(title: str) -> str:
    """The id of a rule or terminal; a template is called by its name alone."""
    name = title.split("{", maxsplit=1)[0]
    return "g-" + "".join(c if c.isalnum() or c in "_-" else "-" for c in name)
