"""The measurement of programs below the budget they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted import scripted_engine

from edgedsl.bench import budgets
from edgedsl.bench.table import read_result
from edgedsl.data.pairs import Pair
from edgedsl.errors import DataError

PROGRAMS = {"a": "set kitchen 20; off hall", "b": "off kitchen; set hall 5; off café"}


@pytest.fixture
def pairs() -> list[Pair]:
    return [Pair(str(n), prompt, target, "", f"file:{n}") for n, (prompt, target) in enumerate(PROGRAMS.items())]


def test_steered_programs_parse_and_cut_ones_do_not(pairs: list[Pair]) -> None:
    engine = scripted_engine(PROGRAMS, {})
    whole, half = budgets.measure(engine, pairs, (1.0, 0.5))
    assert (whole["exact_match"], whole["cut_exact_match"], whole["similarity"]) == (1.0, 1.0, 1.0)
    assert (half["parse_rate"], half["over_budget"], half["exact_match"]) == (1.0, 0, 0.0)
    assert (whole["invented_names"], half["invented_names"]) == (0, 0)
    assert half["cut_parse_rate"] == 0.0
    assert 0 < half["similarity"] < 1
    assert half["budget"] == "50% of the reference"


def test_similarity_is_the_common_share() -> None:
    assert budgets.similarity("abcd", "abcd") == 1.0
    assert budgets.similarity("abcd", "ab") == pytest.approx(4 / 6)
    assert budgets.similarity("ab", "xy") == 0.0


def test_command_writes_a_result_that_the_table_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budgets.Engine, "from_bundle", lambda *_, **__: scripted_engine(PROGRAMS, {}))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in PROGRAMS.items()))
    output = tmp_path / "budget-tiny_box_202611.json"
    arguments = ["--bundle", str(bundle), "--pairs", str(source), "--output", str(output)]
    assert budgets.main(arguments) == 0
    assert len(read_result(output)["rows"]) == 4
    assert json.loads(capsys.readouterr().out)[0]["rows"] == 2
    arguments[3] = str(tmp_path / "missing.jsonl")
    assert budgets.main(arguments) == DataError.exit_code
