"""Write the parts of the documentation that come from the code, between markers; ``--check`` only compares.

A page marks such a part with ``<!-- generated:NAME -->`` and ``<!-- /generated:NAME -->``. NAME is one of

    help     `edgedsl --help`
    cli      the help of every command
    errors   the table of errors, exit codes and HTTP statuses
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgedsl.atomic import write_text
from edgedsl.cli import group
from edgedsl.errors import EdgeDSLError

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/cli.md", "docs/errors.md")
WIDTH = 100
_PART = re.compile(r"<!-- generated:(\w+) -->\n.*?<!-- /generated:\1 -->", re.DOTALL)


def render(page: str) -> str:
    """The text of a page with its generated parts made anew."""
    return _PART.sub(lambda match: _part(match[1]), page)


def stale_pages() -> list[str]:
    """Names of pages that differ from what the code gives."""
    return [name for name in PAGES if (text := (ROOT / name).read_text(encoding="utf-8")) != render(text)]


def help_text() -> str:
    """What ``edgedsl --help`` prints."""
    return _block(_help(_context(group, "edgedsl")))


def cli_text() -> str:
    """The help of every command and subcommand, in the order of ``edgedsl --help``."""
    contexts = [context for context in _walk(_context(group, "edgedsl")) if context.parent is not None]
    return "\n\n".join(f"## {context.command_path}\n\n{_block(_help(context))}" for context in contexts)


def errors_text() -> str:
    """One row for each class of :mod:`edgedsl.errors`."""
    rows = [
        f"| {'&nbsp;' * 4 * depth}`{kind.__name__}` | {kind.exit_code} | {kind.status_code} | "
        f"{'yes' if kind.retryable else ''} | {(kind.__doc__ or '').splitlines()[0].replace('``', '`')} |"
        for depth, kind in _errors(EdgeDSLError, 0)
    ]
    return "\n".join(
        ["| error | exit code | HTTP status | try again | meaning |", "| --- | --- | --- | --- | --- |", *rows]
    )


PARTS: dict[str, Callable[[], str]] = {"help": help_text, "cli": cli_text, "errors": errors_text}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` name those that are not current."""
    if arguments not in ([], ["--check"]):
        print("usage: generate_cli.py [--check]", file=sys.stderr)
        return 2
    stale = stale_pages()
    for name in stale:
        if arguments:
            print(f"{name} is not what the code says: run 'make docs'", file=sys.stderr)
        else:
            write_text(ROOT / name, render((ROOT / name).read_text(encoding="utf-8")))
            print(f"wrote {name}")
    return int(bool(arguments and stale))


def _part(name: str) -> str:
    if name not in PARTS:
        raise SystemExit(f"marker 'generated:{name}' is not known, expected one of {', '.join(PARTS)}")
    return f"<!-- generated:{name} -->\n{PARTS[name]()}\n<!-- /generated:{name} -->"


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


def _walk(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None, name
            yield from _walk(_context(command, name, context))


def _help(context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in context.command.get_help(context).splitlines())


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def _errors(kind: type[EdgeDSLError], depth: int) -> Iterator[tuple[int, type[EdgeDSLError]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__ == EdgeDSLError.__module__:
            yield from _errors(child, depth + 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
