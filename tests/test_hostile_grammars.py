"""Hostile grammars are refused or compile, within limits; whatever becomes of the child, who asked goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hostile_grammars import ALL, HUGE_TERMINAL, LONG_STRING, STOPPED, Hostile
from interpreter import python
from tiny import tiny_template, write_tokenizer

from edgedsl.cli import group
from edgedsl.config import load_config
from edgedsl.errors import GrammarError, ModelError
from edgedsl.grammar import Grammar, confinement, trial
from edgedsl.grammar.authoring.token_set import open_tokens
from edgedsl.grammar.confinement import Answer, Limits
from edgedsl.grammar.trial import COMPILE, try_check, try_compile, try_import

GOOD = 'start: "on" | "off"\n'
SOON = Limits(cpu_s=1, wall_s=60, memory_mib=1500)  # for what would not end
LOW = Limits(cpu_s=20, wall_s=100, memory_mib=1500)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX systems")
Ask = Callable[..., Answer]
T = TypeVar("T")


def rows(*, is_endless: bool) -> list[Any]:
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.is_slow else [])
        for row in ALL
        if row.is_endless == is_endless
    ]


def write(row: Hostile, folder: Path) -> Path:
    path = folder / f"hostile.{row.notation}"
    path.write_text(row.text, encoding="utf-8")
    return path


def tried(row: Hostile, folder: Path, limits: Limits) -> Grammar:
    """What the row becomes, compiled here too as it has stood its trial."""
    path = write(row, folder)
    if row.notation != "lark":
        return Grammar(try_import(path, row.notation, limits).source)
    try_compile(path, limits=limits)
    return Grammar.from_files(path)


def still_works(pid: int = os.getpid()) -> None:
    assert os.getpid() == pid
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert open_tokens(None).compile(Grammar(GOOD)).planner.min_tokens == 2


def outcome(work: Callable[[], T]) -> T | GrammarError:
    try:
        return work()
    except GrammarError as exc:
        return exc


def check_outcome(row: Hostile, folder: Path, limits: Limits) -> None:
    if row.refusal:
        with pytest.raises(GrammarError, match=row.refusal) as refused:
            tried(row, folder, limits)
        assert "report this" not in refused.value.hint
        assert refused.value.hint
    else:
        assert tried(row, folder, limits).accepts(row.program)
    still_works()


# --- the grammars


@pytest.mark.parametrize("row", rows(is_endless=False))
def test_is_refused_or_compiles(row: Hostile, tmp_path: Path) -> None:
    check_outcome(row, tmp_path, LOW)


@pytest.mark.parametrize("row", rows(is_endless=True))
def test_what_does_not_end_is_stopped(row: Hostile, tmp_path: Path) -> None:
    check_outcome(row, tmp_path, SOON)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lark-rules", "gbnf-doubling"])  # one that meets the limit of time, one of memory
def test_what_does_not_end_is_stopped_at_the_full_limits(name: str, tmp_path: Path) -> None:
    check_outcome(named(name), tmp_path, COMPILE)


@pytest.mark.slow
def test_a_terminal_of_100000_texts(tmp_path: Path) -> None:
    """It compiles in 40 s of CPU, or is stopped on a slow machine."""
    found = outcome(lambda: tried(HUGE_TERMINAL, tmp_path, COMPILE))
    if isinstance(found, GrammarError):
        assert "was stopped" in found.message
    else:
        assert found.accepts(HUGE_TERMINAL.program)
    still_works()


def test_a_string_of_65536_characters_is_accepted(tmp_path: Path) -> None:
    grammar = tried(LONG_STRING, tmp_path, LOW)
    assert grammar.accepts(f'"{"a" * 65_536}"')
    assert not grammar.accepts(f'"{"a" * 65_537}"')


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ALL if row.notation == "lark"])
def test_checks_end_with_a_report_or_a_refusal(row: Hostile, tmp_path: Path) -> None:
    limits = Limits(cpu_s=5, more_cpu_s=20, memory_mib=1500)
    found = outcome(lambda: try_check(str(write(row, tmp_path)), limits=limits))
    if isinstance(found, GrammarError):
        assert row.refusal or "was stopped" in found.message
        assert found.hint and "report this" not in found.hint
    else:
        assert found.num_errors or not row.refusal
    still_works()


# --- the child


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Lets a child run a few lines; ``request`` and ``limits`` are there."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def asked(body: str, limits: Limits = LOW, **request: Any) -> Answer:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        text = f"{_IMPORTS}\n\ndef work(request, limits):\n{lines}\n\nconfinement.answer(work)\n"
        (tmp_path / "worker.py").write_text(text, encoding="utf-8")
        return confinement.ask("worker", request, limits, "work")

    return asked


_IMPORTS = """\
import ctypes, os, resource, signal, subprocess, sys, time
from edgedsl.errors import *
from edgedsl.grammar import confinement
"""
# What the child does, its limits, and what the one who asked is told.
DEATHS = {
    "CPU": ("while True: pass", SOON, r"^work took more than 1 s of CPU; it was stopped$"),
    "more CPU": (
        "confinement.go_on(limits)\nwhile True: pass",
        Limits(cpu_s=1, more_cpu_s=1, memory_mib=1500),
        "more than 1 s of CPU, and 1 s more after that;",
    ),
    "deaf to SIGXCPU": ("signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", SOON, "with SIGKILL, as a"),
    "asleep": ("time.sleep(3600)", Limits(wall_s=1), r"^work took more than 1 s and was stopped$"),
    "memory": ("bytearray(2 << 30)", SOON, r"^work needs more than 1500 MiB of memory$"),
    "memory in Rust": ("print('memory allocation of 9 bytes failed')\nos.abort()", LOW, "more than 1500 MiB of memory"),
    "depth": ("def down(): down()\ndown()", LOW, r"^work failed: it is nested more than \d+ deep$"),
    "abort": ("os.abort()", LOW, "ended its process with SIGABRT"),
    "segmentation fault": ("ctypes.string_at(0)", LOW, "ended its process with SIGSEGV"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", LOW, "SIGKILL, as a system does that runs short of memory"),
    "exit": ("print('so long')\nsys.stdout.flush()\nos._exit(3)", LOW, "ended its process with exit code 3: so long"),
    "much output": ("while True: print('x' * 1000)", LOW, r"^work gave more than 1 MiB$"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "deaf to SIGXCPU" else []) for name in DEATHS]
)
def test_whatever_ends_the_child_is_told(name: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    body, limits, message = DEATHS[name]
    monkeypatch.setattr(confinement, "_MAX_ANSWER", 1 << 20)
    with pytest.raises(GrammarError, match=message) as died:
        ask(body, limits)
    assert "shorten" in died.value.hint
    still_works()


def test_a_bug_of_ours_is_told_as_one(ask: Ask) -> None:
    with pytest.raises(GrammarError, match=r"^work failed: KeyError: 'nope'$") as failed:
        ask("{}['nope']")
    assert "report this" in failed.value.hint


def test_errors_come_back_as_they_were_raised(ask: Ask) -> None:
    with pytest.raises(ModelError, match=r"^x{4000}$") as raised:
        ask("raise ModelError('x' * 10_000, hint='do this')")
    assert raised.value.hint == "do this"


def test_the_answer_is_the_last_line_that_is_printed(ask: Ask) -> None:
    answer = ask('print(\'{"result": 1}\', end="")\nreturn request["text"]', text="é\n\u2028")
    assert answer.result == "é\n\u2028"
    assert answer.cpu_s > 0
    assert answer.unlimited == ()


def test_the_limits_are_set(ask: Ask) -> None:
    body = "return {k: resource.getrlimit(getattr(resource, 'RLIMIT_' + k)) for k in ('AS', 'CPU', 'FSIZE', 'CORE')}"
    limits = Limits(cpu_s=7, more_cpu_s=5, memory_mib=900)
    mib = 900 << 20
    expected = {"AS": [mib, mib], "CPU": [7, 13], "FSIZE": [0, 0], "CORE": [0, 0]}
    assert ask(body, limits).result == expected
    assert ask(f"confinement.go_on(limits)\n{body}", limits).result == expected | {"CPU": [12, 13]}


def test_the_child_writes_no_file(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="File too large"):
        ask("with open(request['path'], 'w') as file: file.write('x')", path=str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == b""


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_the_child_is_the_first_to_go_where_memory_is_short(ask: Ask) -> None:
    assert ask("return open('/proc/self/oom_score_adj').read()").result == "1000\n"


def test_a_file_of_the_current_folder_stands_in_for_no_library(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "lark.py").write_text("raise SystemExit('taken over')", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert ask("return 1").result == 1


def is_running(pid: int) -> bool:
    """A dead process that nobody has waited for does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


