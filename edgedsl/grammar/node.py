"""What is known of one position, found out as programs come by and kept for the next ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgedsl.grammar.legal_tokens import LegalTokens

if TYPE_CHECKING:
    from edgedsl.grammar.position import Position


@dataclass(slots=True, eq=False)
class Ways:
    """The ways to end from a position.

    Attributes:
        spelled: tokens of the cheapest ending, terminal by terminal; None where none could be spelled.
        shortest: tokens of the shortest one that was found by trying tokens; None where there is none.
        is_searched: whether tokens were tried.
        is_accepted: whether the decoding engine takes the spelled one; None while unknown.
    """

    spelled: list[int] | None
    shortest: list[int] | None = None
    is_searched: bool = False
    is_accepted: bool | None = None


@dataclass(slots=True, eq=False)
class Node:
    """What is known of a position.

    Attributes:
        bound: tokens that are enough to end the program from here; negative while unknown.
        text: bytes of the cheapest ending, for a position between two lexemes; None where it cannot be spelled.
        is_spelled: whether the text is known.
        ways: how a program may end from here; None while unknown.
        legal: tokens that the decoding engine allows; None while unknown.
        targets: positions after single tokens; None after a token that no program goes on with.
        passed: positions, with their bound known, after tokens that the decoding engine allows too.
        may_end: whether both engines let the program end here; None while unknown.
        is_last: whether nothing can follow; None while unknown.
    """

    bound: float = -1.0
    text: bytes | None = None
    is_spelled: bool = False
    ways: Ways | None = None
    legal: LegalTokens | None = None
    targets: dict[int, Position | None] = field(default_factory=dict)
    passed: dict[int, Position] = field(default_factory=dict)
    may_end: bool | None = None
    is_last: bool | None = None
