"""The index of n-grams, against a slow dictionary, and well-formed nonsense."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedsl.errors import BundleError
from edgedsl.exporters.ngrams import TOLERANCE, write_ngrams
from edgedsl.runtime.ngrams import LAYOUT, NgramIndex, Prediction

VOCAB, END = 7, 6
START = -1
ROWS = [[0, 1, 2], [0, 1, 2], [0, 1, 3], [4, 1, 3], [5]]
rows_of_tokens = st.lists(st.lists(st.integers(0, VOCAB - 2), max_size=12), min_size=1, max_size=12)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def build(folder: Path, rows: Sequence[Sequence[int]], max_order: int = 8) -> NgramIndex:
    path = folder / "drafts.ngrams"
    num_entries = write_ngrams(path, rows, vocab_size=VOCAB, end_token_id=END, max_order=max_order)
    index = NgramIndex.from_file(path, VOCAB)
    assert index.num_entries == num_entries
    return index


def counted(rows: Sequence[Sequence[int]], max_order: int) -> dict[tuple[int, ...], Counter[int]]:
    """Every context, with how often each token followed it."""
    contexts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for row in rows:
        symbols = [START, *row, END]
        for place in range(1, len(symbols)):
            for order in range(1, min(max_order, place) + 1):
                contexts[tuple(symbols[place - order : place])][symbols[place]] += 1
    return contexts


def reference(contexts: dict[tuple[int, ...], Counter[int]], program: Sequence[int]) -> Counter[int] | None:
    """What followed the longest context that is known."""
    symbols = (START, *program)
    known = (symbols[start:] for start in range(len(symbols)) if symbols[start:] in contexts)
    return next((contexts[context] for context in known), None)


@given(rows_of_tokens, st.lists(st.integers(0, VOCAB - 1), max_size=12), st.integers(1, 8))
@quick
def test_the_token_is_that_of_the_longest_known_context(
    tmp_path: Path, rows: list[list[int]], program: list[int], max_order: int
) -> None:
    index, contexts = build(tmp_path, rows, max_order), counted(rows, max_order)
    for start in ([], program, *(row[:n] for row in rows for n in range(len(row) + 1))):
        found, expected = index.predict(start), reference(contexts, start)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        most = max(expected.values())
        assert found.token_id == min(token for token, count in expected.items() if count == most)
        assert found.num_times / found.num_total == pytest.approx(most / expected.total(), abs=TOLERANCE + 1e-9)


@given(rows_of_tokens, st.integers(1, 8))
@quick
def test_counts_are_those_of_the_context_that_was_found(tmp_path: Path, rows: list[list[int]], max_order: int) -> None:
    index, contexts = build(tmp_path, rows, max_order), counted(rows, max_order)
    for row in rows:
        found = index.predict(row)
        assert found is not None
        expected = contexts[(START, *row)[-found.order :]]
        assert (found.num_times, found.num_total) == (expected[found.token_id], expected.total())


def test_only_what_says_something_else_is_kept(tmp_path: Path) -> None:
    index = build(tmp_path, [[0, 1, 0, 1, 0, 1]] * 3)
    assert index.predict([0]) == Prediction(1, 9, 9, 1)
    assert index.predict([1, 0]) == Prediction(1, 9, 9, 1)  # (1, 0) says the same as (0)
    assert index.predict([0, 1]) == Prediction(0, 3, 3, 3)  # (start, 0, 1) is surer of it than (1)
    assert index.predict([0, 1, 0, 1, 0, 1]) == Prediction(END, 3, 3, 5)


def test_the_start_and_the_end_are_known(tmp_path: Path) -> None:
    index = build(tmp_path, ROWS)
    assert index.predict([]) == Prediction(0, 3, 5, 1)
    assert index.predict([5]) == Prediction(END, 1, 1, 1)
    assert index.predict([3, 5]) == Prediction(END, 1, 1, 1)
    assert build(tmp_path, [[]]).predict([]) == Prediction(END, 1, 1, 1)
    assert build(tmp_path, [[0]]).predict([3]) is None


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path, ROWS)
    first = (tmp_path / "drafts.ngrams").read_bytes()
    build(tmp_path, list(reversed(ROWS)))
    assert (tmp_path / "drafts.ngrams").read_bytes() == first
    build(tmp_path, ROWS[1:])
    assert (tmp_path / "drafts.ngrams").read_bytes() != first


def full_table(arrays: dict[str, list[int]]) -> None:
    arrays["keys"] = [key or 2**64 - 1 - n for n, key in enumerate(arrays["keys"])]


def break_token(arrays: dict[str, list[int]]) -> None:
    arrays["token_ids"] = [VOCAB] * len(arrays["token_ids"])


def break_counts(arrays: dict[str, list[int]]) -> None:
    arrays["counts"] = [1000] * len(arrays["counts"])


def break_reach(arrays: dict[str, list[int]]) -> None:
    arrays["reach"] = [9] * len(arrays["reach"])


def break_slots(arrays: dict[str, list[int]]) -> None:
    for values in arrays.values():
        values.append(0)


@pytest.mark.parametrize("damage", [full_table, break_token, break_counts, break_reach, break_slots])
def test_well_formed_nonsense_is_refused(tmp_path: Path, damage: object) -> None:
    build(tmp_path, ROWS)
    fields, arrays = LAYOUT.read(tmp_path / "drafts.ngrams", VOCAB)
    values = {name: array.tolist() for name, array in arrays.items()}
    damage(values)  # type: ignore[operator]
    if damage is full_table:  # nothing but the load is wrong
        fields["num_entries"] = len(values["keys"])
        values.update({name: [1] * len(values["keys"]) for name in ("counts", "totals")})
    (tmp_path / "x").write_bytes(LAYOUT.pack(fields, values))  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="malformed"):
        NgramIndex.from_file(tmp_path / "x", VOCAB)
