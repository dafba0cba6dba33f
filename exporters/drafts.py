"""The files that drafts are taken from, made of the training pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedsl.data.pairs import Pair, spread
from edgedsl.exporters.neighbours import MAX_ROWS, write_neighbours
from edgedsl.exporters.ngrams import write_ngrams
from edgedsl.exporters.walks import most_visited
from edgedsl.grammar import CompiledGrammar
from edgedsl.runtime import neighbours, ngrams
from edgedsl.tokenizer import Tokenizer


def write_drafts(folder: Path, pairs: Sequence[Pair], tokenizer: Tokenizer, compiled: CompiledGrammar) -> None:
    """Write both indices into a folder that becomes a bundle.

    Raises:
        ExportError: no pairs.
    """
    rows = [(tokenizer.encode_plain(pair.prompt), tokenizer.encode_plain(pair.target)) for pair in pairs]
    size = tokenizer.vocab_size
    programs = [program for _, program in rows]
    write_ngrams(folder / ngrams.FILE_NAME, programs, vocab_size=size, end_token_id=min(compiled.end_token_ids))
    first = most_visited(spread(programs, MAX_ROWS), compiled)
    write_neighbours(folder / neighbours.FILE_NAME, rows, vocab_size=size, first=first)


def has_drafts(folder: Path) -> bool:
    """Whether the indices are there."""
    return (folder / ngrams.FILE_NAME).exists()


def remove_drafts(folder: Path) -> None:
    """Take them out again: a bundle without them decodes token by token."""
    for name in (ngrams.FILE_NAME, neighbours.FILE_NAME):
        (folder / name).unlink()
