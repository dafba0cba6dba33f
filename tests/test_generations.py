"""Random logits on every shipped grammar: what comes out parses, at any budget. The slow lane makes 10^5 of it."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learned_tokenizer import END, learned_tokens

from edgedsl.bench import generations
from edgedsl.bench.table import read_result, render
from edgedsl.errors import GenerationError, ModelError
from edgedsl.grammar import BudgetGuard, Grammar, position
from edgedsl.grammar.authoring.fuzz import BATCH_SIZES, SPARE, Fuzzer, FuzzResult, request
from edgedsl.grammar.authoring.generation import Generation, Request
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.authoring.random_logits import KINDS, RandomLogits
from edgedsl.grammar.authoring.token_set import TokenSet, open_tokens
from edgedsl.grammar.lalr import Stack

SUM = Grammar('start: sum\nsum: sum "+" term | term\nterm: "x" | "[" sum "]"\n', name="sum")


def tokens(kind: str) -> TokenSet:
    return open_tokens(None) if kind == "bytes" else learned_tokens()


def fuzz(name: str, kind: str, n: int, seed: int) -> tuple[FuzzResult, list[str]]:
    language = open_language(name)
    fuzzer = Fuzzer(language.grammar(), tokens(kind), language.catalogue, seed)
    return fuzzer.run(n), fuzzer.failures


def check(name: str, kind: str, n: int, seed: int) -> None:
    result, failures = fuzz(name, kind, n, seed)
    assert failures == []
    assert (result.n, result.parsed, result.over_budget, result.invented_names, result.errors) == (n, n, 0, 0, 0)


@pytest.mark.parametrize("name", shipped())
def test_every_program_parses(name: str) -> None:
    check(name, "bytes", 48, seed=1)


@pytest.mark.parametrize("name", shipped())
def test_every_program_of_longer_tokens_parses(name: str) -> None:
    check(name, "learned", 48, seed=2)


@pytest.mark.slow
def test_every_one_of_a_hundred_thousand_programs_parses(tmp_path: Path) -> None:
    """A process a core: one after the other the grammars take half an hour."""
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(learned_tokens().tokenizer.json_text, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}), encoding="utf-8")
    n = 100_000 // len(shipped())
    tasks = [generations.Task(name, n, 3, tokenizer, tmp_path / "result.json") for name in shipped()]
    parts = generations.run_all(tasks, num_processes=os.cpu_count() or 1)
    assert [part["failures"] for part in parts] == [[]] * len(tasks)
    total = generations.rows(parts)[-1]
    assert (total["n"], total["parsed"]) == (100_000, 100_000)
    assert (total["over_budget"], total["invented_names"], total["errors"]) == (0, 0, 0)


# --- what is asked for


def test_all_kinds_of_logits_meet_all_budgets() -> None:
    requests = [request(number, 7) for number in range(2 * len(KINDS) * len(SPARE))]
    assert len({(r.kind, r.budget, r.is_greedy) for r in requests}) == len(requests)
    assert min(r.budget for r in requests) == 7
    assert {r.kind for r in requests} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_finite_seeded_and_new_each_time(kind: str) -> None:
    compiled = open_tokens(None).compile(SUM)
    logits = RandomLogits(compiled, np.random.default_rng(1))
    rows = [logits.row(kind, rng) for rng in [np.random.default_rng(5)] for _ in range(3)]
    again = RandomLogits(compiled, np.random.default_rng(1)).row(kind, np.random.default_rng(5))
    assert all(row.shape == (compiled.vocab_size,) and row.dtype == np.float32 for row in rows)
    assert all(np.isfinite(row).all() for row in rows)
    assert (rows[0] == again).all()
    assert kind == "equal" or not (rows[0] == rows[1]).all()
    rows[0][:] = -np.inf  # masking one in place leaves the pool alone
    assert np.isfinite(logits.row(kind, np.random.default_rng(5))).all()


def test_logits_differ_by_kind() -> None:
    compiled = open_tokens(None).compile(SUM)
    logits = RandomLogits(compiled, np.random.default_rng(1))
    row = {kind: logits.row(kind, np.random.default_rng(5)) for kind in KINDS}
    end, opening, closing = min(compiled.end_token_ids), ord("["), ord("]")
    assert row["endless"][end] < row["normal"][end] - 30
    assert row["endless"][closing] < row["normal"][closing] - 30
    assert row["nested"][opening] > row["normal"][opening] + 10
    assert row["peaked"].std() > 3 * row["normal"].std()
    assert len(np.unique(row["ties"])) < 12
    assert len(np.unique(row["equal"])) == 1
    assert row["extreme"].max() == -row["extreme"].min() == np.finfo(np.float32).max


def test_logits_that_wish_to_open_do_open() -> None:
    generation = Generation(open_tokens(None).compile(SUM), np.random.default_rng(0))
    texts = {kind: bytes(generation.program(60, is_greedy=True, kind=kind)).decode() for kind in ("nested", "normal")}
    assert texts["nested"].startswith("[" * 25)
    assert all(SUM.accepts(text) for text in texts.values())


def test_the_number_of_a_request_makes_its_logits() -> None:
    compiled = tokens("learned").compile(open_language("flow").grammar())
    generation = Generation(compiled, np.random.default_rng(0))
    texts = {tuple(g.token_ids) for g in generation.batch([Request(number, 40) for number in range(10)], 4)}
    assert len(texts) > 5


def num_stacks() -> int:
    gc.collect()
    return sum(type(found) is Stack for found in gc.get_objects())


def test_what_was_known_of_old_stacks_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server would hold more with every request; and what comes out stays the same."""
    grammar = open_language("cypher-read").grammar()
    requests = [Request(number, 60) for number in range(80)]
    before = num_stacks()
    compiled = tokens("learned").compile(grammar)
    expected = [g.token_ids for g in Generation(compiled, np.random.default_rng(0)).batch(requests, 1)]
    num_kept = num_stacks() - before
    del compiled
    monkeypatch.setattr(position, "_MAX_STACKS", 100)
    before = num_stacks()
    compiled = tokens("learned").compile(grammar)
    found = [g.token_ids for g in Generation(compiled, np.random.default_rng(0)).batch(requests, 1)]
    assert found == expected
    assert num_stacks() - before < num_kept / 5


