"""The shortest lexeme of each terminal in a tokenizer's tokens, and a file of them, since finding them takes long."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgedsl._version import __version__
from edgedsl.errors import GrammarError

FILE_NAME = "grammar.lexemes.json"
_ONE_CHARACTER_A_BYTE = "latin-1"
Lexemes = dict[str, tuple[int, bytes] | None]  # by terminal: number of tokens, bytes; None where it has none


def to_json(lexemes: Lexemes, source: str, tokenizer: str) -> str:
    """The content of the file.

    Args:
        lexemes: of a compiled grammar's planner.
        source: the grammar's, catalogue bound.
        tokenizer: the text of tokenizer.json.
    """
    spelled = {name: found and (found[0], found[1].decode(_ONE_CHARACTER_A_BYTE)) for name, found in lexemes.items()}
    return json.dumps({**_origin(source, tokenizer), "lexemes": spelled})


def read(path: Path, source: str, tokenizer: str) -> Lexemes | None:
    """What :func:`to_json` was given; None where the file is of another grammar, tokenizer or version.

    Raises:
        GrammarError: cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        origin = _origin(source, tokenizer)
        if {name: found[name] for name in origin} != origin:
            return None
        return {name: None if lexeme is None else _lexeme(*lexeme) for name, lexeme in found["lexemes"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise GrammarError(
            f"'{path}' does not hold the lexemes of a grammar: {exc}", hint="export the bundle again"
        ) from exc


def _lexeme(num_tokens: int, spelled: str) -> tuple[int, bytes]:
    text = spelled.encode(_ONE_CHARACTER_A_BYTE)
    if not 0 <= num_tokens <= len(text):
        raise ValueError(f"{len(text)} bytes are not {num_tokens} tokens")
    return num_tokens, text


def _origin(source: str, tokenizer: str) -> dict[str, str]:
    digest = hashlib.sha256()
    for text in (source, tokenizer):
        digest.update(hashlib.sha256(text.encode()).digest())
    return {"edgedsl": __version__, "sha256": digest.hexdigest()}
