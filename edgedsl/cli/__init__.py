"""The command line: parse, make one call, print. Heavy imports live inside the commands."""

from __future__ import annotations

import importlib
import os
import sys
from typing import IO, Any

import click

from edgedsl._version import __version__
from edgedsl.errors import EdgeDSLError

# One line each: the group's help must not import the commands.
COMMANDS = {
    "init": "Write a new project that works as it stands.",
    "grammar": "Check, sample, draw, explain and fuzz a grammar.",
    "data": "Check the pairs of sentence and program.",
    "train": "Fine-tune the base model on the pairs (LoRA, QLoRA).",
    "export": "Merge, export, quantise, check and write the bundle.",
    "generate": "Turn sentences into programs.",
    "eval": "Measure a bundle's quality on pairs.",
    "serve": "Serve a bundle over HTTP (OpenAI-compatible).",
    "bench": "Measure a bundle's speed on this machine.",
    "bundle": "Verify, show, pack and unpack bundles.",
    "model": "Fetch and show base models.",
    "doctor": "What this machine has, what is missing, and how to mend it.",
    "demo": "The whole path on the sample language, in minutes.",
}


class ReaderGone(click.ClickException):
    """Nobody reads our output any more (`| head`). Click by itself would exit with 1, which means a bug of ours."""

    exit_code = 141  # what a shell reports for SIGPIPE

    def show(self, file: IO[Any] | None = None) -> None:
        """Say nothing, and let Python's flush at exit succeed."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class LazyGroup(click.Group):
    """A group that imports a command's module when the command runs."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse; prints help and version."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as exc:
            raise ReaderGone("") from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise ReaderGone("") from exc
        except ModuleNotFoundError as exc:
            from edgedsl.cli.extras import missing_extra

            error = missing_extra(exc)
            if error is None:
                raise
            raise error from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``edgedsl.cli.NAME`` and take its ``command``."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"edgedsl.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command for a typing error."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near and "Did you mean" not in exc.message:
                raise click.UsageError(f"{exc.message} Did you mean '{near[0]}'?", exc.ctx) from exc
            raise


@click.group(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": "EDGEDSL", "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="edgedsl")
def group() -> None:
    """Natural language to programs of your own small language, on your own box.

    Every command reads edgedsl.toml in the current folder; flags override it, and so do EDGEDSL_<COMMAND>_<FLAG>
    variables.
    """


def main() -> None:
    """Entry point: our errors become one message, a hint and a documented exit code."""
    # ONNX Runtime reads this when it is imported; later is too late (design.md, traps).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        group.main(prog_name="edgedsl", standalone_mode=False)
    except EdgeDSLError as exc:
        click.echo(f"error: {exc.message}", err=True)
        if exc.hint:
            click.echo(f"hint: {exc.hint}", err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
