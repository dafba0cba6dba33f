"""run.json, the record of a finished adapter: read it, and see that it belongs to a base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgedsl.errors import ModelError, first_line

RUN_FILE = "run.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "prompt.json", "grammar.lark")


def read_run(adapter: Path) -> dict[str, Any]:
    """run.json of an adapter folder.

    Raises:
        ModelError: the folder is not an adapter that ``edgedsl train`` finished.
    """
    missing = [name for name in _ADAPTER_FILES if not (adapter / name).is_file()]
    try:
        run: dict[str, Any] = json.loads((adapter / RUN_FILE).read_text(encoding="utf-8"))
        _ = run["base_model"]["name"], run["base_model"]["sha256"], run["config"]["train"]["quantization"]
        reason = f"{missing[0]} is missing" if missing else ""
    except FileNotFoundError:
        reason = "run.json is missing"
    except (OSError, ValueError, KeyError, TypeError) as exc:
        reason = f"run.json cannot be used: {type(exc).__name__}: {first_line(exc)}"
    if reason:
        raise ModelError(
            f"'{adapter}' is not a finished adapter: {reason}", hint="run 'edgedsl train', or 'edgedsl train --resume'"
        )
    return run


def check_base(run: dict[str, Any], base_sha256: str, base_name: str) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        ModelError: the weights of the base are not those the adapter was trained on.
    """
    trained_on = run["base_model"]
    if trained_on["sha256"] != base_sha256:
        raise ModelError(
            f"the adapter was trained on '{trained_on['name']}' (sha256 {trained_on['sha256'][:12]}), "
            f"the base model '{base_name}' is another (sha256 {base_sha256[:12]})",
            hint="set [project] base_model to the one of training, or train again",
        )
