"""The documentation says what the code does, and nothing about the machine it was written on."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgedsl.cli import COMMANDS
from edgedsl.errors import EdgeDSLError

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*.README.md")]
    )
    if ".venv" not in path.parts
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    """docs/generate_cli.py, which is a script and belongs to no package."""
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def test_the_generated_parts_are_current(generator: ModuleType) -> None:
    assert generator.stale_pages() == [], "run 'make docs'"


def test_a_stale_page_is_found(generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "before\n<!-- generated:help -->\nold\n<!-- /generated:help -->\nafter\n", encoding="utf-8"
    )
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "PAGES", ("page.md",))
    assert generator.main(["--check"]) == 1
    assert "old" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert generator.main([]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- generated:help -->\n```text\nUsage: edgedsl [OPTIONS]")
    assert text.endswith("\n<!-- /generated:help -->\nafter\n")
    assert generator.main(["--check"]) == 0
    assert generator.main(["--other"]) == 2


def test_an_unknown_marker_is_an_error(generator: ModuleType) -> None:
    with pytest.raises(SystemExit, match="generated:nothing"):
        generator.render("<!-- generated:nothing -->\n<!-- /generated:nothing -->")


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"\n## edgedsl {name}\n" not in text] == []


def test_every_error_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

    def tree(kind: type[EdgeDSLError]) -> Iterator[str]:
        yield kind.__name__
        for child in kind.__subclasses__():
            yield from tree(child) if child.__module__ == "edgedsl.errors" else ()

    assert [name for name in tree(EdgeDSLError) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_no_path_of_a_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w.:/~-])/(?:root|home|work|tmp|opt|Users|mnt|usr/local|private)/[^\s)`'\"]*", text)
    assert not found


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_the_pages_exist(name: str) -> None:
    """``edgedsl WORD`` at the start of a line of code names a command."""
    text = (ROOT / name).read_text(encoding="utf-8")
    used = re.findall(r"^\s*(?:\$ )?edgedsl ([a-z]+)\b", text, re.MULTILINE)
    assert sorted(set(used) - set(COMMANDS)) == []


def test_the_readme_is_not_empty_and_the_changelog_has_the_version() -> None:
    from edgedsl._version import __version__

    assert "edgedsl" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_make_targets_that_ci_calls_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"lint", "test", "docs-check", "smoke", "slow"} <= set(called)
    for target in called:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_lock_pins_every_package_and_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in packages if not re.match(r"^[a-z0-9._-]+==[\w.+!]+( ; .+)?$", line)] == []
    names = {line.split("==")[0] for line in packages}
    assert {"torch", "transformers", "onnxruntime", "outlines", "pytest", "setuptools"} <= names
    # torch's own metadata brings CUDA where its wheel needs it.
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton", "bitsandbytes"))]
    assert "onnxruntime-gpu" not in names


def test_the_second_lock_is_of_transformers_5_and_differs_in_every_line() -> None:
    first, second = (
        [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for name in ("requirements.lock", "requirements-transformers5.lock")
    )
    assert [line for line in second if not re.match(r"^[a-z0-9._-]+==[\w.+!]+( ; .+)?$", line)] == []
    assert set(first) & set(second) == set()
    assert [line for line in second if line.startswith("transformers==5.")]
    assert not [line for line in second if line.startswith("torch==")], "it is lent by the first environment"


def test_the_lock_satisfies_what_pyproject_asks_for() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(line for name in ("cpu", "train", "serve", "bench", "dev") for line in extras[name]),
    ]
    pinned: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith("#"):
            pin = Requirement(line)
            pinned.setdefault(pin.name, []).append(next(iter(pin.specifier)).version)
    for line in wanted:
        requirement = Requirement(line)
        versions = pinned.get(requirement.name.lower().replace("_", "-"), [])
        assert versions, f"{line}: run 'make lock'"
        assert all(requirement.specifier.contains(version) for version in versions), f"{line}: run 'make lock'"


def test_an_old_python_is_refused_with_a_clear_message(tmp_path: Path) -> None:
    """The recipe of the Makefile, with an interpreter that calls itself 3.10."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.9" && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "-s", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "Python 3.10.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_this_interpreter_is_supported() -> None:
    assert (3, 11) <= sys.version_info < (3, 14)