_START = """\
pipe = None if request["keeps_pipe"] else subprocess.DEVNULL
sleeper = subprocess.Popen(["sleep", "3600"], stdout=pipe, stderr=pipe)
os.mkdir(os.path.join(request["folder"], str(sleeper.pid)))  # it may write no file
return 1
"""


def test_what_the_child_has_started_ends_with_it(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    started = {"folder": str(tmp_path / "pids")}
    assert ask(_START, **started, keeps_pipe=False).result == 1
    # The answer has not ended while one holds its pipe: the clock decides.
    with pytest.raises(GrammarError, match="took more than 5 s and was stopped"):
        ask(_START, Limits(wall_s=5), **started, keeps_pipe=True)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_running(pid)]


# --- what is asked of it


def test_a_trial_tells_what_it_took(tmp_path: Path) -> None:
    path = write(Hostile("good", "lark", GOOD), tmp_path)
    report = try_compile(path)
    assert report.min_tokens == 2
    assert 0 < report.cpu_s < COMPILE.cpu_s
    assert report.peak_mib is None or 10 < report.peak_mib < COMPILE.memory_mib
    assert report.unlimited == ()
    assert "not limit" not in str(report)


def test_a_trial_reads_tokenizer_and_catalogue(tmp_path: Path) -> None:
    path = write(Hostile("good", "lark", "start: NAME\n%declare NAME\n"), tmp_path)
    (tmp_path / "names.json").write_text('{"NAME": [" lamp lamp"]}', encoding="utf-8")
    tokenizer = write_tokenizer(tmp_path / "tokenizer") / "tokenizer.json"
    report = try_compile(path, tmp_path / "names.json", tokenizer, LOW, end_token_ids=[0])
    assert report.min_tokens == 2
    with pytest.raises(ModelError, match="nowhere"):
        try_compile(path, tmp_path / "names.json", tmp_path / "nowhere", LOW)


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    limits = Limits(text_mib=1)
    small = write(Hostile("small", "lark", GOOD), tmp_path)
    large = tmp_path / "large.json"
    large.write_bytes(b"x" * ((1 << 20) + 1))
    for ask_with in (
        lambda: try_compile(large, limits=limits),
        lambda: try_compile(small, large, limits=limits),
        lambda: try_check(str(large), limits=limits),
        lambda: try_check(str(small), None, large, limits=limits),
        lambda: try_import(large, "gbnf", limits),
    ):
        with pytest.raises(GrammarError, match=r"large.json' has 1048577 bytes, expected at most 1 MiB"):
            ask_with()


