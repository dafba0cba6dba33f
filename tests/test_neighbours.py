"""The index of training sentences, against cosines worked out one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedsl.exporters import neighbours as exporter
from edgedsl.exporters.neighbours import write_neighbours
from edgedsl.runtime.neighbours import NeighbourIndex, rarity

VOCAB = 40
Rows = list[tuple[list[int], list[int]]]
sentences = st.lists(st.integers(0, VOCAB - 1), max_size=8)
rows_of_pairs = st.lists(st.tuples(sentences, st.lists(st.integers(0, 3), max_size=4)), min_size=1, max_size=20)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS: Rows = [([1, 2, 3], [5, 6]), ([1, 2, 4], [5, 6]), ([1, 9], [7]), ([8], [])]


def build(folder: Path, rows: Rows, first: Iterable[tuple[int, ...]] = ()) -> NeighbourIndex:
    write_neighbours(folder / "x", rows, vocab_size=VOCAB, first=first)
    return NeighbourIndex.from_file(folder / "x", VOCAB)


def likeness(rows: Rows, sentence: list[int]) -> dict[tuple[int, ...], float]:
    """Vote of each program by the definition: squares of cosines, the best one 1."""
    distinct = list(dict.fromkeys((frozenset(words), tuple(target)) for words, target in rows))
    frequency = {word: sum(word in words for words, _ in distinct) for words, _ in distinct for word in words}
    weight = {word: rarity(len(distinct), count) for word, count in frequency.items()}
    cosines = []
    for words, target in distinct:
        length = math.sqrt(sum(weight.get(word, 0) ** 2 for word in words))
        shared = sum(weight.get(word, 0) ** 2 for word in words & set(sentence))
        cosines.append((target, shared / length if length else 0.0))
    best = max(cosine for _, cosine in cosines)
    votes: dict[tuple[int, ...], float] = {}
    for target, cosine in cosines:
        if cosine > 0:
            votes[target] = votes.get(target, 0.0) + (cosine / best) ** 2
    return votes


@given(rows_of_pairs, sentences)
@quick
def test_votes_are_the_cosines(tmp_path: Path, rows: Rows, sentence: list[int]) -> None:
    found = {tuple(token_ids): vote for token_ids, vote in build(tmp_path, rows).nearest(sentence, 100)}
    assert found == pytest.approx(likeness(rows, sentence), rel=1e-4)


def test_the_programs_named_first_are_listed_first(tmp_path: Path) -> None:
    index = build(tmp_path, [([n], [n]) for n in range(5)], first=[(3,), (9,), (1,), (3,)])
    assert list(index.programs(100)) == [[3], [1], [0], [2], [4]]
    assert list(index.programs(2)) == [[3], [1]]


@given(rows_of_pairs, sentences, st.lists(st.lists(st.integers(0, 3), max_size=4).map(tuple)))
@quick
def test_the_order_of_the_programs_changes_no_vote(
    tmp_path: Path, rows: Rows, sentence: list[int], first: list[tuple[int, ...]]
) -> None:
    assert build(tmp_path, rows, first=first).nearest(sentence, 3) == build(tmp_path, rows).nearest(sentence, 3)


def test_the_best_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    index = build(tmp_path, [*ROWS, *(([20 + n], [n]) for n in range(12))])
    assert [found.token_ids for found in index.nearest([1, 9], 100)] == [[7], [5, 6]]
    assert [found.token_ids for found in index.nearest([1, 9], 1)] == [[7]]
    assert index.nearest([39], 5) == []
    assert index.nearest([], 5) == []


def test_more_rows_than_wanted_are_thinned_out_evenly(tmp_path: Path) -> None:
    rows: Rows = [([n], [n]) for n in range(10)]
    assert write_neighbours(tmp_path / "x", rows, vocab_size=VOCAB, max_rows=5) == 5
    index = NeighbourIndex.from_file(tmp_path / "x", VOCAB)
    assert [bool(index.nearest([n], 1)) for n in range(10)] == [True, False] * 5


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path, ROWS)
    first = (tmp_path / "x").read_bytes()
    build(tmp_path, ROWS + [([*reversed(words), words[0]], target) for words, target in ROWS])
    assert (tmp_path / "x").read_bytes() == first


def test_programs_of_the_nearest_are_made_to_fit(tmp_path: Path) -> None:
    index = build(tmp_path, [([3, 1, 2], [5, 6]), ([1, 2, 4], [5, 6]), ([9, 1], [7])])
    asked: list[tuple[list[int], list[int]]] = []

    def fit(sentence: list[int], program: list[int]) -> list[int]:
        asked.append((sentence, program))
        return [8, 8] if sentence == [3, 1, 2] else program

    found = index.nearest([1, 2, 3], 3, fit, num_fitted=2)
    assert asked == [([3, 1, 2], [5, 6]), ([1, 2, 4], [5, 6])], "in the order of their words, the nearest first"
    assert [neighbour.token_ids for neighbour in found] == [[8, 8], [5, 6], [7]]
    assert sum(n.vote for n in found) == pytest.approx(sum(n.vote for n in index.nearest([1, 2, 3], 3)))


def test_common_tokens_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Rows = [([1, 10 + n], [n]) for n in range(8)]
    assert len(build(tmp_path, rows).nearest([1], 4)) == 4
    monkeypatch.setattr(exporter, "SHORT", 1)
    index = build(tmp_path, rows)
    assert index.nearest([1], 4) == []
    assert [found.token_ids for found in index.nearest([1, 12], 4)] == [[2]]
