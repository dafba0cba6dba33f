"""What a project's pairs are read with: base model, tokenizer, prompt template and grammar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.basemodels import ALIASES, BaseModel, resolve
from edgedsl.config import Config
from edgedsl.errors import ModelError
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer


@dataclass(frozen=True)
class ProjectInputs:
    """The parts of a project that training, evaluation and data checks share."""

    base: BaseModel
    tokenizer: Tokenizer
    template: PromptTemplate
    grammar: Grammar
    grammar_path: Path
    catalogue_path: Path | None

    def compile(self) -> CompiledGrammar:
        """The grammar over the base model's tokens."""
        return self.grammar.compile(self.tokenizer, self.tokenizer.end_token_ids(self.template))


def open_inputs(config: Config, *, offline: bool = False) -> ProjectInputs:
    """Resolve the base model and read tokenizer, prompt template and grammar.

    Raises:
        EdgeDSLError: any of them is missing or malformed.
    """
    grammar_path = config.path(config.project.grammar)
    catalogue_path = config.path(config.project.catalogue) if config.project.catalogue else None
    grammar = Grammar.from_files(grammar_path, catalogue_path)
    base = resolve_base(config, offline=offline)
    tokenizer = Tokenizer.from_file(base.path / "tokenizer.json")
    if config.project.prompt:
        template = PromptTemplate.from_file(config.path(config.project.prompt))
    else:
        template = default_template(base.path)
    return ProjectInputs(base, tokenizer, template, grammar, grammar_path, catalogue_path)


def resolve_base(config: Config, *, offline: bool) -> BaseModel:
    """The project's base model; a relative folder starts at the project file.

    Raises:
        ModelError: see :func:`edgedsl.basemodels.resolve`.
    """
    name = config.project.base_model
    folder = config.path(name)
    return resolve(str(folder) if name not in ALIASES and folder.is_dir() else name, offline=offline)


def default_template(folder: Path) -> PromptTemplate:
    """The built-in prompt with the special tokens that a model folder's tokenizer_config.json names.

    Raises:
        ModelError: no tokenizer_config.json, or one without an end token.
    """
    path = folder / "tokenizer_config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"'{path}' cannot be read: {exc}", hint="a model folder needs tokenizer_config.json") from exc
    eos_token = _content(document.get("eos_token"))
    if not eos_token:
        raise ModelError(f"'{path}' names no eos_token", hint="set [project] prompt to a prompt.json with its own end")
    return PromptTemplate.default(bos_token=_content(document.get("bos_token")), eos_token=eos_token)


def _content(token: Any) -> str | None:
    """A special token is spelled as a string or as an object with its properties."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
