"""The first round of ``auto``: what is compared, what is left on disk, what is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import PAIRS, tiny_template, tiny_tokenizer

from edgedsl.data.pairs import Pair
from edgedsl.exporters import first_round
from edgedsl.exporters.fidelity import Fidelity
from edgedsl.exporters.first_round import FirstRound

TOKENIZER, TEMPLATE = tiny_tokenizer(), tiny_template()


class FakeDecoder:
    """Logits that say which token came; the first two tokens of each row are cached."""

    length = 2

    def __init__(self, calls: list[tuple[list[int], int]]) -> None:
        self.calls = calls

    def reset(self) -> None:
        pass

    def forward_last(self, token_ids: Sequence[int], num_logits: int) -> np.ndarray:
        self.calls.append((list(token_ids), num_logits))
        return np.eye(512, dtype=np.float32)[list(token_ids)[-num_logits:]]


class FakeHops:
    """Pairs and a decoder for every folder."""

    def __init__(self, num_pairs: int = len(PAIRS)) -> None:
        self.language = SimpleNamespace(tokenizer=TOKENIZER, template=TEMPLATE)
        rows = [PAIRS[n % len(PAIRS)] for n in range(num_pairs)]
        self.pairs = [Pair(str(n), prompt, target, "", "") for n, (prompt, target) in enumerate(rows)]
        self.calls: list[tuple[list[int], int]] = []
        self.said: list[str] = []
        self.say = self.said.append

    def token_row(self, pair: Pair) -> list[int]:
        return TOKENIZER.encode_prompt(TEMPLATE, pair.prompt) + TOKENIZER.encode_plain(pair.target)

    def decoder(self, folder: Path, info: Any) -> FakeDecoder:
        return FakeDecoder(self.calls)


class FakeWriter:
    """Writes a file of eight bytes."""

    def __init__(self, folder: Path) -> None:
        self.graph, self.info = SimpleNamespace(path=folder / "model.onnx"), None

    def info_of(self, name: str) -> None:
        return None

    def write(self, name: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"8 bytes.")


def make_round(folder: Path, num_pairs: int = len(PAIRS)) -> tuple[FirstRound, FakeHops]:
    hops = FakeHops(num_pairs)
    return FirstRound(FakeWriter(folder), hops, folder), hops  # type: ignore[arg-type]


def judge_as(monkeypatch: pytest.MonkeyPatch, *figures: tuple[float, float]) -> None:
    found = iter(figures)
    monkeypatch.setattr(first_round, "fidelity", lambda *logits: Fidelity(100, *next(found)))


def test_recipes_that_are_alone_are_not_compared(tmp_path: Path) -> None:
    first, hops = make_round(tmp_path)
    assert first.run(["w8a8", "int8", "int4-rtn", "int4-128"]) == []
    assert (hops.calls, hops.said, list(tmp_path.iterdir())) == ([], [], [])


def test_the_winner_stays_and_the_losers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_as(monkeypatch, (0.9, 0.1), (0.95, 0.1), (0.93, 0.1))
    first, hops = make_round(tmp_path)
    found = first.run(["int8", "int4", "int4-hqq", "int4-rtn"])
    assert {one.recipe: (one.beaten_by, one.num_bytes) for one in found} == {
        "int4": ("int4-hqq", 8), "int4-hqq": ("", 8), "int4-rtn": ("int4-hqq", 8),
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["int4-hqq"]
    assert hops.said == [
        "quantized: first round of int4, int4-hqq, int4-rtn, which take the same time",
        "  int4: write, compare with fp32",
        "  int4: likeliest token as in fp32 at 90.00% of 100 positions, mean KL divergence 0.1",
        "  int4-hqq: write, compare with fp32",
        "  int4-hqq: likeliest token as in fp32 at 95.00% of 100 positions, mean KL divergence 0.1",
        "  int4-rtn: write, compare with fp32",
        "  int4-rtn: likeliest token as in fp32 at 93.00% of 100 positions, mean KL divergence 0.1",
        "  int4-hqq is the closest to fp32 and goes on",
    ]


def test_an_early_loser_that_wins_after_all_is_to_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_as(monkeypatch, (0.992, 0.1), (0.996, 0.2), (0.9975, 0.3))
    found = make_round(tmp_path)[0].run(["int4", "int4-hqq", "int4-rtn"])
    assert [one.recipe for one in found if not one.beaten_by] == ["int4-hqq"]
    assert list(tmp_path.iterdir()) == []


def test_the_positions_are_those_that_choose_the_program_and_its_end(tmp_path: Path) -> None:
    first, hops = make_round(tmp_path)
    found = first.run(["int4", "int4-rtn"])
    rows = [hops.token_row(pair)[2:] for pair in hops.pairs]
    lengths = [len(TOKENIZER.encode_plain(pair.target)) + 1 for pair in hops.pairs]
    assert hops.calls == list(zip(rows, lengths, strict=True)) * 3, "fp32 once, then each recipe"
    assert {one.fidelity for one in found} == {Fidelity(sum(lengths), 1.0, 0.0)}


def test_a_few_dozen_rows_and_not_too_many_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = make_round(tmp_path, num_pairs=200)
    assert len(first._rows) == first_round.MAX_ROWS
    monkeypatch.setattr(first_round, "MAX_POSITIONS", 100)
    first, _ = make_round(tmp_path, num_pairs=200)
    nums = [num for _, num in first._rows]
    assert 100 - max(nums) < sum(nums) <= 100
    monkeypatch.setattr(first_round, "MAX_POSITIONS", 1)
    assert len(make_round(tmp_path)[0]._rows) == 1
