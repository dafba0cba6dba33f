"""The byte strings of a tokenizer's tokens, for walking an automaton with all of them at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

State = TypeVar("State")

_UNSPELT = 1 << 30  # more tokens than any text has
_MAX_SEGMENTS = 100_000


class Vocabulary:
    """Tokens with their bytes.

    Args:
        token_bytes: bytes of each token id; empty for tokens that never spell text, such as special ones.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        token_ids = sorted((i for i, data in enumerate(token_bytes) if data), key=token_bytes.__getitem__)
        self._token_ids = token_ids
        self._bytes = [token_bytes[token_id] for token_id in token_ids]
        self._ids = dict(zip(reversed(self._bytes), reversed(token_ids), strict=True))
        self.longest = max(map(len, self._bytes), default=0)
        self.token_bytes = list(token_bytes)
        self._longest_of: dict[bytes, int] = {}  # by its first two bytes
        self._segments: dict[bytes, tuple[int, int]] = {}  # of a text: its fewest tokens, and bytes of the first

    def walk(
        self,
        start: State,
        step: Callable[[State, int], State | None],
        live: Callable[[State], Sequence[int] | None] | None = None,
    ) -> Iterator[tuple[int, State]]:
        """Every token whose bytes ``step`` takes from ``start``, with the state it leads to.

        Args:
            start: first state.
            step: the state after one more byte; None where it is refused, and with it all tokens of that beginning.
            live: the bytes that may be taken in a state, where they are few; a catalogue leaves a handful of 256.
        """
        waiting: list[tuple[State, int, int, int]] = [(start, 0, len(self._bytes), 0)] if self._bytes else []
        while waiting:
            state, low, high, depth = waiting.pop()
            while low < high and len(self._bytes[low]) == depth:  # two tokens may spell the same: byte fallback
                yield self._token_ids[low], state
                low += 1
            if low == high:
                continue
            few = live(state) if live else None
            parts = self._parts(low, high, depth) if few is None else self._parts_of(few, low, high, depth)
            reached = [
                (target, first, last, depth + 1)
                for byte, first, last in parts
                if (target := step(state, byte)) is not None
            ]
            waiting += reversed(reached)

    def _parts(self, low: int, high: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """Tokens of one beginning by their next byte: the byte and where its tokens begin and end."""
        while low < high:
            byte = self._bytes[low][depth]
            after = self._end(low, high, depth, byte)
            yield byte, low, after
            low = after

    def _parts_of(self, few: Sequence[int], low: int, high: int, depth: int) -> Iterator[tuple[int, int, int]]:
        prefix = self._bytes[low][:depth]
        for byte in few:
            first = bisect_left(self._bytes, prefix + bytes([byte]), low, high)
            if first < high and self._bytes[first][depth] == byte:
                yield byte, first, self._end(first, high, depth, byte)

    def _end(self, low: int, high: int, depth: int, byte: int) -> int:
        if self._bytes[high - 1][depth] == byte:
            return high
        return bisect_left(self._bytes, self._bytes[low][:depth] + bytes([byte + 1]), low, high)

    def segment(self, data: bytes) -> list[int] | None:
        """The fewest tokens that spell the bytes; None where none do."""
        self._segment(data)
        tokens: list[int] = []
        while data:
            count, size = self._segments[data]
            if count >= _UNSPELT:
                return None
            tokens.append(self._ids[data[:size]])
            data = data[size:]
        return tokens

    def _segment(self, data: bytes) -> None:
        """From the end, as far as it is not known: endings of programs have their last bytes in common."""
        known, ids = self._segments, self._ids
        if len(known) >= _MAX_SEGMENTS:
            known.clear()
        for start in reversed(range(len(data))):
            text = data[start:]
            if text in known:
                continue
            best = (_UNSPELT, 0)
            for size in range(min(len(text), self._longest(text[:2])), 0, -1):
                if text[:size] in ids:
                    count = 1 + (known[text[size:]][0] if size < len(text) else 0)
                    if count < best[0]:
                        best = (count, size)
            known[text] = best

    def _longest(self, beginning: bytes) -> int:
        """Length of the longest token that begins so; 1 where none does."""
        if beginning not in self._longest_of:
            first = bisect_left(self._bytes, beginning)
            last = bisect_left(self._bytes, True, first, key=lambda data: not data.startswith(beginning))
            self._longest_of[beginning] = max(map(len, self._bytes[first:last]), default=1)
        return self._longest_of[beginning]
