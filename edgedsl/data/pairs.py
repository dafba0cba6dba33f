"""Pairs of sentence and program: reading, checking, and saying what is wrong with which line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgedsl.errors import DataError, GenerationError, GrammarError
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer

Row = TypeVar("Row")
_LISTED = 20


@dataclass(frozen=True)
class Pair:
    """A sentence (``prompt``) and its program (``target``); ``source`` is file:line."""

    id: str
    prompt: str
    target: str
    group: str
    source: str


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. ``reason`` is one of empty, grammar, decoding, too_long."""

    source: str
    reason: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        """Plain data for ``rejected.jsonl``."""
        return asdict(self)


def read_pairs(path: Path) -> list[Pair]:
    """Read JSON lines (``*.gz``: gzip'd) of objects with ``prompt``, ``target`` and, if wanted, ``id`` and ``group``.

    Other keys are left alone and empty lines are skipped.

    Raises:
        DataError: missing file, a line that is no such object (named as file:line), or no pair at all.
    """
    pairs = [_pair(line, f"{path}:{number}", number) for number, line in _lines(path)]
    if not pairs:
        raise DataError(f"'{path}' holds no pairs", hint='write one object a line: {"prompt": "...", "target": "..."}')
    return pairs


def spread(rows: Sequence[Row], num_rows: int | None) -> list[Row]:
    """``num_rows`` of them, evenly spaced over all: files are often sorted. None, or more than there are: all."""
    if num_rows is None or num_rows >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // num_rows] for i in range(num_rows)]


def check_pairs(
    pairs: Sequence[Pair], grammar: Grammar, tokenizer: Tokenizer, template: PromptTemplate, max_tokens: int
) -> tuple[list[Pair], list[BadRow]]:
    """Split pairs into usable ones and bad rows.

    A target must parse under Lark *and* be reachable for the decoding engine: a program that only one of the two
    accepts could be learned but never generated.

    Args:
        max_tokens: longest prompt plus target plus end token.
    """
    compiled = grammar.compile(tokenizer, tokenizer.end_token_ids(template))
    checker = _Checker(grammar, compiled, tokenizer, template, max_tokens)
    good: list[Pair] = []
    bad: list[BadRow] = []
    for pair in pairs:
        problem = checker.problem(pair)
        if problem is None:
            good.append(pair)
        else:
            bad.append(BadRow(pair.source, *problem))
    return good, bad


def settle(bad: Sequence[BadRow], on_bad_row: str) -> None:
    """Refuse bad rows unless they were to be dropped.

    Raises:
        DataError: there are bad rows and ``on_bad_row`` is ``refuse``; the first 20 are listed.
    """
    if bad and on_bad_row != "drop":
        listed = "".join(f"\n  {row.source}: {row.reason}: {row.detail}" for row in bad[:_LISTED])
        more = f"\n  ... and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise DataError(
            f"{len(bad)} row{'s' if len(bad) > 1 else ''} cannot be used:{listed}{more}",
            hint="mend them ('edgedsl data check' lists all), or leave them out with '--on-bad-row drop'",
        )


class _Checker:
    def __init__(
        self,
        grammar: Grammar,
        compiled: CompiledGrammar,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        max_tokens: int,
    ) -> None:
        self._grammar = grammar
        self._compiled = compiled
        self._tokenizer = tokenizer
        self._template = template
        self._max_tokens = max_tokens
        # Paraphrases share programs; parsing each one once saves most of the time.
        self._targets: dict[str, tuple[tuple[str, str] | None, int]] = {}

    def problem(self, pair: Pair) -> tuple[str, str] | None:
        for name in ("prompt", "target"):
            if not getattr(pair, name).strip():
                return "empty", f"{name} is empty"
        if pair.target not in self._targets:
            self._targets[pair.target] = self._target(pair.target)
        problem, num_target = self._targets[pair.target]
        if problem is not None:
            return problem
        num_tokens = len(self._tokenizer.encode_prompt(self._template, pair.prompt)) + num_target
        if num_tokens > self._max_tokens:
            return "too_long", f"{num_tokens} tokens, expected at most {self._max_tokens}"
        return None

    def _target(self, target: str) -> tuple[tuple[str, str] | None, int]:
        try:
            self._grammar.parse(target)
        except GrammarError as exc:
            return ("grammar", exc.message), 0
        token_ids = self._tokenizer.encode_plain(target)
        matcher = self._compiled.matcher()
        try:
            for token_id in token_ids:
                matcher.consume(token_id)
            complete = matcher.is_accepting()
        except GenerationError as exc:
            return ("decoding", f"Lark parses it, the decoding engine does not: {exc.message}"), 0
        if not complete:
            return ("decoding", "Lark parses it, the decoding engine takes it for unfinished"), 0
        return None, len(token_ids) + 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except FileNotFoundError as exc:
        raise DataError(
            f"pairs '{path}' do not exist",
            hint="name the file you mean, in the command or under [data] in edgedsl.toml",
        ) from exc
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise DataError(
            f"pairs '{path}' cannot be read: {exc}", hint="UTF-8 JSON lines are expected, .gz if gzip'd"
        ) from exc
    # Not splitlines(): U+2028 and the like may stand inside a JSON string.
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _pair(line: str, source: str, number: int) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as exc:
        raise DataError(f"{source}: not JSON: {exc}", hint="one JSON object a line is expected") from exc
    if not isinstance(row, dict):
        raise DataError(f"{source}: a JSON {type(row).__name__}, expected an object")
    for name in ("prompt", "target"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{source}: '{name}' is {_short(row.get(name))}, expected a string")
    return Pair(str(row.get("id", number)), row["prompt"], row["target"], str(row.get("group") or ""), source)


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


def rejected_lines(bad: Iterable[BadRow]) -> str:
    """The bad rows as JSON lines."""
    return "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in bad)
