"""Base models: an alias that comes through the package mirror, a local folder, or a Hugging Face id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedsl.basemodels.aliases import ALIASES
from edgedsl.basemodels.model import BaseModel
from edgedsl.basemodels.resolver import resolve

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ALIASES", "BaseModel", "check_tokenizer", "resolve"]


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError when the tokenizer of ``folder`` is missing or would break a grammar quietly."""
    from edgedsl.basemodels import tokenizer_check

    tokenizer_check.check_tokenizer(folder)
