"""The bytes that each token of a tokenizer stands for, and a file of them, since working them out takes long."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import llguidance

from edgedsl.errors import ModelError

FILE_NAME = "tokenizer.bytes.json"
_ONE_CHARACTER_A_BYTE = "latin-1"


def work_out(json_text: str) -> list[bytes]:
    """Bytes by token id, of a special token those of its name.

    Args:
        json_text: of tokenizer.json.

    Raises:
        ModelError: tokens of a kind whose bytes are not known.
    """
    try:
        tokens = llguidance.LLTokenizer(json_text, slices=[])
    except ValueError as exc:
        raise ModelError(f"the tokenizer cannot be used for constrained decoding: {exc}") from exc
    return [tokens.decode_bytes([token_id]) for token_id in range(tokens.vocab_size)]


def to_json(json_text: str) -> str:
    """The content of the file.

    Raises:
        ModelError: see :func:`work_out`.
    """
    tokens = [data.decode(_ONE_CHARACTER_A_BYTE) for data in work_out(json_text)]
    return json.dumps({**_origin(json_text), "tokens": tokens})


def read(path: Path, json_text: str) -> list[bytes] | None:
    """What :func:`work_out` gives, from a file; None where the file is of another tokenizer or engine.

    Raises:
        ModelError: cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        origin = _origin(json_text)
        if {name: found[name] for name in origin} != origin:
            return None
        return [text.encode(_ONE_CHARACTER_A_BYTE) for text in found["tokens"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ModelError(
            f"'{path}' does not hold the bytes of a tokenizer's tokens: {exc}", hint="export the bundle again"
        ) from exc


def _origin(json_text: str) -> dict[str, str]:
    return {"llguidance": llguidance.__version__, "sha256": hashlib.sha256(json_text.encode()).hexdigest()}
