"""The grammar: a Lark text with its catalogue bound, one per model.

Two engines read the same bound text: llguidance (the engine behind Outlines' CFG type) says which token may come next,
and Lark's LALR parser, which shares no code with it, re-parses every finished program.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llguidance
from lark import Lark
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GrammarError
from edgedsl.grammar import lark_tables
from edgedsl.grammar.scopes import violation
from edgedsl.grammar.specialise import specialise
from edgedsl.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgedsl.grammar.compiled import CompiledGrammar

START = "start"
MAX_WRITTEN_SCOPES = 1000  # llguidance takes no more rules than those of some thousand


class Grammar:
    """A Lark grammar with its catalogue bound, checked to be LALR(1) with the start rule ``start``.

    Args:
        source: the text.
        name: for messages.
        catalogue: whose names the source spells.
        tables: a file of the source's tables, see :mod:`edgedsl.grammar.lark_tables`; worked out if None, or where the
            file is of another source or version.

    Raises:
        GrammarError: not such a grammar.
    """

    def __init__(
        self, source: str, *, name: str = "grammar", catalogue: Catalogue | None = None, tables: Path | None = None
    ) -> None:
        self.source = source
        self.name = name
        self.catalogue = catalogue
        known = lark_tables.read(tables, source) if tables else None
        try:
            self.lark = known or Lark(source, parser="lalr", lexer="contextual", start=START)
        except (LarkError, RecursionError, OSError) as exc:
            raise lark_failure(exc, name) from exc
        try:
            # Without the scopes of the catalogue: the budget guard knows them, and so does the re-parse. A rule for
            # each function would make llguidance five times slower wherever one can be called.
            self.engine_source: str = llguidance.grammar_from("lark", source)
            # Who has tables had them made by this, and compiling says no as well.
            error = "" if known else llguidance.LLMatcher.validate_grammar(self.engine_source, None)
        except ValueError as exc:
            error = str(exc)
        if error:
            raise GrammarError(
                f"grammar '{name}' does not compile for decoding: {error.splitlines()[0]}",
                hint="write terminals without look-around, back-references, atomic groups, priorities and templates",
            )

    def scoped_source(self) -> str:
        """Lark text of the same language that says the catalogue's scopes in rules, for engines that know no catalogue.

        The source itself where there are none, or so many that no engine would take the rules.
        """
        if self.catalogue is None or not self.catalogue.is_scoped or self.catalogue.num_scopes > MAX_WRITTEN_SCOPES:
            return self.source
        return specialise(self.source, self.lark, self.catalogue, START) or self.source

    def with_written_scopes(self) -> Grammar:
        """The same grammar with an engine that knows the scopes: what it allows is what may come, without a guard."""
        written = copy(self)
        written.engine_source = llguidance.grammar_from("lark", self.scoped_source())
        return written

    @classmethod
    def from_files(cls, lark_path: Path, catalogue_path: Path | None = None, tables: Path | None = None) -> Grammar:
        """Read a grammar and bind its catalogue; ``tables`` as for the class.

        Raises:
            GrammarError: missing or malformed file, or a grammar that is not LALR(1).
        """
        try:
            text = lark_path.read_text(encoding="utf-8")
        except FileNotFoundError as exc:
            raise GrammarError(
                f"grammar '{lark_path}' does not exist", hint="set [project] grammar in edgedsl.toml"
            ) from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise GrammarError(f"grammar '{lark_path}' cannot be read: {exc}") from exc
        catalogue = Catalogue.from_file(catalogue_path) if catalogue_path else None
        return cls(bind(text, catalogue), name=lark_path.name, catalogue=catalogue, tables=tables)

    def restrict(self, catalogue: Catalogue) -> Grammar:
        """The grammar of the programs that use only a part of the catalogue; it shares all that was compiled."""
        restricted = copy(self)
        restricted.catalogue = catalogue
        return restricted

    def build_lexers(self) -> None:
        """Those of all parser states; Lark itself builds one when a program first comes by.

        It matches fixed strings against expressions then, which for some expressions takes for ever.
        """
        contextual: Any = self.lark.parser.lexer
        for lexer in (contextual.root_lexer, *contextual.lexers.values()):
            _ = lexer.scanner

    def parse(self, text: str) -> Any:
        """The Lark tree of a program.

        Raises:
            GrammarError: the text is not a program of the language; line, column and the text around it are named.
        """
        try:
            tree = self.lark.parse(text)
        except UnexpectedInput as exc:
            raise GrammarError(f"'{text[:80]}' does not parse under '{self.name}': {_where(text, exc)}") from exc
        found = violation(tree, self.catalogue) if self.catalogue else None
        if found:
            terminal, name, owner = found
            who = f"'{owner}' has" if owner else "there is"
            raise GrammarError(f"'{text[:80]}' does not fit the catalogue: {who} no {terminal} '{name}' here")
        return tree

    def accepts(self, text: str) -> bool:
        """Whether the text is a whole program."""
        try:
            self.parse(text)
        except GrammarError:
            return False
        return True

    def tokens(self, text: str) -> list[tuple[str, str]]:
        """Terminal and text of each lexer token of a program, without what the grammar ignores.

        A terminal that spells one fixed string is named by that string in double quotes: ``("\"set\"", "set")``.

        Raises:
            GrammarError: the text is not a program of the language.
        """
        literals = {t.name: f'"{t.pattern.value}"' for t in self.lark.terminals if isinstance(t.pattern, PatternStr)}
        try:
            parser = self.lark.parse_interactive(text)
            # Parsing along, not lexing alone: the contextual lexer needs the parser's state to tell terminals apart.
            tokens = list(parser.iter_parse())
            parser.feed_eof(tokens[-1] if tokens else None)  # type: ignore[no-untyped-call]
        except UnexpectedInput as exc:
            raise GrammarError(f"'{text[:80]}' does not parse under '{self.name}': {_where(text, exc)}") from exc
        return [(literals.get(token.type, token.type), str(token)) for token in tokens]

    def compile(
        self, tokenizer: Tokenizer, end_token_ids: list[int], lexemes_path: Path | None = None
    ) -> CompiledGrammar:
        """Bind the grammar to a tokenizer.

        Args:
            tokenizer: of the model that will be decoded.
            end_token_ids: tokens that the mask allows exactly where a program may end.
            lexemes_path: a file of the shortest lexemes, see :mod:`edgedsl.grammar.lexemes`; found if None, or where
                the file is of another grammar, tokenizer or version.

        Raises:
            GrammarError: tokens that the engine cannot use, or a malformed file.
        """
        from edgedsl.grammar.compiled import CompiledGrammar  # which needs this module

        return CompiledGrammar(self, tokenizer, end_token_ids, lexemes_path)


def lark_failure(exc: Exception, name: str) -> GrammarError:
    """What Lark's error means; it opens files that an %import names, and says so with an OSError."""
    if isinstance(exc, OSError):
        return GrammarError(
            f"grammar '{name}' does not compile: '{exc.filename}' cannot be read",
            hint="a grammar is one file: write into it what %import takes from others",
        )
    return GrammarError(
        f"grammar '{name}' does not compile: {_first_lines(exc)}", hint="see the Lark grammar reference"
    )


def _where(text: str, exc: UnexpectedInput) -> str:
    if isinstance(exc, UnexpectedToken) and exc.token.type == "$END":
        return f"it ends too early, at column {len(text) + 1}"
    if isinstance(exc, UnexpectedCharacters | UnexpectedToken):
        return f"line {exc.line}, column {exc.column}: unexpected {text[exc.pos_in_stream or 0 :][:12]!r}"
    return "it ends too early"


def _first_lines(exc: BaseException) -> str:
    return " ".join(line.strip() for line in str(exc).splitlines()[:3]) or type(exc).__name__
