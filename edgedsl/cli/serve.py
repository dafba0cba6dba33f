"""``edgedsl serve``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedsl.cli.options import project_option, section_options
from edgedsl.config import Config, load_config, override
from edgedsl.errors import ConfigError

if TYPE_CHECKING:
    from edgedsl.serving.runner import Generator


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@project_option()
@section_options("serve")
@section_options("runtime")
def command(bundle: Path | None, project_file: Path | None, **flags: Any) -> None:
    """Serve BUNDLE (default: the one of [export]) over HTTP, in the form of OpenAI's chat completions.

    \b
    POST /v1/chat/completions    {"model": NAME, "messages": [{"role": "user", "content": SENTENCE}]}
    GET  /v1/models              the bundle's name
    GET  /health/live            200 while the process works
    GET  /health/ready, /health  200 when it takes requests
    GET  /openapi.json           the API in full

    A line of the API key file is KEY, or KEY allow=NAME,NAME deny=NAME: requests with this key get that part of what
    [generate] leaves of the catalogue, and can only narrow it. Names with blanks stand in quotes, as in a shell. The
    parts are compiled at the start; of more than 16, with those that requests ask for, the ones used last are kept.

    SIGTERM and Ctrl-C let running and queued requests finish; a second one ends at once.
    """
    config = load_config(project_file)
    for name in ("serve", "runtime"):
        config = override(config, name, {k: v for k, v in flags.items() if hasattr(getattr(config, name), k)})
    path = bundle or config.path(config.export.output)
    key_file, folder = (_path(name, flags, config) for name in ("api_key_file", "keep_disagreements"))
    run = _import_run()
    from edgedsl.runtime.disagreements import Disagreements

    disagreements = Disagreements(folder)

    def load() -> Generator:
        from edgedsl.runtime.engine import Engine

        engine = Engine.from_bundle(path, **asdict(config.runtime), num_slots=config.serve.streams)
        engine.warm_up()
        engine.disagreements = disagreements
        return engine

    run.serve(load, config.serve, key_file=key_file, defaults=config.generate)


def _path(name: str, flags: dict[str, Any], config: Config) -> Path | None:
    """A path of [serve]: a flag is seen from the current folder, the project file's value from its own."""
    if flags[name]:
        return Path(flags[name])
    value: str = getattr(config.serve, name)
    return config.path(value) if value else None


def _import_run() -> Any:
    try:
        from edgedsl.serving import run
    except ModuleNotFoundError as exc:
        raise ConfigError(f"serving needs the package '{exc.name}'", hint="pip install 'edgedsl[cpu,serve]'") from exc
    return run
