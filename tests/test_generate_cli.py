from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgedsl
from edgedsl.cli import group
from edgedsl.errors import BundleError, GenerationError, PromptTooLong
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No project file in the current folder."""
    monkeypatch.chdir(tmp_path)


def generate(bundle: Path, *arguments: str, stdin: bytes = b"") -> Result:
    common = ["generate", "--bundle", str(bundle), "--num-threads", "1", "--max-tokens", "20"]
    return CliRunner().invoke(group, [*common, *arguments], input=stdin)


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "edgedsl", *arguments], input=stdin, capture_output=True, check=False)


SENTENCES = ("set the hall to 5", "off", "café at 100")


@pytest.fixture(scope="module")
def answers(tiny_bundle: Path) -> dict[str, Any]:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    return {sentence: engine(sentence, max_tokens=20) for sentence in SENTENCES}


# Python


def test_load_gives_programs_with_their_counts(tiny_bundle: Path) -> None:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    completion = engine("set the hall to 5", max_tokens=7, temperature=1.0, seed=3)
    assert str(completion) == completion.text
    assert 0 < completion.completion_tokens <= 7
    assert engine.name == "tiny"
    assert engine.execution_provider == "cpu"
    assert engine.load_ms > 0
    assert engine.manifest is not None
    assert engine.manifest.model.quantization == "w8a8"


def test_stream_equals_call(tiny_bundle: Path) -> None:
    engine = edgedsl.load(str(tiny_bundle), num_threads=1)
    stream = engine.stream("set the hall to 5", max_tokens=20)
    assert isinstance(stream, Iterator)
    assert "".join(stream) == engine("set the hall to 5", max_tokens=20).text


def test_load_without_a_bundle_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist") as caught:
        edgedsl.load(tmp_path / "nothing")
    assert "edgedsl export" in caught.value.hint


# Command line


def test_arguments_give_one_line_each(tiny_bundle: Path, answers: dict[str, Any]) -> None:
    result = generate(tiny_bundle, *SENTENCES)
    assert result.stdout.splitlines() == [answer.text for answer in answers.values()]
    assert result.exit_code == 0
    assert result.stderr.startswith("tiny on cpu, loaded in ")


def test_json_has_the_documented_keys(tiny_bundle: Path, answers: dict[str, Any]) -> None:
    result = generate(tiny_bundle, "--json", *SENTENCES)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    for row, answer in zip(rows, answers.values(), strict=True):
        assert set(row) == {"program", "finish_reason", "prompt_tokens", "completion_tokens", "model_calls", "timings"}
        assert set(row["timings"]) == {"ttft_ms", "tpot_ms", "e2el_ms"}
        assert {**row, "timings": None} == {**answer.to_dict(), "timings": None}


def test_jsonl_from_standard_input(tiny_bundle: Path, answers: dict[str, Any]) -> None:
    first, second, third = SENTENCES
    lines = [json.dumps({"prompt": first, "id": 7}), "", json.dumps(second), json.dumps({"prompt": third})]
    result = generate(tiny_bundle, stdin=("\ufeff" + "\n".join(lines)).encode())
    assert result.stdout.splitlines() == [answer.text for answer in answers.values()]


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{", "line 2: not JSON"),
    (b"plain words", "line 2: not JSON"),
    (b"\xff\xfe", "line 2: not JSON"),
    (b"[" * 100_000, "line 2: not JSON"),
    (b'{"text": "off"}', 'line 2: no string "prompt"'),
    (b'{"prompt": 5}', 'line 2: no string "prompt"'),
    (b"[1]", 'line 2: no string "prompt"'),
    (b"null", 'line 2: no string "prompt"'),
    (b'""', "the sentence is empty"),
    (b'"\\ud800"', "half a surrogate pair"),
    (json.dumps("x" * 200_000).encode(), "too many for a context"),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line[:12].decode("latin-1") for line, _ in BAD_LINES])
def test_a_bad_line_is_reported_and_the_others_go_on(
    tiny_bundle: Path, answers: dict[str, Any], line: bytes, message: str, as_json: bool
) -> None:
    result = generate(tiny_bundle, *["--json"] * as_json, stdin=b'"off"\n' + line + b'\n"off"\n')
    assert result.exit_code == 11
    assert [message in row for row in result.stderr.splitlines() if row.startswith("error: ")] == [True]
    lines = result.stdout.splitlines()
    if as_json:
        before, error, after = (json.loads(row) for row in lines)
        assert set(error) == {"error", "exit_code"}
        assert error["exit_code"] == 11
        assert message in error["error"]
        assert before["program"] == after["program"] == answers["off"].text
    else:
        assert lines == [answers["off"].text] * 2


def test_nothing_on_standard_input_gives_nothing(tiny_bundle: Path) -> None:
    result = generate(tiny_bundle)
    assert (result.exit_code, result.stdout) == (0, "")


def test_stream_prints_the_same_text(tiny_bundle: Path, answers: dict[str, Any]) -> None:
    result = generate(tiny_bundle, "--stream", *SENTENCES)
    assert result.stdout.splitlines() == [answer.text for answer in answers.values()]


def test_a_stream_that_fails_ends_its_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Engine, sentence: str, params: SamplingParams, *, on_text: Any) -> None:
        on_text("off")
        raise GenerationError("discarded")

    monkeypatch.setattr(Engine, "generate", answer)
    result = generate(tiny_bundle, "--stream", "one", "two")
    assert result.stdout == "off\noff\n"
    assert result.stderr.count("error: discarded") == 2
    assert result.exit_code == 12


def test_a_program_that_was_made_shorter_is_whole_and_a_warning(tiny_bundle: Path) -> None:
    result = generate(tiny_bundle, "--max-tokens", "8", "--json", "off")
    answer = json.loads(result.stdout)
    assert answer["finish_reason"] == "length"
    assert edgedsl.load(tiny_bundle, num_threads=1).grammar.accepts(answer["program"])
    assert "warning: --max-tokens 8 made this program shorter" in result.stderr
    assert result.exit_code == 0


def test_a_budget_that_no_program_fits_into_is_refused(tiny_bundle: Path) -> None:
    result = generate(tiny_bundle, "--max-tokens", "5", "off")
    assert "max_tokens is 5, the shortest program of 'grammar.lark' has 6 tokens" in result.stderr
    assert (result.exit_code, result.stdout) == (11, "")


def test_the_exit_code_is_that_of_the_last_failure(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = {"a": PromptTooLong("too long"), "b": GenerationError("failed"), "c": None}
    good = edgedsl.load(tiny_bundle, num_threads=1)
    template = good("off", max_tokens=20)

    def answer(self: Engine, sentence: str, params: SamplingParams, *, on_text: Any) -> Any:
        if failures[sentence]:
            raise failures[sentence]
        return type(template)("off hall", (1,), "stop", 1, 1, template.timings)

    monkeypatch.setattr(Engine, "generate", answer)
    assert generate(tiny_bundle, "a", "b", "c").exit_code == 12
    assert generate(tiny_bundle, "b", "a", "c").exit_code == 11
    assert generate(tiny_bundle, "c").exit_code == 0


def test_sampling_flags_reach_the_engine(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SamplingParams] = []

    def answer(self: Engine, sentence: str, params: SamplingParams, *, on_text: Any) -> Any:
        seen.append(params)
        raise GenerationError("enough")

    monkeypatch.setattr(Engine, "generate", answer)
    generate(
        tiny_bundle,
        *["--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--seed", "8", "--max-tokens", "9", "x"],
    )
    assert seen == [SamplingParams(max_tokens=9, temperature=0.5, top_k=3, top_p=0.9, seed=8)]


def test_the_project_file_names_bundle_and_defaults(tiny_project: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    text = (tiny_project.root / "edgedsl.toml").read_text().replace("[export]", f'[export]\noutput = "{tiny_bundle}"')
    (tmp_path / "edgedsl.toml").write_text(text.replace("max_tokens = 16", "max_tokens = 7"))
    result = CliRunner().invoke(group, ["generate", "--json", "off"])
    assert 6 <= json.loads(result.stdout)["completion_tokens"] <= 7


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bundle", "nothing", "off"], 3, "bundle 'nothing'|nothing' does not exist"),
        (["off"], 3, "does not exist"),
        (["--temperature", "nan", "off"], 2, "temperature is nan"),
        (["--max-tokens", "0", "off"], 2, "max_tokens is 0"),
        (["--top-p", "2", "off"], 11, "top_p is 2.0"),
        (["--project", "nowhere.toml", "off"], 2, "nowhere.toml' does not exist"),
        (["--max-token", "3", "off"], 2, "No such option"),
        (["--execution-provider", "tpu", "off"], 2, "'tpu' is not one of"),
    ],
)
def test_exit_codes_and_messages_of_the_process(arguments: list[str], code: int, message: str) -> None:
    done = run("generate", *arguments)
    text = done.stderr.decode()
    assert done.returncode == code
    assert done.stdout == b""
    assert any(part in text for part in message.split("|"))
    assert "Traceback" not in text


def test_the_process_answers_with_data_on_stdout_only(tiny_bundle: Path, answers: dict[str, Any]) -> None:
    arguments = ["--bundle", str(tiny_bundle), "--num-threads", "1", "--max-tokens", "20"]
    done = run("generate", *arguments, *SENTENCES)
    assert done.stdout.decode().splitlines() == [answer.text for answer in answers.values()]
    assert done.returncode == 0
    assert b"loaded in" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="arguments are bytes on POSIX only")
def test_an_argument_that_is_no_utf_8_is_refused(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgedsl", "generate", "--bundle", str(tiny_bundle)]
    done = subprocess.run([*map(os.fsencode, command), b"caf\xe9"], capture_output=True, check=False)
    assert done.returncode == 11
    assert b"Traceback" not in done.stderr
    assert b"character 3" in done.stderr


def test_every_flag_is_in_the_help() -> None:
    result = CliRunner().invoke(group, ["generate", "--help"])
    for flag in (
        "--bundle",
        "--stream",
        "--json",
        "--max-tokens",
        "--temperature",
        "--execution-provider",
        "--project",
    ):
        assert flag in result.output
