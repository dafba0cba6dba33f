"""A new project: whole or not at all, and good as it stands."""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_template, tiny_tokenizer

from edgedsl import atomic, cli
from edgedsl.config import SECTIONS, Config, load_config
from edgedsl.data.pairs import check_pairs, read_pairs
from edgedsl.errors import ConfigError, DataError
from edgedsl.grammar import Grammar
from edgedsl.project import check_target, project_toml, write_project

FILES = [
    ".gitignore", "README.md", "catalogue.json", "data/dev.jsonl", "data/refusals.jsonl", "data/test.jsonl",
    "data/train.jsonl", "edgedsl.toml", "grammar.lark",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with few rows; tests must not write into it."""
    folder = tmp_path_factory.mktemp("init") / "my-flow"
    write_project(folder, num_train=60)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.group, ["init", *arguments])


def test_the_files(project: Path) -> None:
    assert sorted(tree(project)) == FILES
    assert [path.name for path in project.parent.iterdir()] == ["my-flow"]


def test_the_project_file_holds_every_section_and_the_defaults(project: Path) -> None:
    config = load_config(project)
    defaults = Config(root=project)
    assert config == replace(defaults, project=replace(defaults.project, name="my-flow"))


def test_the_keys_that_are_commented_out_are_the_defaults() -> None:
    text = re.sub(r"^#(\w+ = )", r"\1", project_toml("x"), flags=re.MULTILINE)
    document = tomllib.loads(text)
    assert list(document) == list(SECTIONS)
    for name, kind in SECTIONS.items():
        expected = {item.name: item.default for item in fields(kind)} | ({"name": "x"} if name == "project" else {})
        assert document[name] == expected, name


def test_every_key_stands_below_its_help() -> None:
    lines = project_toml("x").splitlines()
    for name, kind in SECTIONS.items():
        assert f"[{name}]" in lines
        for item in fields(kind):
            (help_line,) = {line for line in lines if line.startswith(f"# {item.metadata['help']}")}
            below = [lines[n + 1].lstrip("#") for n, line in enumerate(lines) if line == help_line]
            assert any(line.startswith(f"{item.name} = ") for line in below), item.name
            assert all(choice in help_line for choice in item.metadata["choices"])


def test_all_pairs_can_be_learned_and_generated(project: Path) -> None:
    """Read, parsed by Lark, walked by the decoding engine: what `edgedsl data check` does."""
    config = load_config(project)
    grammar = Grammar.from_files(config.path(config.project.grammar), config.path(config.project.catalogue))
    counts = {}
    for part in ("train", "dev", "test"):
        pairs = read_pairs(config.path(getattr(config.data, part)))
        good, bad = check_pairs(pairs, grammar, tiny_tokenizer(), tiny_template(), max_tokens=1000)
        assert bad == []
        counts[part] = len(good)
    assert counts == {"train": 60, "dev": 100, "test": 200}


def test_no_group_is_in_two_parts(project: Path) -> None:
    groups = [
        {pair.group for pair in read_pairs(project / "data" / f"{part}.jsonl")} for part in ("train", "dev", "test")
    ]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_the_grammar_is_the_sample_language_with_a_header_of_its_own(project: Path) -> None:
    text = (project / "grammar.lark").read_text(encoding="utf-8")
    assert "flow_signatures" not in text
    assert text.startswith("// flow, the sample language")
    assert re.search(r"^%declare \w+$", text, re.MULTILINE)


def test_commands_of_the_readme_exist(project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# my-flow\n")
    used = re.findall(r"^    edgedsl ([a-z]+)", text, re.MULTILINE)
    assert used == ["data", "train", "export", "generate"]
    assert set(used) <= set(cli.COMMANDS)


def test_the_same_seed_gives_the_same_project(tmp_path: Path, project: Path) -> None:
    for name, seed in (("a/my-flow", 0), ("b/my-flow", 1)):
        write_project(tmp_path / name, num_train=60, seed=seed)
    assert tree(tmp_path / "a/my-flow") == tree(project)
    assert tree(tmp_path / "b/my-flow")["data/train.jsonl"] != tree(project)["data/train.jsonl"]


def test_nothing_of_this_machine_is_written(project: Path) -> None:
    for name, content in tree(project).items():
        assert str(project).encode() not in content, name
        assert str(project.parent).encode() not in content, name


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("demo", "--rows", "7")
    assert result.exit_code == 0, result.output
    assert "wrote demo: edgedsl.toml, " in result.output
    assert result.output.index("cd demo") < result.output.index("edgedsl train") < result.output.index("edgedsl export")
    assert len(read_pairs(tmp_path / "demo" / "data" / "train.jsonl")) == 7
    rows = (tmp_path / "demo" / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(json.loads(rows[0])) == {"id", "prompt", "target", "group"}


@pytest.mark.parametrize("rows", ["0", "-3", "x", "1000000"])
def test_a_number_of_rows_that_makes_no_sense_is_refused(tmp_path: Path, rows: str) -> None:
    result = invoke(str(tmp_path / "p"), "--rows", rows)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_most_rows_that_the_flag_allows_can_be_made(tmp_path: Path) -> None:
    from edgedsl.cli.init import command

    most = next(option.type.max for option in command.params if option.name == "rows")  # type: ignore[attr-defined]
    assert len(write_project(tmp_path / "p", num_train=most)) == len(FILES)


def test_an_empty_folder_is_filled_and_a_folder_above_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_project(tmp_path / "empty", num_train=10)
    write_project(tmp_path / "new" / "deep", num_train=10)
    assert sorted(tree(tmp_path / "empty")) == sorted(tree(tmp_path / "new" / "deep")) == FILES


def test_a_folder_that_is_not_empty_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    result = invoke(str(tmp_path / "mine"))
    assert isinstance(result.exception, ConfigError)
    assert "is not empty; nothing was written" in result.exception.message
    assert result.exception.hint
    assert tree(tmp_path / "mine") == {"notes.txt": b"keep"}


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        write_project(tmp_path / "mine")
    with pytest.raises(ConfigError):
        write_project(tmp_path / "mine" / "below")
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "keep"


@pytest.mark.parametrize("name", ["a b", ".hidden", "-flag", "ümlaut", "x" * 65, "a\nb", 'a"b', "/"])
def test_names_that_a_bundle_could_not_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not usable"):
        check_target(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", str(tmp_path), "./"):
        with pytest.raises(ConfigError, match="current folder"):
            check_target(Path(name))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        write_project(tmp_path / "p", num_train=10)
    assert list(tmp_path.iterdir()) == []


def test_pairs_that_cannot_be_made_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError):
        write_project(tmp_path / "p", num_train=10, num_dev=10, num_test=10)  # too few to split by group
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="cannot be written"):
        monkeypatch.setattr(atomic, "write_bytes", _denied)
        write_project(tmp_path / "p", num_train=10)
    assert list(tmp_path.iterdir()) == []


def _denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")
