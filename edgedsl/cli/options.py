"""Flags that several commands share, made from the project file's dataclasses."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edgedsl.config import SECTIONS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def project_option() -> Decorator:
    """``--project``: the project file or its folder."""
    return click.option(
        "--project", "project_file", type=click.Path(path_type=Path), default=None,
        help="Project file, or the folder it is in.  [default: ./edgedsl.toml]",
    )  # fmt: skip


def json_option(what: str = "Print one JSON object instead of text.") -> Decorator:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=what)


def section_options(section: str, *, leave_out: frozenset[str] = frozenset()) -> Decorator:
    """One flag for each key of a section; the default is what the project file says (``None`` here)."""
    kind = SECTIONS[section]
    types = typing.get_type_hints(kind)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(fields(kind)):
            if item.name in leave_out:
                continue
            flag = "--" + item.name.replace("_", "-")
            text = item.metadata["help"]
            if types[item.name] is bool:
                option = click.option(f"{flag}/--no-{flag[2:]}", item.name, default=None, help=f"{text}")
            else:
                choices = item.metadata["choices"]
                value_type = click.Choice(choices) if choices else types[item.name]
                shown = f"  [default: {item.default}]" if item.default != "" else ""
                option = click.option(flag, item.name, type=value_type, default=None, help=text + shown)
            function = option(function)
        return function

    return decorate
