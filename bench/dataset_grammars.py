"""How much of the public data sets the grammars of SQL, VQL, Cypher and Bash cover.

Run ``python -m edgedsl.bench.dataset_grammars DATA``. Catalogues come from the schemas beside the data, one per
database; a name that is not in the schema is a failure. Names in VQL ignore case: there a catalogue holds the spellings
of the schema's names that the programs use.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edgedsl.bench.command import exit_code
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import DataError, GrammarError
from edgedsl.grammar import Grammar

Terminals = dict[str, list[str]]
_WORD = re.compile(r"[A-Za-z_]\w*")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NODE = re.compile(r"- \*\*(.+?)\*\*")
_PROPERTY = re.compile(r"^\s*-\s+`([^`:]+)`?:", re.MULTILINE)
_RELATIONSHIP = re.compile(r"\[:(\w+)\]")


@dataclass(frozen=True)
class Row:
    """A target with the schema it is written against, "" where the language has one for all."""

    target: str
    group: str


@dataclass(frozen=True)
class Language:
    """A grammar with its data set: ``catalogues`` makes one catalogue per schema."""

    folder: str
    catalogues: Callable[[Path, list[Row]], dict[str, Terminals]]


def sql_catalogues(data: Path, rows: list[Row]) -> dict[str, Terminals]:
    """The one schema of the advising data; its programs write all names in capitals."""
    del rows
    schema = _read_json(data / "schema.json.gz")
    columns = {column[0].upper() for table in schema.values() for column in table}
    return {"": {"TABLE": sorted(schema), "COLUMN": sorted(columns)}}


def vql_catalogues(data: Path, rows: list[Row]) -> dict[str, Terminals]:
    """The tables and columns of each database."""
    schemas = _read_json(data / "schemas.json.gz")
    words: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        words[row.group].update(_WORD.findall(_QUOTED.sub(" ", row.target)))
    return {
        group: {
            "TABLE": _spellings(tables, words[group]),
            "COLUMN": _spellings((column for columns in tables.values() for column in columns), words[group]),
        }
        for group, tables in schemas.items()
    }


def cypher_catalogues(data: Path, rows: list[Row]) -> dict[str, Terminals]:
    """The labels, relationship types and properties of each graph, read from its description.

    One graph has no description; its catalogue holds the names that its programs use.
    """
    catalogues = {group: graph_terminals(text) for group, text in _read_json(data / "schemas.json.gz").items()}
    for group in {row.group for row in rows} - catalogues.keys():
        targets = " ".join(_QUOTED.sub("''", row.target) for row in rows if row.group == group)
        catalogues[group] = {
            "LABEL": sorted(set(re.findall(r"\(\w*:(\w+)", targets))),
            "RELATIONSHIP": sorted(set(re.findall(r"\[\w*:(\w+)", targets))),
            "PROPERTY": sorted(set(re.findall(r"(?:[a-z]\.|\{)([A-Za-z]\w*)", targets))),
        }
    return catalogues


def graph_terminals(description: str) -> Terminals:
    """The terminals of cypher-read.lark from the description of a graph's schema."""
    properties = sorted(set(_PROPERTY.findall(description)))
    types = sorted(set(_RELATIONSHIP.findall(description.partition("The relationships:")[2])))
    labels = sorted(set(_NODE.findall(description.partition("Relationship properties:")[0])))
    return {"LABEL": labels, "RELATIONSHIP": types, "PROPERTY": properties}


def no_catalogue(data: Path, rows: list[Row]) -> dict[str, Terminals]:
    """A language without names of its own."""
    del data, rows
    return {"": {}}


LANGUAGES = {
    "sql-select": Language("advising", sql_catalogues),
    "vql": Language("nvbench", vql_catalogues),
    "cypher-read": Language("text2cypher", cypher_catalogues),
    "bash-lite": Language("nl2bash", no_catalogue),
}


class Corpus:
    """The rows of one language and the grammars that they should parse under.

    Args:
        name: of the language.
        data_dir: folder with the data sets.
        parts: data files without their ending.

    Raises:
        DataError: a missing or malformed file.
    """

    def __init__(self, name: str, data_dir: Path, parts: Iterable[str] = ("train", "dev")) -> None:
        self._name = name
        language = LANGUAGES[name]
        folder = data_dir / language.folder
        self.rows = [row for part in parts for row in _read_rows(folder / f"{part}.jsonl.gz")]
        self._catalogues = language.catalogues(folder, self.rows)
        self._grammar = cache(self._compile)

    def grammar(self, group: str) -> Grammar:
        """The grammar with the catalogue of one schema."""
        return self._grammar(group if group in self._catalogues else next(iter(self._catalogues)))

    def is_valid(self, row: Row) -> bool:
        """Whether the row counts: what Bash itself rejects does not."""
        return self._name != "bash-lite" or is_bash(row.target)

    def failures(self, rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
        """The rows that do not parse, with the first difference."""
        for row in rows:
            try:
                self.grammar(row.group).parse(row.target)
            except GrammarError as error:
                yield row, str(error).removeprefix(f"'{row.target[:80]}' does not parse under '{self._name}': ")

    def _compile(self, group: str) -> Grammar:
        text = resources.files("edgedsl.grammars").joinpath(f"{self._name}.lark").read_text(encoding="utf-8")
        return Grammar(bind(text, Catalogue.from_lists(self._catalogues[group])), name=self._name)


def is_bash(text: str) -> bool:
    """Whether Bash can read a command; nothing is run.

    Raises:
        DataError: there is no Bash on this machine.
    """
    try:
        checked = subprocess.run(["bash", "--norc", "-n"], input=text.encode(), capture_output=True, check=False)
    except FileNotFoundError as exc:
        raise DataError("bash is not on this machine", hint="install bash, or leave bash-lite out") from exc
    return checked.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Parse the targets of the public data sets with their grammars.")
    parser.add_argument("data", type=Path, help="folder that holds advising, nvbench, text2cypher and nl2bash")
    parser.add_argument("--language", action="append", choices=list(LANGUAGES), help="only this one; may be repeated")
    options = parser.parse_args(arguments)

    def report() -> None:
        for name in options.language or LANGUAGES:
            _report(name, options.data)

    return exit_code(report)


def _report(name: str, data_dir: Path) -> None:
    corpus = Corpus(name, data_dir)
    valid = [row for row in corpus.rows if corpus.is_valid(row)]
    failures = list(corpus.failures(valid))
    num_parsed = len(valid) - len(failures)
    share = num_parsed / max(1, len(valid))
    print(f"{name}: {len(corpus.rows)} rows, {len(valid)} valid, {num_parsed} parse ({share:.2%})")
    for row, reason in failures:
        print(f"  {row.group}: {reason}")


def _spellings(names: Iterable[str], words: set[str]) -> list[str]:
    """The names, and the words that are one of them but for case."""
    known = {name.lower() for name in names}
    return sorted(known | {word for word in words if word.lower() in known})


def _read_rows(path: Path) -> list[Row]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            documents = [json.loads(line) for line in file]
        return [Row(document["target"], document["group"]) for document in documents]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"'{path}' is not gzip'd JSON lines with target and group: {exc}") from exc


def _read_json(path: Path) -> Any:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError) as exc:
        raise DataError(f"'{path}' is not gzip'd JSON: {exc}") from exc


if __name__ == "__main__":
    sys.exit(main())