def test_a_system_without_limits_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resource.py").write_text("raise ImportError('there is none')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    path = write(Hostile("good", "lark", GOOD), tmp_path)
    report = try_compile(path)
    assert report.unlimited == ("memory", "CPU", "files", "core")
    assert str(report).endswith("; this system does not limit memory, CPU, files, core")
    assert try_check(str(path)).facts["not_limited"] == "memory, CPU, files, core"


# --- commands


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As a shell runs it."""
    return python("-c", "from edgedsl.cli import main; main()", "grammar", *arguments, check=False)


def named(name: str) -> Hostile:
    return next(row for row in ALL if row.name == name)


@pytest.mark.parametrize("name", ["lark-mutual-endless", "lark-import-of-a-file"])
def test_check_exits_with_the_code_of_grammars(name: str, tmp_path: Path) -> None:
    done = command("check", write(named(name), tmp_path))
    assert done.returncode == GrammarError.exit_code
    assert "Traceback" not in done.stderr
    assert "report this" not in done.stderr
    assert "error: " in done.stderr


def test_import_exits_with_the_code_of_grammars(tmp_path: Path) -> None:
    path = write(named("gbnf-parentheses-open"), tmp_path)
    output = tmp_path / "out.lark"
    done = command("import", path, "--output", output)
    assert done.returncode == GrammarError.exit_code
    assert done.stderr == f"error: '{path}' is nested more deeply than can be read\nhint: take levels out of it\n"
    assert not done.stdout and not output.exists()


@pytest.mark.parametrize(("name", "work"), [("lark-doubling", "check"), ("gbnf-doubling", "import")])
def test_commands_ask_a_child(name: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, f"try_{work}", partial(getattr(trial, f"try_{work}"), limits=SOON))
    with pytest.raises(GrammarError, match=STOPPED):
        group.main(["grammar", work, str(write(named(name), tmp_path))], standalone_mode=False)
    still_works()


# --- export


def no_one(*_: Any, **__: Any) -> Any:
    raise AssertionError("the grammar was compiled by who asked")


def test_a_smoke_export_asks_a_child_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedsl.exporters import source

    (tmp_path / "edgedsl.toml").write_text('[project]\nname = "x"\ncatalogue = ""\n', encoding="utf-8")
    (tmp_path / "grammar.lark").write_text(named("lark-thousands").text, encoding="utf-8")
    monkeypatch.setattr(source, "try_compile", partial(try_compile, limits=SOON))
    monkeypatch.setattr(source, "open_inputs", no_one)
    with pytest.raises(GrammarError, match=f"compiling 'grammar.lark' .*({STOPPED})"):
        source.smoke_source(load_config(tmp_path), offline=True)
    still_works()


def test_an_export_asks_a_child_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedsl.exporters import pipeline
    from edgedsl.exporters.source import Source

    tokenizer = write_tokenizer(tmp_path / "tokenizer") / "tokenizer.json"
    files = {
        "tokenizer.json": tokenizer.read_bytes(),
        "prompt.json": json.dumps(tiny_template().to_dict()).encode(),
        "grammar.lark": named("lark-thousands").text.encode(),
    }
    (tmp_path / "edgedsl.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    (tmp_path / "staging").mkdir()
    monkeypatch.setattr(pipeline, "try_compile", partial(try_compile, limits=SOON))
    monkeypatch.setattr(pipeline.Grammar, "from_files", no_one)
    config = load_config(tmp_path)
    adapter = Source(files, no_one, base_name="x", base_sha256="", adapter_sha256="", weight_bytes=0)
    with pytest.raises(GrammarError, match=f"compiling 'grammar.lark' .*({STOPPED})"):
        pipeline._Export(config, adapter, tmp_path, tmp_path / "staging", print, pipeline.OptimumExporter())
    monkeypatch.undo()
    still_works()
