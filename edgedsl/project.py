"""A new project: project file, sample language, pairs. It works as it stands and is meant to be changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.config import PROJECT_FILE, SECTIONS
from edgedsl.errors import ConfigError

SPLITS = ("train", "dev", "test")
REFUSALS = "data/refusals.jsonl"  # what the sample language cannot express, to measure
NUM_DEV = 100
NUM_TEST = 200
# A bundle and the server's model are called after the project.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# These say what the project is; all other keys are commented out, with their default.
_ACTIVE = ("project", "data")

_HEADER = """\
# edgedsl project. Relative paths start from this folder; unknown keys are errors.
# Flags and EDGEDSL_<COMMAND>_<FLAG> variables override what is written here. A key behind '#' shows its default.
"""

_GRAMMAR_HEADER = """\
// flow, the sample language of edgedsl: trigger-action workflows. Change it, or write your own language:
// a Lark grammar, LALR(1), start rule `start`. The terminals of %declare are the lists of names in catalogue.json.
"""

_GITIGNORE = "/adapter/\n/bundle/\n*.edgedsl\n"

_README = """\
# {name}

An edgedsl project, filled with the sample language `flow`. Next:

    cd {name}
    edgedsl data check                 # the pairs parse, fit and do not leak between the parts
    edgedsl train                      # writes adapter/
    edgedsl export                     # writes bundle/, with its measured quality
    edgedsl generate "turn on the heater"

| file | what |
| --- | --- |
| `{project_file}` | every setting, with its meaning |
| `grammar.lark` | the language; no program that it does not accept is ever generated |
| `catalogue.json` | the names a program may use |
| `data/*.jsonl` | pairs, one a line: `{{"prompt": "...", "target": "...", "group": "..."}}` |

A request that the language cannot express is answered by a program of its own, `unsupported`: the rule `refusal` of the
grammar, and 6 % of the pairs. `edgedsl eval --refusals {refusals}` measures it on phrases that training never saw.

For a language of your own, replace the grammar, the catalogue and the pairs. Pairs of one `group` belong in one file:
rows that differ in a name only would otherwise make the test look better than it is.
"""


def write_project(
    folder: Path, *, num_train: int = 2000, seed: int = 0, num_dev: int = NUM_DEV, num_test: int = NUM_TEST
) -> list[str]:
    """Write a project into a new or empty folder; it appears whole or not at all.

    Returns:
        Names of the files, relative to ``folder``, in the order of reading.

    Raises:
        ConfigError: a name that cannot be used, a folder that is not empty or cannot be written.
        DataError: fewer pairs than asked for can be made.
    """
    folder = check_target(folder)
    try:
        with atomic.staged_directory(folder) as staging:
            _fill(staging, folder.name, num_train, num_dev, num_test, seed)
    except OSError as exc:
        raise ConfigError(f"project '{folder}' cannot be written: {exc.strerror}", hint="name another folder") from exc
    data = [f"data/{part}.jsonl" for part in SPLITS]
    return [PROJECT_FILE, "grammar.lark", "catalogue.json", *data, REFUSALS, "README.md", ".gitignore"]


def check_target(folder: Path) -> Path:
    """The absolute folder, after checking that a project may be made there.

    Raises:
        ConfigError: the last part is no name, the folder is the current one, or something is there.
    """
    path = folder.expanduser().resolve()
    if not _NAME.fullmatch(path.name):
        raise ConfigError(
            f"project name {path.name!r} is not usable, expected letters, digits, '.', '_', '-' (64 at most)",
            hint="run 'edgedsl init my-language'",
        )
    if path == Path.cwd():
        raise ConfigError("the current folder cannot be replaced by a project", hint="run 'edgedsl init my-language'")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            kind = "is not empty" if path.is_dir() else "is a file"
            raise ConfigError(f"'{folder}' {kind}; nothing was written", hint="name a new folder, or empty that one")
    except OSError as exc:
        raise ConfigError(f"'{folder}' cannot be read: {exc.strerror}", hint="name another folder") from exc
    return path


def project_toml(name: str) -> str:
    """The text of edgedsl.toml: each section and key with its help as comment."""
    sections = [_section(section, kind, name) for section, kind in SECTIONS.items()]
    return "\n".join([_HEADER, *sections])


def _fill(staging: Path, name: str, num_train: int, num_dev: int, num_test: int, seed: int) -> None:
    from edgedsl.grammars.flow_pairs import write_dataset

    language = files("edgedsl.grammars")
    grammar = language.joinpath("flow.lark").read_text(encoding="utf-8")
    rules = re.sub(r"\A(//.*\n)+", "", grammar)
    (staging / PROJECT_FILE).write_text(project_toml(name), encoding="utf-8")
    (staging / "grammar.lark").write_text(_GRAMMAR_HEADER + rules, encoding="utf-8")
    (staging / "catalogue.json").write_bytes(language.joinpath("flow.catalogue.json").read_bytes())
    (staging / "README.md").write_text(
        _README.format(name=name, project_file=PROJECT_FILE, refusals=REFUSALS), encoding="utf-8"
    )
    (staging / ".gitignore").write_text(_GITIGNORE, encoding="utf-8")
    write_dataset(staging / "data", num_train=num_train, num_dev=num_dev, num_test=num_test, seed=seed)


def _section(section: str, kind: type, name: str) -> str:
    lines = [f"# {(kind.__doc__ or '').strip()}", f"[{section}]"]
    for item in fields(kind):
        value = name if (section, item.name) == ("project", "name") else item.default
        mark = "" if section in _ACTIVE else "#"
        lines += [f"# {_help(item.metadata)}", f"{mark}{item.name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _help(metadata: Mapping[str, Any]) -> str:
    text, choices = metadata["help"], metadata["choices"]
    return f"{text} One of: {', '.join(choices)}." if choices else text


def _toml(value: object) -> str:
    # JSON spells strings, booleans and numbers as TOML does.
    return json.dumps(value)
