"""Programs about which the two grammar engines disagree: counted, and kept for debugging where that is asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl._version import __version__
from edgedsl.errors import ConfigError, DisagreementError, GrammarError
from edgedsl.grammar import Grammar

logger = logging.getLogger("edgedsl.runtime")

# Files in the folder at which no more are written: it cannot fill a disk.
MAX_FILES = 100
_SCHEMA = 1


class Disagreements:
    """Counts the finished programs that llguidance decoded and Lark does not parse.

    A program may repeat words of the user's sentence, so nothing is kept unless a folder is given. The sentence itself
    is never kept.

    Args:
        folder: gets one JSON file for each program, made when missing, for its owner only; None keeps nothing.

    Attributes:
        count: disagreements so far.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.count = 0
        self._folder = folder
        if folder:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as exc:
                raise ConfigError(
                    f"folder '{folder}' for disagreements cannot be made: {exc.strerror}", hint="name another folder"
                ) from exc

    def add(self, grammar: Grammar, text: str, token_ids: Sequence[int]) -> DisagreementError:
        """Count one, keep it if there is a folder, and return the error to raise.

        Args:
            grammar: that the program was decoded under.
            text: the program.
            token_ids: its tokens, without the end token.
        """
        self.count += 1
        if self._folder:
            try:
                self._keep(self._folder, grammar, text, token_ids)
            except OSError as exc:  # the request fails with the disagreement, whatever the disk says
                logger.warning("a disagreement could not be kept: %s", exc.strerror)
        error = DisagreementError(
            "the two grammar engines disagree about a finished program; it was discarded",
            hint="the grammar has terminals that overlap; write them so that one text has one reading",
        )
        error.count = self.count
        return error

    def _keep(self, folder: Path, grammar: Grammar, text: str, token_ids: Sequence[int]) -> None:
        digest = _sha256(grammar.source)
        path = folder / f"{_sha256(f'{digest} {list(token_ids)}')[:16]}.json"  # the same case is kept once
        if not path.exists() and sum(1 for _ in folder.glob("*.json")) < MAX_FILES:
            atomic.write_json(path, _case(grammar, digest, text, token_ids))


def _case(grammar: Grammar, digest: str, text: str, token_ids: Sequence[int]) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": text,
        "token_ids": list(token_ids),
        "lark": _complaint(grammar, text),
        "grammar": {
            "name": grammar.name,
            "sha256": digest,
            "source": grammar.source,
        },
        "versions": {
            "edgedsl": __version__,
            **{name: importlib.metadata.version(name) for name in ("llguidance", "lark")},
        },
    }


def _complaint(grammar: Grammar, text: str) -> str:
    try:
        grammar.parse(text)
    except GrammarError as exc:
        return exc.message
    return ""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
