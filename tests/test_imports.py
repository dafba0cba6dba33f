"""The walls: ground, run wing and build wing; and what starting the command line may import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from interpreter import python

import edgedsl
import edgedsl.bench
import edgedsl.exporters
import edgedsl.grammars

FOLDERS = {
    "edgedsl": Path(edgedsl.__file__).parent,
    "edgedsl.exporters": Path(edgedsl.exporters.__file__).parent,
    "edgedsl.grammars": Path(edgedsl.grammars.__file__).parent,
    "edgedsl.bench": Path(edgedsl.bench.__file__).parent,
}
GROUND = {
    f"edgedsl.{name}"
    for name in (
        "_version",
        "errors",
        "atomic",
        "config",
        "prompt",
        "grammar",
        "catalogue",
        "bundle",
        "tokenizer",
        "token_bytes",
        "machine",
        "user_cache",
    )
}
RUN_WING = {"edgedsl.runtime", "edgedsl.serving"}
BUILD_WING = {f"edgedsl.{name}" for name in ("basemodels", "data", "training", "evaluation", "exporters", "bench")}
TRAINING_LIBRARIES = {
    "torch",
    "transformers",
    "peft",
    "datasets",
    "accelerate",
    "optimum",
    "onnx",
    "onnx_ir",
    "bitsandbytes",
    "gguf",
}
SERVING_LIBRARIES = {"fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"}


def modules() -> dict[str, Path]:
    """Every module of the installed package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, also inside functions, but not for type checking only."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse)
        else:
            for name in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _imports(getattr(node, name, []) or [])


def inside(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("edgedsl.")}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def part(parts: set[str]) -> list[tuple[str, Path]]:
    found = [(name, path) for name, path in modules().items() if inside(name, parts)]
    assert found
    return found


def test_every_module_is_found_and_read() -> None:
    assert {"edgedsl.errors", "edgedsl.cli", "edgedsl.exporters", "edgedsl.grammars.flow_pairs"} <= set(modules())
    assert "edgedsl.errors" in set(imports(modules()["edgedsl.grammar.matcher"]))
    # An import inside a function counts.
    assert "edgedsl.project" in set(imports(modules()["edgedsl.cli.init"]))


def test_ground_stands_on_ground() -> None:
    for name, path in part(GROUND):
        assert all(inside(used, GROUND) for used in ours(path)), name
        assert not libraries(path) & (TRAINING_LIBRARIES | SERVING_LIBRARIES | {"onnxruntime"}), name


def test_grammars_stand_on_ground() -> None:
    for name, path in part({"edgedsl.grammars"}):
        assert all(inside(used, GROUND | {"edgedsl.grammars"}) for used in ours(path)), name


def test_run_wing_stands_on_ground_and_knows_nothing_of_training() -> None:
    for name, path in part(RUN_WING):
        assert all(inside(used, GROUND | RUN_WING) for used in ours(path)), name
        assert not libraries(path) & TRAINING_LIBRARIES, name


def test_runtime_does_not_know_the_server() -> None:
    for name, path in part({"edgedsl.runtime"}):
        assert not any(inside(used, {"edgedsl.serving"}) for used in ours(path)), name
        assert not libraries(path) & SERVING_LIBRARIES, name


def test_build_wing_does_not_know_server_and_command_line() -> None:
    for name, path in part(BUILD_WING):
        assert not any(inside(used, {"edgedsl.cli", "edgedsl.serving"}) for used in ours(path)), name


def test_only_main_and_the_command_line_import_the_command_line() -> None:
    for name, path in modules().items():
        if not inside(name, {"edgedsl.cli", "edgedsl.__main__"}):
            assert not any(inside(used, {"edgedsl.cli"}) for used in ours(path)), name


def test_top_level_folders_are_imported_by_their_installed_name() -> None:
    for name, path in modules().items():
        assert not libraries(path) & {"exporters", "grammars", "bench"}, name


def test_every_library_is_a_dependency_or_comes_with_an_extra_that_is_known() -> None:
    """A package that is missing must be named with the extra that brings it, and extras must exist."""
    import tomllib

    from packaging.requirements import Requirement

    from edgedsl.cli.extras import EXTRAS

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {Requirement(line).name for line in project["dependencies"]} | {"edgedsl"}
    used = set().union(*(libraries(path) for path in modules().values())) - set(sys.stdlib_module_names)
    assert used - always - set(EXTRAS) == {"pydantic_core"}  # comes with pydantic
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])


def imported_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running the code."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = python("-c", script)
    return set(done.stdout.splitlines()[-1].split())


HELP = (
    "from click.testing import CliRunner\nimport edgedsl, edgedsl.cli\n"
    "assert not CliRunner().invoke(edgedsl.cli.group, {!r}).exit_code"
)
HEAVY = (
    TRAINING_LIBRARIES
    | SERVING_LIBRARIES
    | {"onnxruntime", "numpy", "outlines", "llguidance", "lark", "tokenizers", "rich"}
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    names = imported_by(HELP.format(arguments))
    assert {"edgedsl", "click"} <= names
    assert not names & HEAVY


def test_help_of_every_command_imports_no_library_of_training() -> None:
    from edgedsl.cli import COMMANDS

    runs = "\n".join(HELP.format([name, "--help"]) for name in COMMANDS)
    assert not imported_by(runs) & (TRAINING_LIBRARIES | SERVING_LIBRARIES | {"onnxruntime", "outlines"})


def test_the_run_wing_at_run_time() -> None:
    runtime = [name for name, _ in part({"edgedsl.runtime"})]
    names = imported_by(f"import {', '.join(runtime)}")
    assert "onnxruntime" in names
    assert not names & (TRAINING_LIBRARIES | SERVING_LIBRARIES - {"pydantic"})  # Outlines brings pydantic


def test_the_server_at_run_time() -> None:
    serving = [name for name, _ in part({"edgedsl.serving"})]
    assert not imported_by(f"import {', '.join(serving)}") & TRAINING_LIBRARIES


def test_telemetry_of_onnx_runtime_is_off_before_it_is_imported() -> None:
    script = (
        "import os, sys, edgedsl.cli as cli\n"
        "cli.group.main = lambda **_: print('onnxruntime' in sys.modules, os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "cli.main()"
    )
    done = python("-c", script)
    assert done.stdout.split() == ["False", "1"]


def test_load_is_public_and_lazy() -> None:
    assert set(edgedsl.__all__) == {"__version__", "load"}
    names = imported_by("import edgedsl\nedgedsl.load")
    assert not names & HEAVY