# --- batches


@pytest.mark.parametrize("size", BATCH_SIZES)
def test_a_batch_gives_what_each_request_gives_alone(size: int) -> None:
    compiled = tokens("learned").compile(open_language("flow").grammar())
    requests = [request(number, compiled.planner.min_tokens) for number in range(40)]
    alone = Generation(compiled, np.random.default_rng(0))
    expected = {r.number: next(alone.batch([r], 1)).token_ids for r in requests}
    found = {
        generated.request.number: generated.token_ids
        for generated in Generation(compiled, np.random.default_rng(0)).batch(requests, size)
    }
    assert found == expected
    assert len({tuple(token_ids) for token_ids in found.values()}) > 10


def test_programs_of_a_batch_run_in_lock_step_and_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    advance = Generation._advance

    def watched(self: Generation, program: Any) -> bool:
        order.append(program.generated.request.number)
        return advance(self, program)

    monkeypatch.setattr(Generation, "_advance", watched)
    generation = Generation(open_tokens(None).compile(SUM), np.random.default_rng(0))
    requests = [Request(0, 9, "nested"), Request(1, 1), Request(2, 9, "nested")]
    ended = [generated.request.number for generated in generation.batch(requests, 2)]
    assert ended[0] == 1
    assert sorted(ended) == [0, 1, 2]
    third = order.index(2)
    assert set(order[:third]) == {0, 1}
    assert order[:2] == [0, 1]
    assert 0 in order[third:], "the third began while the first still ran"


def test_an_error_ends_one_program_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = BudgetGuard.choose
    calls = Counter[str]()

    def fails_once(self: BudgetGuard, *arguments: Any, **options: Any) -> int:
        calls["n"] += 1
        if calls["n"] == 3:
            raise GenerationError("a limit was met")
        return choose(self, *arguments, **options)

    monkeypatch.setattr(BudgetGuard, "choose", fails_once)
    fuzzer = Fuzzer(SUM, open_tokens(None))
    result = fuzzer.run(24)
    assert (result.n, result.parsed, result.errors) == (24, 23, 1)
    assert fuzzer.failures[0].endswith(": a limit was met")


