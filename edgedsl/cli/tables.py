"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click


def print_caveats(caveats: Sequence[str]) -> None:
    """What a reader must know before the numbers."""
    for line in caveats:
        click.echo(f"note: {line}")


def print_table(rows: Mapping[str, str]) -> None:
    """Names and values in two columns."""
    print_columns((), [(name, value) for name, value in rows.items()])


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of cells under a header (empty for none); cells are folded on a terminal and whole in a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=10_000)
    table = Table(box=None, show_header=bool(header), padding=(0, 2, 0, 0))
    for number in range(max((len(row) for row in rows), default=0)):
        name = header[number] if header else ""
        table.add_column(name, overflow="fold", no_wrap=number == 0, justify="right" if header and number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
