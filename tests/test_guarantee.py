"""The measurement of what the guarantee costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scripted import ScriptedDecoder, scripted_engine
from tiny import tiny_tokenizer

from edgedsl.bench import guarantee
from edgedsl.bench.table import read_result, render
from edgedsl.grammar import BudgetGuard

PROGRAMS = {"a": "set kitchen 20; off hall", "b": "off kitchen; set hall 5; off café"}


def test_the_clock_counts_a_method_inside_another_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(guarantee.time, "perf_counter", lambda: now[0])
    clock = guarantee.Clock()

    def inner() -> None:
        now[0] += 2

    timed = clock.timed(inner)

    def outer() -> None:
        now[0] += 1
        timed()
        raise ValueError("outer")

    with pytest.raises(ValueError, match="outer"):
        clock.timed(outer)()
    assert clock.seconds == 3
    timed()
    assert clock.seconds == 5
    left_out = clock.left_out(inner)
    left_out()
    assert clock.seconds == 5
    clock.timed(lambda: (left_out(), inner()))()
    assert clock.seconds == 7


def test_time_in_the_guard_is_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the decoder and the guard move; afterwards the guard is as before."""
    now = [0.0]
    monkeypatch.setattr(guarantee.time, "perf_counter", lambda: now[0])
    permits, rows = BudgetGuard.permits, ScriptedDecoder.rows

    def slow_permits(self: BudgetGuard, token_id: int, tokens_left: int) -> bool:
        now[0] += 0.001
        return permits(self, token_id, tokens_left)

    def slow_rows(self: ScriptedDecoder, token_ids: list[int], num_logits: int) -> np.ndarray:
        now[0] += 0.003
        return rows(self, token_ids, num_logits)

    monkeypatch.setattr(BudgetGuard, "permits", slow_permits)
    monkeypatch.setattr(ScriptedDecoder, "rows", slow_rows)
    row = guarantee.measure(scripted_engine(PROGRAMS), list(PROGRAMS), "slow")
    assert BudgetGuard.permits is slow_permits
    assert (row["round"], row["rows"], row["guarantee_share"]) == ("slow", 2, 0.25)
    num_tokens = sum(len(tiny_tokenizer().encode_plain(program)) for program in PROGRAMS.values())
    assert row["guarantee_us_token"] == pytest.approx(
        1000 * (num_tokens + 2) / num_tokens, abs=0.1
    )  # ends are asked too


def test_the_first_request_is_compared_with_the_same_sentence_later_on() -> None:
    assert guarantee.penalty([10.0, 4.0, 5.0, 9.0], 0) == 5.0
    assert guarantee.penalty([10.0, 4.0, 5.0, 9.0], 1) == -5.0
    assert guarantee.penalty([10.0], 0) == 0.0


def test_command_writes_a_result_that_the_table_shows(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in PROGRAMS.items()))
    output = tmp_path / "results" / "guarantee-tiny_box_202611.json"
    output.parent.mkdir()
    arguments = ["--bundle", str(tiny_bundle), "--pairs", str(source), "--num-loads", "2", "--num-threads", "1"]
    assert guarantee.main([*arguments, "--output", str(output)]) == 0
    result = read_result(output)
    assert [row["round"] for row in result["rows"]] == ["after a load", "again", "after a load and idle work"]
    assert all(0 < row["guarantee_share"] < 1 for row in result["rows"])
    assert len(result["first_request_ms"]) == 2
    assert "share of an answer" in render(output.parent)
    assert len(json.loads(capsys.readouterr().out)) == 3
