"""What the command lines of the measurements share: a result file and its rows, or one message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgedsl import atomic, machine
from edgedsl.errors import EdgeDSLError
from edgedsl.evaluation.record import busy_caveat, head

Record = dict[str, Any]


def run(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, measure: Callable[[argparse.Namespace], Record]
) -> int:
    """Add ``--output``, read the arguments and write what is measured there; returns the exit code."""
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: write_result(measure(options), options.output))


def add_bundle(parser: argparse.ArgumentParser, pairs: str) -> None:
    """Add ``--bundle``, ``--pairs`` (``pairs`` says what for), ``--num-rows`` and ``--num-threads``."""
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    parser.add_argument("--pairs", type=Path, required=True, help=pairs)
    parser.add_argument(
        "--num-rows", type=at_least(1), default=None, help="pairs to take, evenly spaced (default: all)"
    )
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--num-threads``."""
    parser.add_argument(
        "--num-threads", type=at_least(0), default=0, help="threads of a model call; 0 takes every core"
    )


def write_result(record: Record, output: Path) -> None:
    """Write a result and print its rows."""
    atomic.write_json(output, record)
    print(json.dumps(record["rows"]))


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an option that is a whole number: argparse refuses a smaller one, and says what was expected."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {minimum}")
        return number

    return read


def document(
    kind: str, title: str, rows: Sequence[Record], load: float | None, caveats: Sequence[str] = (), **caption: str
) -> Record:
    """What most results hold, with room for more.

    Args:
        kind: of :mod:`edgedsl.bench.table`.
        title: of its table.
        rows: of the table.
        load: average at the start; a busy machine is one more caveat.
        caveats: of the figures.
        caption: ``model``, ``grammar``, ``cpu`` (what runs beside its model, such as "one thread") and ``command``.
    """
    facts = machine.fingerprint()
    caption = {**caption, "cpu": f"{facts['cpu_model']}, {caption['cpu']}"}
    measured = {"machine": facts, "load_average": load, "rows": list(rows)}
    told = [*caveats, *busy_caveat(load)]
    return {**head(), "kind": kind, "title": title, "caption": caption, "caveats": told, **measured}


def exit_code(action: Callable[[], object]) -> int:
    """That of an action; an error of ours becomes one message."""
    try:
        action()
    except EdgeDSLError as error:
        say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return error.exit_code
    return 0


def say(line: str) -> None:
    """Tell people, not programs: on stderr."""
    print(line, file=sys.stderr, flush=True)
