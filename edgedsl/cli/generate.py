"""``edgedsl generate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option, project_option, section_options
from edgedsl.errors import EdgeDSLError, RequestError


@click.command("generate")
@click.argument("sentences", nargs=-1)
@project_option()
@click.option(
    "--bundle", type=click.Path(path_type=Path), default=None, help="Bundle folder.  [default: [export] output]"
)
@section_options("generate")
@section_options("runtime")
@click.option("--stream", is_flag=True, help="Print text as it is decoded.")
@json_option("Print one JSON object per sentence: program, token counts, finish_reason, timings.")
def command(
    sentences: tuple[str, ...],
    project_file: Path | None,
    bundle: Path | None,
    stream: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Turn SENTENCES into programs, one a line.

    Without arguments, reads JSONL from standard input: objects with "prompt" (or plain JSON strings). A sentence that
    fails gives an error line on stderr (with --json: an "error" object in its place), the others go on, and the exit
    code is that of the last failure. Programs that --max-tokens made shorter are whole all the same; a warning names
    them.

    \b
      edgedsl generate "text Ana on my way"
      edgedsl generate --json < sentences.jsonl
    """
    from edgedsl.config import load_config, override
    from edgedsl.runtime.engine import Engine
    from edgedsl.runtime.sampling import SamplingParams

    config = load_config(project_file)
    config = override(config, "generate", {k: v for k, v in flags.items() if hasattr(config.generate, k)})
    config = override(config, "runtime", {k: v for k, v in flags.items() if hasattr(config.runtime, k)})
    params = SamplingParams.from_section(config.generate)
    engine = Engine.from_bundle(bundle or config.path(config.export.output), **asdict(config.runtime))
    click.echo(f"{engine.name} on {engine.execution_provider}, loaded in {engine.load_ms:.0f} ms", err=True)
    exit_code = 0
    for sentence in sentences or _read_jsonl(sys.stdin.buffer):
        exit_code = _answer(engine, sentence, params, stream=stream and not as_json, as_json=as_json) or exit_code
    sys.exit(exit_code)


def _answer(engine: Any, sentence: str | RequestError, params: Any, *, stream: bool, as_json: bool) -> int:
    pieces: list[str] = []

    def show(piece: str) -> None:
        pieces.append(piece)
        click.echo(piece, nl=False)

    try:
        if isinstance(sentence, RequestError):
            raise sentence
        completion = engine.generate(sentence, params, on_text=show if stream else None)
    except EdgeDSLError as exc:
        if pieces:
            click.echo()  # what was streamed is no program; the next one starts on a line of its own
        click.echo(f"error: {exc.message}", err=True)
        if exc.hint:
            click.echo(f"hint: {exc.hint}", err=True)
        if as_json:
            click.echo(json.dumps({"error": exc.message, "exit_code": exc.exit_code}))
        return exc.exit_code
    click.echo(json.dumps(completion.to_dict(), ensure_ascii=False) if as_json else ("" if stream else completion.text))
    if completion.finish_reason == "length":
        click.echo(
            f"warning: --max-tokens {params.max_tokens} made this program shorter than the model wanted", err=True
        )
    return 0


def _read_jsonl(lines: Iterable[bytes]) -> Iterator[str | RequestError]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _sentence(line, f"standard input, line {number}")


def _sentence(line: bytes, where: str) -> str | RequestError:
    hint = 'write {"prompt": "..."} or "..." a line'
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        return RequestError(f"{where}: not JSON: {exc}", hint=hint)
    prompt = row.get("prompt") if isinstance(row, dict) else row
    return prompt if isinstance(prompt, str) else RequestError(f'{where}: no string "prompt"', hint=hint)
