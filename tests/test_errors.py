"""The exception tree: codes, statuses, and how the command line shows them."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from edgedsl import cli, errors
from edgedsl.errors import EdgeDSLError

TABLE = {
    "EdgeDSLError": (1, 500, False),
    "ConfigError": (2, 400, False),
    "BundleError": (3, 500, False),
    "GrammarError": (4, 500, False),
    "DataError": (5, 400, False),
    "ModelError": (6, 500, False),
    "TrainingError": (7, 500, False),
    "ExportError": (8, 500, False),
    "GateError": (9, 500, False),
    "ProviderError": (10, 500, False),
    "RequestError": (11, 400, False),
    "PromptTooLong": (11, 413, False),
    "QueueFull": (11, 503, True),
    "GenerationError": (12, 500, False),
    "LogitsError": (12, 500, False),
    "MatcherError": (12, 500, False),
    "EngineLimitError": (12, 500, False),
    "NoTokenError": (12, 500, False),
    "DisagreementError": (12, 500, False),
}


def classes() -> dict[str, type[EdgeDSLError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if issubclass(value, EdgeDSLError)}


def test_codes_and_statuses_stay_as_documented() -> None:
    assert {n: (c.exit_code, c.status_code, c.retryable) for n, c in classes().items()} == TABLE


def test_every_class_is_drawn_in_the_docstring_with_its_codes() -> None:
    drawn = {
        line.lstrip("│├└─ ").split()[0]: line.split() for line in (errors.__doc__ or "").splitlines() if "Err" in line
    }
    drawn |= {
        line.lstrip("│├└─ ").split()[0]: line.split()
        for line in (errors.__doc__ or "").splitlines()
        if "├──" in line or "└──" in line
    }
    for name, kind in classes().items():
        assert name in drawn, name
        if name != "EdgeDSLError":
            numbers = [int(word) for word in drawn[name] if word.isdigit()]
            assert numbers == [kind.exit_code, kind.status_code], name


def test_exit_codes_of_the_kinds_differ() -> None:
    kinds = [kind for kind in classes().values() if kind.__base__ in (EdgeDSLError, errors.ExportError)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 130} & set(codes)


@pytest.mark.parametrize("name", TABLE)
def test_message_and_hint_are_kept(name: str) -> None:
    error = classes()[name]("what was wrong", hint="do this")
    assert (str(error), error.message, error.hint) == ("what was wrong", "what was wrong", "do this")
    assert classes()[name]("bare").hint == ""


@pytest.mark.parametrize("name", [name for name in TABLE if name != "EdgeDSLError"])
def test_the_command_line_prints_error_and_hint_and_exits_with_the_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise classes()[name]("it broke", hint="mend it")

    monkeypatch.setattr(cli.group, "main", fail)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    captured = capsys.readouterr()
    assert exit_info.value.code == TABLE[name][0]
    assert captured.err == "error: it broke\nhint: mend it\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (click.UsageError("no such flag"), 2)]
)
def test_other_ends_have_their_codes(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(cli.group, "main", fail)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == code


def test_a_bug_of_ours_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(cli.group, "main", fail)
    with pytest.raises(TypeError, match="ours"):
        cli.main()


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f'"{sys.executable}" -m edgedsl --help | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"0", "141"}
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
