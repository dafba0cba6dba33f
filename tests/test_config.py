"""The project file: defaults, mistakes and who overrides whom."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgedsl.cli.options import project_option, section_options
from edgedsl.config import SECTIONS, Config, from_document, load_config, override
from edgedsl.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edgedsl.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()


def test_the_file_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[project]\nname = "here"\n')
    monkeypatch.chdir(tmp_path)
    assert load_config().project.name == "here"


@pytest.mark.parametrize("as_folder", [True, False])
def test_paths_start_from_the_project_file(tmp_path: Path, as_folder: bool) -> None:
    path = write(tmp_path, '[train]\noutput = "out/adapter"\n')
    config = load_config(tmp_path if as_folder else path)
    assert config.path(config.train.output) == tmp_path / "out" / "adapter"
    assert config.path("/abs") == Path("/abs")
    assert config.path("~/x") == Path.home() / "x"


def test_values_are_read_and_an_integer_may_stand_for_a_float(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[train]\nr = 8\nnum_epochs = 3\ngradient_checkpointing = true\n"))
    assert (config.train.r, config.train.num_epochs, config.train.gradient_checkpointing) == (8, 3.0, True)
    assert type(config.train.num_epochs) is float


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[train]\nlearning_rat = 1.0\n", "'learning_rat' is not known", "did you mean 'learning_rate'?"),
        ("[trian]\nr = 1\n", "'trian' is not known", "did you mean 'train'?"),
        ("[train]\nxyzzy = 1\n", "'xyzzy' is not known", "known: output, init_adapter, r, "),
        ("train = 3\n", "'train' is 3, expected a section [train]", ""),
        ("[train]\nr = '8'\n", "[train] r is '8', expected int", ""),
        ("[train]\nr = true\n", "[train] r is True, expected int", ""),
        ("[train]\nr = 8.0\n", "[train] r is 8.0, expected int", ""),
        ("[train]\nnum_epochs = true\n", "[train] num_epochs is True, expected float", ""),
        ("[train]\ngradient_checkpointing = 1\n", "expected bool", ""),
        ("[project]\nname = 3\n", "[project] name is 3, expected str", ""),
        ("[train]\nr = 0\n", "[train] r is 0, expected at least 1", ""),
        ("[generate]\ntemperature = nan\n", "temperature is nan, expected at least 0", ""),
        ("[generate]\ntemperature = inf\n", "temperature is inf", ""),
        ("[data]\non_bad_row = 'ignore'\n", "'ignore', expected one of refuse, drop", ""),
        ("[train\nr = 1\n", "is not TOML", "mend the line"),
        ("[train]\nr = 1\nr = 2\n", "is not TOML", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as info:
        load_config(path)
    assert message in info.value.message
    assert str(path) in info.value.message
    assert hint in info.value.hint


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist") as info:
        load_config(tmp_path / "other.toml")
    assert "edgedsl init" in info.value.hint
    with pytest.raises(ConfigError, match=r"edgedsl\.toml' does not exist"):
        load_config(tmp_path)  # a folder without one


def test_a_file_that_is_not_utf8_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "edgedsl.toml"
    path.write_bytes(b'[project]\nname = "\xff"\n')
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(path)


def test_override_takes_given_values_only_and_checks_them() -> None:
    config = override(Config(), "train", {"r": 4, "seed": None})
    assert (config.train.r, config.train.seed) == (4, 0)
    assert config.data == Config().data
    with pytest.raises(ConfigError, match=r"\[train\] r is 0, expected at least 1"):
        override(config, "train", {"r": 0})


def test_to_dict_round_trips_and_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    config = override(Config(root=tmp_path), "serve", {"port": 0})
    document = config.to_dict()
    assert str(tmp_path) not in repr(document)
    assert from_document(document, root=tmp_path, source="copy") == config


def test_every_key_has_a_sentence_of_help_and_a_valid_default() -> None:
    for name, kind in SECTIONS.items():
        for item in fields(kind):
            assert item.metadata["help"].endswith("."), f"[{name}] {item.name}"
        assert from_document({name: {}}, root=Path(), source="empty") == Config()
        override(Config(), name, {item.name: item.default for item in fields(kind)})


@click.group(context_settings={"auto_envvar_prefix": "EDGEDSL"})
def group() -> None: ...


@group.command()
@project_option()
@section_options("train")
def train(project_file: Path | None, **flags: Any) -> None:
    click.echo(override(load_config(project_file), "train", flags).train.r)


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    path = str(write(tmp_path, "[train]\nr = 2\n"))
    empty = tmp_path / "empty.toml"
    empty.write_text("", encoding="utf-8")
    runner = CliRunner()

    def r(*arguments: str, env: dict[str, str] | None = None) -> str:
        return runner.invoke(group, ["train", *arguments], env=env, catch_exceptions=False).output.strip()

    assert r("--project", str(empty)) == "32"
    assert r("--project", path) == "2"
    assert r("--project", path, env={"EDGEDSL_TRAIN_R": "3"}) == "3"
    assert r("--project", path, "--r", "4", env={"EDGEDSL_TRAIN_R": "3"}) == "4"


def test_a_boolean_flag_can_say_no(tmp_path: Path) -> None:
    path = write(tmp_path, "[train]\ngradient_checkpointing = true\n")

    @click.command()
    @section_options("train", leave_out=frozenset({"r"}))
    def show(**flags: Any) -> None:
        assert "r" not in flags
        click.echo(override(load_config(path), "train", flags).train.gradient_checkpointing)

    runner = CliRunner()
    assert runner.invoke(show, []).output == "True\n"
    assert runner.invoke(show, ["--no-gradient-checkpointing"]).output == "False\n"