def test_a_bug_names_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(BudgetGuard, "choose", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        Fuzzer(SUM, open_tokens(None)).run(1)
    assert caught.value.__notes__ == ["program: number 0, normal logits, greedy, budget 1"]


# --- the measurement


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text(learned_tokens().tokenizer.json_text, encoding="utf-8")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "generations_box_202611.json"


def arguments(tokenizer: Path, output: Path, *more: str) -> list[str]:
    chosen = ["--grammar", "cron", "--grammar", "flow"]
    return ["--tokenizer", str(tokenizer), "--output", str(output), "--n", "21", *chosen, *more]


def test_the_measurement_writes_a_result_that_the_table_reads(
    tokenizer: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generations.main(arguments(tokenizer, output)) == 0
    rows = read_result(output)["rows"]
    assert [(row["grammar"], row["n"], row["parsed"]) for row in rows] == [
        ("cron", 11, 11),
        ("flow", 10, 10),
        ("all", 21, 21),
    ]
    assert all(row["mask_us_p50"] <= row["mask_us_p99"] <= row["mask_us_max"] for row in rows)
    assert rows[2]["tokens"] == rows[0]["tokens"] + rows[1]["tokens"] > 40
    assert rows[2]["mask_us_max"] == max(rows[0]["mask_us_max"], rows[1]["mask_us_max"])
    assert json.loads(capsys.readouterr().out) == rows
    assert "mask and check p50, µs" in render(output.parent)
    assert str(tokenizer.parent) not in output.read_text(encoding="utf-8")


def test_a_run_goes_on_where_it_was_broken_off(
    tokenizer: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generations.main(arguments(tokenizer, output)) == 0
    first = json.loads(output.read_text(encoding="utf-8"))["rows"]
    part = output.with_name(f"{output.name}.flow.part")
    part.unlink()
    ran: list[str] = []
    run = generations.run

    def watched(task: generations.Task) -> dict[str, Any]:
        ran.append(task.grammar)
        return run(task)

    monkeypatch.setattr(generations, "run", watched)
    assert generations.main(arguments(tokenizer, output)) == 0
    assert ran == ["flow"]
    assert "cron: finished earlier" in capsys.readouterr().err
    again = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert again[0] == first[0]
    assert [row["tokens"] for row in again] == [row["tokens"] for row in first], "the seed makes the programs"
    part.write_text("{", encoding="utf-8")  # cut off by hand
    assert generations.main(arguments(tokenizer, output, "--seed", "1")) == 0
    assert ran == ["flow", "cron", "flow"], "another seed is another run"


def test_two_processes_give_what_one_gives(tokenizer: Path, output: Path) -> None:
    assert generations.main(arguments(tokenizer, output, "--num-processes", "2")) == 0
    two = json.loads(output.read_text(encoding="utf-8"))["rows"]
    other = output.with_name("other_box_202611.json")
    assert generations.main(arguments(tokenizer, other)) == 0
    one = json.loads(other.read_text(encoding="utf-8"))["rows"]
    names = ("grammar", "n", "parsed", "tokens", "distinct", "min_budget")
    assert [[row[name] for name in names] for row in one] == [[row[name] for name in names] for row in two]


def test_a_broken_promise_is_counted_said_and_an_exit_code(
    tokenizer: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Grammar, "accepts", lambda _, text: len(text) < 12)
    assert generations.main(arguments(tokenizer, output)) == GenerationError.exit_code
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert 0 < rows[2]["parsed"] < rows[2]["n"] == 21
    assert "failed: cron: number" in capsys.readouterr().err


def test_a_file_that_is_no_tokenizer_is_one_message(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generations.main(arguments(tmp_path / "none.json", output)) == ModelError.exit_code
    assert "does not exist" in capsys.readouterr().err
    assert not output.exists()


def test_percentiles_of_counted_times() -> None:
    times = Counter({"1": 50, "2": 49, "3e+02": 1})
    assert [generations.percentile(times, share) for share in (0.5, 0.99, 1.0)] == [1.0, 2.0, 300.0]
    assert generations.percentile(Counter(), 0.5) is None
