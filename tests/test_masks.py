"""The measurement of masks beside those of other engines."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tiny import CATALOGUE, EOS_TOKEN, GRAMMAR, tiny_tokenizer, write_tokenizer

from edgedsl.bench import masks
from edgedsl.bench.gbnf import from_grammar
from edgedsl.bench.mask_engines import EdgedslFull, EdgedslGreedy, Llguidance, MaskEngine, Outlines, Xgrammar
from edgedsl.bench.mask_worker import MaskProcess, Run, Worker, walk
from edgedsl.bench.masks import Judge, Tally, programs
from edgedsl.bench.process import Message
from edgedsl.bench.table import by_grammar, read_result, render
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import ConfigError, GenerationError, GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.authoring.language import open_language
from edgedsl.grammar.authoring.token_set import TokenSet

OFF_HALL = "off hall"
PROGRAM = "set hall 5; off café"
END = tiny_tokenizer().token_id(EOS_TOKEN)
TINY = TokenSet(tiny_tokenizer(), END, "tiny")
# Answers as an engine would, until it is to walk; then it hangs.
HANGING = """#!/bin/sh
read -r request; echo '{"version": "1", "tokenizer_ms": 1.0}'
read -r request; echo '{"compile_ms": 2.0}'
read -r request; exec sleep 60
"""
needs_xgrammar = pytest.mark.skipif(importlib.util.find_spec("xgrammar") is None, reason="xgrammar is no dependency")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model") / "tokenizer.json"


@pytest.fixture
def language(tmp_path: Path) -> Path:
    (tmp_path / "tiny.lark").write_text(GRAMMAR, encoding="utf-8")
    (tmp_path / "tiny.catalogue.json").write_text(json.dumps(CATALOGUE), encoding="utf-8")
    case = {"kind": "accept", "text": PROGRAM}
    (tmp_path / "tiny.cases.jsonl").write_text(json.dumps(case) + "\n", encoding="utf-8")
    return tmp_path / "tiny.lark"


@pytest.fixture
def grammar(language: Path) -> Grammar:
    catalogue = Catalogue.from_file(language.with_name("tiny.catalogue.json"))
    return Grammar(bind(GRAMMAR, catalogue), catalogue=catalogue)


@pytest.fixture
def walked(tokenizer: Path, language: Path, grammar: Grammar) -> Callable[[type[MaskEngine], str], Message]:
    def run(kind: type[MaskEngine], text: str) -> Message:
        engine = kind(tokenizer, END)
        sources = {Llguidance: grammar.source, Outlines: grammar.source, Xgrammar: from_grammar(grammar)}
        engine.compile(sources.get(kind, str(language)))
        return walk(engine, tiny_tokenizer().encode_plain(text), seed=0)

    return run


def script(folder: Path, text: str) -> Path:
    path = folder / "interpreter"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "kind", [EdgedslFull, EdgedslGreedy, Llguidance, Outlines, pytest.param(Xgrammar, marks=needs_xgrammar)]
)
def test_engines_accept_programs_and_refuse_what_is_none(
    kind: type[MaskEngine], walked: Callable[[type[MaskEngine], str], Message]
) -> None:
    tokens = tiny_tokenizer()
    num_tokens = len(tokens.encode_plain(PROGRAM))
    program = walked(kind, PROGRAM)
    assert program["is_accepted"]
    assert len(program["step_us"]) == num_tokens + 1 == len(program["drawn"])
    assert min(program["step_us"]) > 0
    assert {token_id is None for token_id in program["drawn"]} == {kind is EdgedslGreedy}
    assert not walked(kind, "off hal")["is_accepted"]  # the end token is refused
    refused = walked(kind, "off xhall; off hall")
    assert not refused["is_accepted"]
    assert len(refused["step_us"]) == len(tokens.encode_plain("off ")) + 1


def test_engines_draw_by_the_same_logits(
    walked: Callable[[type[MaskEngine], str], Message],
) -> None:
    drawn = walked(Llguidance, PROGRAM)["drawn"]
    assert drawn == walked(Outlines, PROGRAM)["drawn"] == walked(EdgedslFull, PROGRAM)["drawn"]
    assert drawn != tiny_tokenizer().encode_plain(PROGRAM)


def test_the_judge_knows_where_no_program_is_left(grammar: Grammar) -> None:
    judge, tokens = Judge(grammar, TINY), tiny_tokenizer()
    token_ids = tokens.encode_plain(OFF_HALL)
    begun, wrong = (tokens.encode_plain(text)[0] for text in (" ", "x"))
    num = len(token_ids)
    assert judge.num_wrong(OFF_HALL, token_ids, [*token_ids, END]) == 0
    assert judge.num_wrong(OFF_HALL, token_ids, [None, *[wrong] * (num - 1), begun]) == num - 1
    assert judge.num_wrong(OFF_HALL, token_ids, [END, *[None] * num]) == 1
    assert judge.num_wrong(OFF_HALL, token_ids, [tokens.token_id("<|im_start|>")]) == 1


def test_lark_is_asked_before_a_token_counts_as_wrong(grammar: Grammar, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(grammar, TINY)
    token_ids = tiny_tokenizer().encode_plain(OFF_HALL)
    monkeypatch.setattr(judge._planner.automaton, "advance", lambda position, data: None)
    assert judge.num_wrong(OFF_HALL, token_ids, token_ids) == 0


def test_programs_are_cases_and_samples_drawn_again_by_the_same_seed(language: Path, grammar: Grammar) -> None:
    opened = open_language(str(language))
    first, second = (programs(opened, tiny_tokenizer(), 12, seed=3) for _ in range(2))
    assert first == second != programs(opened, tiny_tokenizer(), 12, seed=4)
    assert next(iter(first)) == PROGRAM
    assert len(first) > 8
    assert all(grammar.accepts(text) and tiny_tokenizer().decode(ids) == text for text, ids in first.items())


def test_pairs_are_walked_and_the_first_of_them_without_a_clock(
    tokenizer: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, output = tmp_path / "test.jsonl", tmp_path / "masks.json"
    targets = ["off hall", "off café", "no program", "set hall 5", "off hall; off café"]
    pairs.write_text("".join(json.dumps({"prompt": "x", "target": text}) + "\n" for text in targets), encoding="utf-8")
    arguments = ["--tokenizer", str(tokenizer), "--pairs", str(pairs), "--engine", "edgedsl-greedy"]
    assert masks.main([*arguments, "--output", str(output)]) == 2
    assert "--pairs are programs of one grammar" in capsys.readouterr().err
    assert masks.main([*arguments, "--grammar", str(language), "--output", str(output)]) == 0
    record = json.loads(output.read_text(encoding="utf-8"))
    (row,) = record["rows"]
    timed = [tiny_tokenizer().encode_plain(text) for text in targets[3:]]
    assert (row["refused"], row["errors"], row["tokens"]) == ("0/2", 0, sum(len(token_ids) + 1 for token_ids in timed))
    assert "--grammar tiny --pairs test.jsonl" in record["caption"]["command"]
    assert "has walked other programs before" in " ".join(record["caveats"])


def test_command_writes_a_result_that_the_tables_read(
    tokenizer: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "masks-tiny_box_202611.json"
    output.parent.mkdir()
    arguments = ["--tokenizer", str(tokenizer.parent), "--grammar", str(language), "--num-programs", "4"]
    arguments += ["--engine", "edgedsl-full", "--engine", "llguidance", "--engine", "xgrammar"]
    assert masks.main([*arguments, "--output", str(output)]) == 0
    assert "xgrammar is left out" in capsys.readouterr().err
    record = read_result(output)
    assert [row["engine"].rsplit(maxsplit=1)[0] for row in record["rows"]] == ["edgedsl, full mask", "llguidance"]
    for row in record["rows"]:
        assert (row["compiled"], row["errors"]) == ("1/1", 0)
        assert (row["refused"][:2], row["over_permissive"][:2]) == ("0/", "0/")
        assert row["compile_ms"] > 0
    assert "xgrammar was left out" in " ".join(record["caveats"])
    assert "| llguidance" in render(output.parent)
    assert "| tiny | llguidance" in by_grammar(output.parent)
    text = output.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "café" not in text


@needs_xgrammar
def test_command_measures_xgrammar(tokenizer: Path, language: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    arguments = ["--tokenizer", str(tokenizer), "--grammar", str(language), "--num-programs", "4"]
    python = ["--engine", "xgrammar", "--xgrammar-python", sys.executable]
    assert masks.main([*arguments, *python, "--output", str(output)]) == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["compiled"], row["errors"], row["refused"][:2]) == ("1/1", 0, "0/")


def test_bad_flags_are_one_message(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--tokenizer", str(tokenizer), "--output", str(tmp_path / "x.json")]
    assert masks.main([*common, "--engine", "xgrammar"]) == ConfigError.exit_code
    assert masks.main([*common, "--grammar", str(tmp_path / "none.lark")]) == GrammarError.exit_code
    assert capsys.readouterr().err.count("error: ") == 2
    assert not (tmp_path / "x.json").exists()


def test_an_interpreter_without_the_engine_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the process ended with 3"):
        MaskProcess("xgrammar", script(tmp_path, "#!/bin/sh\nexit 3\n"), tokenizer, 0, 1.0)


def test_an_engine_that_is_not_installed_is_refused(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    answer = Worker().answer({"open": "xgrammar", "tokenizer": str(tokenizer), "end_token_id": 0})
    assert answer["error"].startswith("ModuleNotFoundError")


def test_an_engine_that_hangs_is_killed_started_again_and_then_given_up(tokenizer: Path, tmp_path: Path) -> None:
    run = Run(partial(MaskProcess, "xgrammar", script(tmp_path, HANGING), tokenizer, 0, 0.3), "root")
    messages = []
    for seed in range(5):
        with pytest.raises(GenerationError) as caught:
            run.walk([1, 2], seed)
        messages.append(caught.value.message)
        assert not run._process.is_running
    run.close()
    assert messages == ["no answer in 0.3 s"] * 3 + ["not tried any more, the engine was lost 3 times"] * 2
    assert run.compile_ms == 2.0


def test_a_grammar_that_does_not_compile_fails_with_every_program(tokenizer: Path) -> None:
    run = Run(partial(MaskProcess, "llguidance", None, tokenizer, END, 30.0), "start: unknown")
    assert run.compile_ms is None
    for seed in range(2):
        with pytest.raises(GenerationError, match="compiling: MatcherError: llguidance: at 1"):
            run.walk([1], seed)
    run.close()
    assert not run._process.is_running


def test_a_grammar_without_gbnf_says_why(tokenizer: Path, tmp_path: Path) -> None:
    source, failure = masks._source("xgrammar", "", Grammar('start: a\na: b "x" | "a"\nb: a "y"\n'))
    run = Run(partial(MaskProcess, "xgrammar", script(tmp_path, HANGING), tokenizer, 0, 1.0), source, failure)
    with pytest.raises(GenerationError, match="no GBNF: rule 'a'"):
        run.walk([1], 0)
    run.close()


def test_rows_pool_times_and_add_counts() -> None:
    one = Tally("a", "edgedsl", compile_ms=10.0, num_programs=3)
    other = Tally("b", "edgedsl", step_us=[9.0], num_programs=4)
    one.add({"step_us": [1.0, 2.0], "is_accepted": False, "drawn": [5, 6, None]}, num_wrong=1)
    other.errors["no answer in 1 s"] += 2
    (row,) = masks.rows([one, other])
    assert (row["compiled"], row["compile_ms"], row["tokens"], row["mask_us_p50"]) == ("1/2", 10.0, 3, 2.0)
    assert (row["refused"], row["over_permissive"], row["errors"]) == ("1/7", "1/2", 2)
    assert [row["compile_ms"] for row in masks.grammar_rows([one, other])] == [10.0, None]
