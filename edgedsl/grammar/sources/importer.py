"""One entry for every notation that becomes a Lark grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from edgedsl.errors import GrammarError
from edgedsl.grammar.sources import ebnf, gbnf, json_schema, regex_source, tools
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.imported import Imported

NOTATIONS = ("json-schema", "regex", "gbnf", "ebnf", "tools")
_BY_SUFFIX = {".gbnf": "gbnf", ".ebnf": "ebnf", ".regex": "regex"}


def import_grammar(
    path: Path,
    notation: str | None = None,
    *,
    calls: Literal["one", "many"] = "one",
    order: Literal["schema", "any"] = "schema",
    refusal: bool = False,
) -> Imported:
    """Read a grammar in another notation.

    Args:
        path: UTF-8 text; of a regular expression, one final line break is not part of it.
        notation: one of :data:`NOTATIONS`; None goes by the suffix, and a .json file is a list of tools where it is a
            list, else a JSON schema.
        calls: of tools only, see :func:`edgedsl.grammar.sources.tools.to_lark`.
        order: of tools only, the same.
        refusal: of tools only, the same.

    Raises:
        GrammarError: a file that cannot be read, a notation that cannot be told, or what its reader raises.
    """
    text = _text(path)
    document: Any = _json(path, text) if notation in {"json-schema", "tools"} or path.suffix == ".json" else None
    if notation is None:
        notation = _notation(path, document)
    if refusal and notation != "tools":
        raise GrammarError(
            f"a refusal can be added to tools, not to {notation}",
            hint='write it into the grammar: "start: ... | refusal"',
        )
    try:
        match notation:
            case "json-schema":
                return json_schema.to_lark(document)
            case "tools":
                return tools.to_lark(_tool_list(document), calls=calls, order=order, refusal=refusal)
            case "gbnf":
                return gbnf.to_lark(text)
            case "ebnf":
                return ebnf.to_lark(text)
            case "regex":
                return regex_source.to_lark(text.removesuffix("\n").removesuffix("\r"))
    except RecursionError as exc:
        raise GrammarError(f"'{path}' is nested more deeply than can be read", hint=ex.TOO_DEEP) from exc
    raise GrammarError(f"there is no notation {notation!r}", hint=f"one of {', '.join(NOTATIONS)}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise GrammarError(f"'{path}' cannot be read: {reason}") from exc


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise GrammarError(f"'{path}' is not JSON that can be read: it is nested too deeply", hint=ex.TOO_DEEP) from exc
    except ValueError as exc:
        raise GrammarError(f"'{path}' is not JSON: {exc}", hint="--from names another notation") from exc


def _notation(path: Path, document: Any) -> str:
    if document is not None:
        return "tools" if isinstance(document, list) else "json-schema"
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    raise GrammarError(
        f"the notation of '{path}' cannot be told from its name", hint=f"--from names it: {', '.join(NOTATIONS)}"
    )


def _tool_list(document: Any) -> list[dict[str, Any]]:
    if not isinstance(document, list):
        raise GrammarError(f"the tools are {type(document).__name__}, expected a list of objects")
    return document
