"""``edgedsl init``."""

from __future__ import annotations

from pathlib import Path

import click

# Above this the generator of pairs no longer fills a split by group.
_MAX_ROWS = 5000
_NEXT = ("edgedsl data check", "edgedsl train", "edgedsl export", 'edgedsl generate "turn on the heater"')


@click.command("init")
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(1, _MAX_ROWS), default=2000, show_default=True, help="Pairs to train on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the pairs.")
def command(folder: Path, rows: int, seed: int) -> None:
    """Write a new project into the folder NAME.

    The project holds the sample language `flow` and generated pairs, and works as it stands. The last part of NAME
    becomes the name of the project. A folder that is not empty is never touched.
    """
    from edgedsl.project import write_project

    names = write_project(folder, num_train=rows, seed=seed)
    click.echo(f"wrote {folder}: {', '.join(names)}")
    click.echo("next:")
    for line in (f"cd {folder}", *_NEXT):
        click.echo(f"  {line}")
