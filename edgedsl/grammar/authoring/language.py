"""A grammar on disk with what belongs to it: its catalogue and its cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GrammarError
from edgedsl.grammar.authoring.refusal import is_unicode
from edgedsl.grammar.grammar import Grammar

KINDS = ("accept", "reject", "incomplete")


@dataclass(frozen=True)
class Case:
    """A string and what the grammar must say of it: ``accept``, ``reject`` or ``incomplete``."""

    kind: str
    text: str
    source: str


@dataclass(frozen=True)
class Language:
    """What a grammar is made of.

    Attributes:
        name: of the file, without its suffix.
        text: the Lark text as it was written, nothing bound.
        catalogue: what its declared terminals may spell; None where there is no catalogue.
        cases: strings with the expected verdict.
    """

    name: str
    text: str
    catalogue: Catalogue | None
    cases: tuple[Case, ...]

    @cached_property
    def source(self) -> str:
        """The Lark text with the catalogue bound.

        Raises:
            GrammarError: grammar and catalogue do not fit together.
        """
        return bind(self.text, self.catalogue)

    def grammar(self) -> Grammar:
        """Compile.

        Raises:
            GrammarError: it does not.
        """
        return Grammar(self.source, name=self.name, catalogue=self.catalogue)


def open_language(grammar: str, catalogue: Path | None = None, cases: Path | None = None) -> Language:
    """Read a grammar by its file or, for a shipped one, by its name.

    A catalogue and cases that are not given are looked for beside the grammar, as ``NAME.catalogue.json`` and
    ``NAME.cases.jsonl``, and then, for a grammar that declares terminals, as ``catalogue.json``.

    Raises:
        GrammarError: a file is missing or malformed.
    """
    path, catalogue, cases = find_files(grammar, catalogue, cases)
    return Language(
        path.stem,
        _read(path),
        Catalogue.from_file(catalogue) if catalogue else None,
        tuple(read_cases(cases) if cases else ()),
    )


def find_files(
    grammar: str, catalogue: Path | None = None, cases: Path | None = None
) -> tuple[Path, Path | None, Path | None]:
    """The files that :func:`open_language` reads: grammar, catalogue, cases.

    Raises:
        GrammarError: there is no such grammar, or it cannot be read.
    """
    path = grammar_path(grammar)
    found = [path.with_suffix(".catalogue.json")]
    if "%declare" in _read(path):
        found.append(path.with_name("catalogue.json"))
    beside = path.with_suffix(".cases.jsonl")
    return (
        path,
        catalogue or next((p for p in found if p.exists()), None),
        cases or (beside if beside.exists() else None),
    )


def shipped() -> list[str]:
    """Names of the grammars that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.lark"))


def read_cases(path: Path) -> Iterator[Case]:
    """Read JSON lines of objects with ``kind`` and ``text``; other keys are left alone, empty lines skipped.

    Raises:
        GrammarError: missing file, or a line that is no such object (named as file:line).
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise GrammarError(f"cases '{path}' cannot be read: {exc}") from exc
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _case(line, f"{path.name}:{number}")


def _case(line: str, source: str) -> Case:
    hint = 'one object a line is expected: {"kind": "accept", "text": "..."}'
    try:
        row = json.loads(line)
    except ValueError as exc:
        raise GrammarError(f"{source}: not JSON: {exc}", hint=hint) from exc
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not is_unicode(row["text"]):
        raise GrammarError(f"{source}: no object with a string 'text'", hint=hint)
    if row.get("kind") not in KINDS:
        raise GrammarError(f"{source}: kind is {row.get('kind')!r}, expected one of {', '.join(KINDS)}", hint=hint)
    return Case(row["kind"], row["text"], source)


def grammar_path(grammar: str) -> Path:
    """The file of a grammar that is given as one, or by the name of a shipped one.

    Raises:
        GrammarError: there is neither.
    """
    if grammar in shipped() and not Path(grammar).is_file():
        return _folder() / f"{grammar}.lark"
    path = Path(grammar)
    if not path.is_file():
        raise GrammarError(
            f"grammar '{grammar}' does not exist",
            hint=f"give a .lark file, or one of the shipped grammars: {', '.join(shipped())}",
        )
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise GrammarError(f"grammar '{path}' cannot be read: {exc}") from exc


def _folder() -> Path:
    return Path(str(files("edgedsl.grammars")))
