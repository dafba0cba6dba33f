"""Railroad diagrams: boxes on a track from left to right, laid out and drawn as SVG."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

CHARACTER = 7.8  # width of one, at the font size of STYLE
_HEIGHT = 24  # of a box
_GAP = 10  # between boxes, both ways
_ARC = 10  # radius; half of it above and below is what a turn needs
_LINE = 120  # characters of a box, longer texts are cut
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
STYLE = (
    "path{fill:none;stroke:#555;stroke-width:1.6}"
    "rect{stroke:#555;stroke-width:1.2}"
    ".text{fill:#e8f0e0}.pattern{fill:#f6ecd8}.rule{fill:#e3ecf7}.note{fill:none;stroke:none}"
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;text-anchor:middle;fill:#222}"
    "a text{fill:#1a4f8a;text-decoration:underline}"
)


class Piece(ABC):
    """A part of a diagram; its track enters at the left and leaves at the right, at the same height.

    Attributes:
        width: of the part.
        up: what it takes above its track.
        down: what it takes below.
    """

    width: float
    up: float
    down: float

    @abstractmethod
    def draw(self, x: float, y: float) -> Iterator[str]:
        """SVG elements; the track enters at (x, y)."""


@dataclass
class Box(Piece):
    """A text on the track. ``kind`` is ``text``, ``pattern``, ``rule`` or ``note``; ``link`` is an id on the page."""

    text: str
    kind: str = "text"
    link: str = ""

    @cached_property
    def _shown(self) -> str:
        text = _NOT_XML.sub("\ufffd", " ".join(self.text.split("\n")))
        return text if len(text) <= _LINE else text[: _LINE - 1] + "…"

    @cached_property
    def width(self) -> float:  # type: ignore[override]
        """Of the text and a margin; East Asian characters are two wide."""
        return 20 + CHARACTER * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in self._shown)

    up = down = _HEIGHT / 2

    def draw(self, x: float, y: float) -> Iterator[str]:
        """A box with round corners for texts, square ones for rules."""
        radius = 0 if self.kind == "rule" else _HEIGHT / 2
        size = f'x="{x:.1f}" y="{y - self.up:.1f}" width="{self.width:.1f}" height="{_HEIGHT}" rx="{radius:.1f}"'
        rect = f'<rect class="{self.kind}" {size}/>'
        text = f'<text x="{x + self.width / 2:.1f}" y="{y + 4.5:.1f}" xml:space="preserve">{escape(self._shown)}</text>'
        yield f'<a href="#{escape(self.link)}">{rect}{text}</a>' if self.link else rect + text


@dataclass
class Skip(Piece):
    """Nothing but track."""

    width: float = 0.0
    up: float = 0.0
    down: float = 0.0

    def draw(self, x: float, y: float) -> Iterator[str]:
        """Nothing: who holds it draws the track."""
        return iter(())


@dataclass
class Row(Piece):
    """One after the other."""

    pieces: Sequence[Piece]

    def __post_init__(self) -> None:
        self.width = sum(piece.width for piece in self.pieces) + _GAP * max(0, len(self.pieces) - 1)
        self.up = max((piece.up for piece in self.pieces), default=0.0)
        self.down = max((piece.down for piece in self.pieces), default=0.0)

    def draw(self, x: float, y: float) -> Iterator[str]:
        """The pieces, and the track between them."""
        for number, piece in enumerate(self.pieces):
            if number:
                yield _line(x, y, _GAP)
                x += _GAP
            yield from piece.draw(x, y)
            yield from _through(piece, x, y)
            x += piece.width


@dataclass
class Choice(Piece):
    """One of several; the first is on the track, the others below."""

    pieces: Sequence[Piece]

    def __post_init__(self) -> None:
        self.width = max(piece.width for piece in self.pieces) + 4 * _ARC
        self.up = self.pieces[0].up
        self.down = self._offsets()[-1] + self.pieces[-1].down

    def _offsets(self) -> list[float]:
        offsets = [0.0]
        for above, below in zip(self.pieces, self.pieces[1:], strict=False):
            offsets.append(offsets[-1] + max(above.down + _GAP + below.up, 2 * _ARC))
        return offsets

    def draw(self, x: float, y: float) -> Iterator[str]:
        """Each piece with a way down to it and back up."""
        for piece, offset in zip(self.pieces, self._offsets(), strict=True):
            if offset:
                yield _path(f"M{x:.1f} {y:.1f}q{_ARC} 0 {_ARC} {_ARC}v{offset - 2 * _ARC:.1f}q0 {_ARC} {_ARC} {_ARC}")
                right = x + self.width
                yield _path(
                    f"M{right:.1f} {y:.1f}q-{_ARC} 0 -{_ARC} {_ARC}v{offset - 2 * _ARC:.1f}q0 {_ARC} -{_ARC} {_ARC}"
                )
            else:
                yield _line(x, y, 2 * _ARC) + _line(x + self.width - 2 * _ARC, y, 2 * _ARC)
            inner = x + 2 * _ARC
            yield from piece.draw(inner, y + offset)
            yield from _through(piece, inner, y + offset)
            yield _line(inner + piece.width, y + offset, self.width - 4 * _ARC - piece.width)


@dataclass
class Loop(Piece):
    """A piece that may come again; ``note`` stands on the way back."""

    piece: Piece
    note: str = ""
    width: float = field(init=False)
    up: float = field(init=False)
    down: float = field(init=False)

    def __post_init__(self) -> None:
        self._back = Box(self.note, "note") if self.note else None
        self.width = max(self.piece.width, self._back.width if self._back else 0) + 4 * _ARC
        self.up = self.piece.up
        self.down = self._offset() + (_HEIGHT / 2 if self._back else _GAP / 2)

    def _offset(self) -> float:
        return max(self.piece.down + _GAP + (_HEIGHT / 2 if self._back else 0), 2 * _ARC)

    def draw(self, x: float, y: float) -> Iterator[str]:
        """The piece, and the way back below it."""
        inner, offset, length = x + 2 * _ARC, self._offset(), self.width - 4 * _ARC
        yield _line(x, y, 2 * _ARC)
        yield from self.piece.draw(inner, y)
        yield from _through(self.piece, inner, y)
        yield _line(inner + self.piece.width, y, self.width - 2 * _ARC - self.piece.width)
        yield _path(
            f"M{inner:.1f} {y:.1f}q-{_ARC} 0 -{_ARC} {_ARC}v{offset - 2 * _ARC:.1f}q0 {_ARC} {_ARC} {_ARC}h{length:.1f}"
            f"q{_ARC} 0 {_ARC} -{_ARC}v{2 * _ARC - offset:.1f}q0 -{_ARC} -{_ARC} -{_ARC}"
        )
        if self._back:
            yield from self._back.draw(inner + (length - self._back.width) / 2, y + offset - _HEIGHT / 2 + 2)


@dataclass
class Track:
    """A whole diagram: a piece between a beginning and an end."""

    piece: Piece

    @property
    def width(self) -> float:
        """Of the drawing."""
        return self.piece.width + 60

    @property
    def height(self) -> float:
        """Of the drawing."""
        return self.piece.up + self.piece.down + 20

    def draw(self, x: float, y: float) -> Iterator[str]:
        """SVG elements; (x, y) is the upper left corner."""
        middle = y + self.piece.up + 10
        yield _path(f"M{x + 10:.1f} {middle - 8:.1f}v16m5 -16v16m-5 -8h20")
        yield from self.piece.draw(x + 30, middle)
        yield from _through(self.piece, x + 30, middle)
        yield _path(f"M{x + 30 + self.piece.width:.1f} {middle:.1f}h20m-5 -8v16m5 -16v16")


def _through(piece: Piece, x: float, y: float) -> Iterator[str]:
    if isinstance(piece, Skip) and piece.width:
        yield _line(x, y, piece.width)


def _line(x: float, y: float, length: float) -> str:
    return _path(f"M{x:.1f} {y:.1f}h{length:.1f}") if length > 0 else ""


def _path(data: str) -> str:
    return f'<path d="{data}"/>'
