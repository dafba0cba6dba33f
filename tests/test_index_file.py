"""What the indexes of n-grams and of training sentences and the prefix share: which files and rows are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bundle import MODEL

from edgedsl.errors import BundleError, ExportError
from edgedsl.exporters.neighbours import write_neighbours
from edgedsl.exporters.ngrams import write_ngrams
from edgedsl.runtime.neighbours import NeighbourIndex
from edgedsl.runtime.ngrams import NgramIndex
from edgedsl.runtime.prefix import Prefix

VOCAB, END = 10, 9
Rows = list[tuple[list[int], list[int]]]
ROWS: Rows = [([1, 2, 3], [0, 1, 2]), ([1, 2], [0, 1, 2]), ([1, 4], [0, 1, 3]), ([9], [4, 1, 3]), ([8], [])]


class Kind(NamedTuple):
    """One kind of index; ``ask`` looks things up and checks what is found."""

    read: Callable[[Path, int], Any]
    write: Callable[[Path, Rows], int]
    ask: Callable[[Any], None]


def ask_neighbours(index: NeighbourIndex) -> None:
    for sentence in ([], [1], [1, 2, 8, 9]):
        for token_ids, vote in index.nearest(sentence, 2):
            assert vote > 0
            assert all(0 <= token_id < VOCAB for token_id in token_ids)


def write_programs(path: Path, rows: Rows) -> int:
    return write_ngrams(path, [program for _, program in rows], vocab_size=VOCAB, end_token_id=END)


def ask_ngrams(index: NgramIndex) -> None:
    for program in ([], [0], [0, 1, 2], [END] * 20):
        found = index.predict(program)
        assert found is None or (0 <= found.token_id < VOCAB and 1 <= found.num_times <= found.num_total)


def read_prefix(path: Path, vocab_size: int) -> Prefix:
    return Prefix.from_file(path, MODEL, vocab_size)


def write_prefix(path: Path, rows: Rows) -> int:
    token_ids = rows[0][0]
    shape = (2 * MODEL.num_layers, MODEL.num_kv_heads, len(token_ids), MODEL.head_dim)
    return path.write_bytes(Prefix(tuple(token_ids), np.ones(shape, np.float32)).pack(VOCAB))


def ask_prefix(prefix: Prefix) -> None:
    assert all(0 <= token_id < VOCAB for token_id in prefix.token_ids)
    assert prefix.kv.shape == (2 * MODEL.num_layers, MODEL.num_kv_heads, len(prefix.token_ids), MODEL.head_dim)
    assert np.isfinite(prefix.kv).all()


NEIGHBOURS = Kind(NeighbourIndex.from_file, partial(write_neighbours, vocab_size=VOCAB), ask_neighbours)
NGRAMS = Kind(NgramIndex.from_file, write_programs, ask_ngrams)
PREFIX = Kind(read_prefix, write_prefix, ask_prefix)
every = pytest.mark.parametrize("kind", [NEIGHBOURS, NGRAMS, PREFIX], ids=["neighbours", "ngrams", "prefix"])


@pytest.fixture
def whole(kind: Kind, tmp_path: Path) -> bytes:
    """Content of an index, which is written to ``x``."""
    kind.write(tmp_path / "x", ROWS)
    return (tmp_path / "x").read_bytes()


@pytest.mark.parametrize(
    ("kind", "rows"),
    [(kind, rows) for kind in (NEIGHBOURS, NGRAMS) for rows in ([], [([1], [VOCAB])], [([1], [-2])])]
    + [(NEIGHBOURS, [([VOCAB], [1])]), (NEIGHBOURS, [([1], [-1])])],
)
def test_what_cannot_be_indexed_is_refused(tmp_path: Path, kind: Kind, rows: Rows) -> None:
    with pytest.raises(ExportError):
        kind.write(tmp_path / "x", rows)
    assert not (tmp_path / "x").exists()


@every
def test_another_tokenizer_is_refused(tmp_path: Path, kind: Kind, whole: bytes) -> None:
    with pytest.raises(BundleError, match="made for 10 tokens, expected 11"):
        kind.read(tmp_path / "x", VOCAB + 1)


@every
def test_a_missing_and_an_empty_file_are_refused(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty", "."):
        with pytest.raises(BundleError, match="cannot be read"):
            kind.read(tmp_path / name, VOCAB)


def damaged(whole: bytes) -> Iterator[tuple[bytes, str]]:
    """Another magic, version or count of numbers, any of these numbers, another length; and the message."""
    for place in (0, 8, 12):
        yield whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], "malformed"
    for place in range(16, 16 + 8 * int.from_bytes(whole[12:16], "little"), 8):
        for value in (0, 2**63, 2**64 - 1):
            yield whole[:place] + value.to_bytes(8, "little") + whole[place + 8 :], "malformed|made for"
    yield whole + bytes(8), "its header says"
    yield whole[:-8], "its header says"


@every
def test_what_does_not_fit_the_header_is_refused(tmp_path: Path, kind: Kind, whole: bytes) -> None:
    for content, message in damaged(whole):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(BundleError, match=message):
            kind.read(tmp_path / "x", VOCAB)


@every
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, 2000)),
    st.binary(max_size=20),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_malformed_file_never_crashes(
    tmp_path: Path, kind: Kind, whole: bytes, changes: list[tuple[int, int]], length: int | None, more: bytes
) -> None:
    content = bytearray(whole[:length] + more)
    for place, value in changes:
        if content:
            content[place % len(content)] = value
    (tmp_path / "x").write_bytes(content)
    try:
        index = kind.read(tmp_path / "x", VOCAB)
    except BundleError:
        assert content != whole
        return
    kind.ask(index)
