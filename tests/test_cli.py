"""What every command has in common."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from interpreter import python

from edgedsl._version import __version__
from edgedsl.cli import COMMANDS, group
from edgedsl.config import SECTIONS
from edgedsl.errors import ConfigError

GROUP_HELP = """\
Usage: edgedsl [OPTIONS] COMMAND [ARGS]...

  Natural language to programs of your own small language, on your own box.

  Every command reads edgedsl.toml in the current folder; flags override it, and so do
  EDGEDSL_<COMMAND>_<FLAG> variables.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
"""


def commands() -> list[tuple[str, click.Command]]:
    """Every command and subcommand with its path."""
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", command.commands[sub]) for sub in command.commands]
    return found


def invoke(*arguments: str, **options: object) -> click.testing.Result:
    return CliRunner().invoke(group, list(arguments), prog_name="edgedsl", **options)  # type: ignore[arg-type]


def test_help_of_the_group() -> None:
    width = max(map(len, COMMANDS))
    listed = "".join(f"  {name:{width}}  {text}\n" for name, text in COMMANDS.items())
    assert invoke("--help", terminal_width=100).output == GROUP_HELP + listed
    assert invoke("-h").exit_code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: edgedsl {name} ")


def test_every_command_explains_itself_and_its_flags() -> None:
    for path, command in commands():
        help_text = command.help or ""
        assert len(help_text.split()) >= 3, path
        assert help_text.split("\n\n")[0].rstrip().endswith("."), path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts}"


def test_no_markup_is_left_in_a_help_page() -> None:
    for path, _ in commands():
        output = invoke(*path.split(), "--help").output
        assert "\\b" not in output, path
        assert "``" not in output, path


def test_the_groups_line_of_a_command_promises_no_other_subcommands() -> None:
    """The one-line texts are kept apart from the commands, so that nothing is imported; they must not drift."""
    for name, command in commands():
        if " " not in name:
            assert command.name == name or command.name == "command", name
            assert COMMANDS[name].endswith(".")


def test_no_arguments_prints_help_and_exits_with_2() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_version() -> None:
    assert invoke("--version").output == f"edgedsl, version {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("evel", "eval"), ("generat", "generate")])
def test_the_nearest_command_is_named(typed: str, meant: str) -> None:
    result = invoke(typed)
    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in result.output


def test_a_command_like_no_other_is_an_error_without_a_guess() -> None:
    result = invoke("xyzzy")
    assert result.exit_code == 2
    assert "Did you mean" not in result.output


def test_flags_of_sections_show_the_default_of_the_dataclass() -> None:
    output = invoke("train", "--help", terminal_width=200).output
    defaults = {name: field.default for name, field in SECTIONS["train"].__dataclass_fields__.items()}
    assert f"[default: {defaults['r']}]" in output
    assert f"[default: {defaults['learning_rate']}]" in output


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "train"), ("transformers.utils", "train"), ("uvicorn", "serve")]
)
def test_a_package_of_an_extra_that_is_missing_is_named_with_the_mend(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def command() -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(group, "get_command", lambda *_: command)
    error = invoke("train").exception
    assert isinstance(error, ConfigError)
    assert f"needs the package '{module.split('.', maxsplit=1)[0]}'" in error.message
    assert error.hint == f"pip install 'edgedsl[{extra}]'"


@pytest.mark.parametrize("module", ["edgedsl.nothing", "some_typing_error", None])
def test_a_module_of_ours_that_is_missing_stays_a_bug(module: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise ModuleNotFoundError("No module", name=module)

    monkeypatch.setattr(group, "get_command", lambda *_: command)
    assert isinstance(invoke("train").exception, ModuleNotFoundError)


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "edgedsl", *arguments, cwd=cwd, env={**os.environ, **env}, check=False)


def test_mistakes_give_a_message_a_hint_and_a_code_but_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "edgedsl.toml").write_text("[trian]\n", encoding="utf-8")
    done = run("data", "check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == ("error: edgedsl.toml: section 'trian' is not known\nhint: did you mean 'train'?\n")


def test_a_project_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("train", "--project", "none.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: project file 'none.toml' does not exist\nhint: run 'edgedsl init")


def test_a_value_of_a_variable_is_checked_like_a_flag(tmp_path: Path) -> None:
    done = run("train", cwd=tmp_path, EDGEDSL_TRAIN_R="many")
    assert done.returncode == 2
    assert "'many' is not a valid integer" in done.stderr
    assert "Traceback" not in done.stderr
