"""What an importer hands back: a Lark grammar, and what became of the source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lark.common import ParserConf
from lark.exceptions import LarkError
from lark.parsers.lalr_analysis import LALR_Analyzer

from edgedsl.errors import GrammarError
from edgedsl.grammar.grammar import START, Grammar
from edgedsl.grammar.sources.collisions import collisions


@dataclass(frozen=True)
class Imported:
    """A Lark grammar made from another notation."""

    source: str
    """Lark text with the start rule ``start``."""
    translated: tuple[str, ...]
    """What was translated to what."""
    notes: tuple[str, ...]
    """What was ignored, and where the grammar and its source differ or may differ."""

    def report(self) -> str:
        """Both lists as text, a line each."""
        notes = self.notes or ("nothing was ignored",)
        return "\n".join(["translated:", *(f"  {t}" for t in self.translated), "notes:", *(f"  {n}" for n in notes)])


def imported(
    kind: str, source: str, translated: Iterable[str], notes: Iterable[str], *, is_prefix_free: bool = False
) -> Imported:
    """Load the Lark text and wrap it.

    Args:
        kind: the notation it comes from, for messages.
        source: Lark text.
        translated: see :class:`Imported`.
        notes: the same; terminals that a lexer may confuse are added.
        is_prefix_free: no two terminals can be confused, which is true by construction and need not be checked.

    Raises:
        GrammarError: Lark or llguidance cannot read it, as when it is not LALR(1).
    """
    try:
        grammar = Grammar(source, name=kind)
        # Lark itself settles a shift/reduce conflict without a word, which may take programs out of the language.
        LALR_Analyzer(ParserConf(grammar.lark.rules, {}, [START]), strict=True).compute_lalr()  # type: ignore[no-untyped-call]
    except (GrammarError, LarkError) as exc:
        is_conflict = "collision" in str(exc) or "conflict" in str(exc)
        what = "is not LALR(1)" if is_conflict else "does not become a grammar that can be used"
        raise GrammarError(
            f"the {kind} {what}: {' '.join(str(exc).split())[:400]}",
            hint="rewrite it so that the next character tells alternatives apart and each text has one reading"
            if is_conflict
            else "",
        ) from exc
    found = [] if is_prefix_free else collisions(grammar)
    return Imported(source, tuple(dict.fromkeys(translated)), tuple(dict.fromkeys([*notes, *found])))
