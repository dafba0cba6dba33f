"""The byte strings of a tokenizer's tokens, for walking an automaton with all of them at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

State = TypeVar("State")


class Vocabulary:
    """Tokens with their bytes.

    Args:
        token_bytes: bytes of each token id; empty for tokens that never spell text, such as special ones.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._sorted = sorted((data, token_id) for token_id, data in enumerate(token_bytes) if data)
        self._bytes = [data for data, _ in self._sorted]
        self._ids = dict(reversed(self._sorted))
        self.longest = max(map(len, self._bytes), default=0)
        self.token_bytes = list(token_bytes)

    def walk(self, start: State, step: Callable[[State, int], State | None]) -> Iterator[tuple[int, State]]:
        """Every token whose bytes ``step`` takes from ``start``, in the order of the bytes, with the state it leads to.

        A byte that fails skips all tokens with the same beginning.
        """
        path: list[State] = [start]  # path[n]: the state after the first n bytes of `previous`
        previous = b""
        index = 0
        while index < len(self._sorted):
            data, token_id = self._sorted[index]
            depth = _common(previous, data, len(path) - 1)
            del path[depth + 1 :]
            for byte in data[depth:]:
                state = step(path[-1], byte)
                if state is None:
                    break
                path.append(state)
            previous = data
            if len(path) == len(data) + 1:
                yield token_id, path[-1]
                index += 1
            else:
                index = self._after_prefix(data[: len(path)], index)

    def segment(self, data: bytes) -> list[int] | None:
        """The fewest tokens that spell the bytes; None where none do."""
        best: list[tuple[int, int]] = [(0, 0)]  # per end: number of tokens, length of the last one
        for end in range(1, len(data) + 1):
            options = [
                (best[end - size][0] + 1, size)
                for size in range(1, min(end, self.longest) + 1)
                if best[end - size][0] >= 0 and data[end - size : end] in self._ids
            ]
            best.append(min(options) if options else (-1, 0))
        if best[-1][0] < 0:
            return None
        tokens, end = [], len(data)
        while end:
            size = best[end][1]
            tokens.append(self._ids[data[end - size : end]])
            end -= size
        return tokens[::-1]

    def _after_prefix(self, prefix: bytes, index: int) -> int:
        """The first token behind all that begin with ``prefix``."""
        while prefix and prefix[-1] == 0xFF:
            prefix = prefix[:-1]
        if not prefix:
            return len(self._bytes)
        return bisect_left(self._bytes, prefix[:-1] + bytes([prefix[-1] + 1]), index)


def _common(one: bytes, other: bytes, most: int) -> int:
    """Length of the common beginning, at most ``most``."""
    size = min(most, len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(i for i in range(size) if one[i] != other[i])
