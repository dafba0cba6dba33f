"""The sentences to measure: those in the bundle, or a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.errors import DataError

BUNDLED = "eval/dev.json"
_SHAPE = 'objects with "prompt" and, if wanted, "target" are expected'


@dataclass(frozen=True)
class Prompt:
    """A sentence; ``target`` is None where the right program is not known."""

    prompt: str
    target: str | None


def read_prompts(path: Path) -> list[Prompt]:
    """Read JSONL with ``prompt`` and, if wanted, ``target``; empty lines are skipped.

    Raises:
        DataError: missing file, a line of another shape (named as file:line), or no prompt at all.
    """
    lines = _read(path, "give another --prompts").split("\n")
    prompts = [_prompt(_json(line, f"{path}:{n}"), f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    return _some(prompts, path)


def bundled_prompts(bundle: Path) -> list[Prompt]:
    """The dev pairs that the bundle carries.

    Raises:
        DataError: it has none.
    """
    path = bundle / BUNDLED
    document = _json(_read(path, "give sentences with --prompts FILE"), str(path))
    if not isinstance(document, list):
        raise DataError(f"'{path}' holds a {type(document).__name__}, expected a list", hint=_SHAPE)
    return _some([_prompt(item, f"{path}, entry {n}") for n, item in enumerate(document, 1)], path)


def _some(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise DataError(f"'{path}' holds no sentences", hint="give others with --prompts FILE")
    return prompts


def _read(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as exc:
        raise DataError(f"sentences '{path}' do not exist", hint=hint) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"sentences '{path}' cannot be read: {exc}", hint=hint) from exc


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise DataError(f"{source}: not JSON: {exc}", hint=_SHAPE) from exc


def _prompt(row: Any, source: str) -> Prompt:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    target = row.get("target") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise DataError(f'{source}: no string "prompt"', hint=_SHAPE)
    if target is not None and not isinstance(target, str):
        raise DataError(f'{source}: "target" is {repr(target)[:40]}, expected a string', hint=_SHAPE)
    return Prompt(prompt, target)
