"""The baseline that a tuned model must beat: the program of the most similar training sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedsl.data.pairs import Pair

_N = 3


class NearestNeighbour:
    """TF-IDF over character 3-grams, cosine similarity; the first of equally similar training pairs wins.

    Args:
        pairs: what to look answers up in; at least one.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._targets = [pair.target for pair in pairs]
        grams = [_grams(pair.prompt) for pair in pairs]
        frequency = Counter(gram for counts in grams for gram in counts)
        self._idf = {gram: float(np.log(len(pairs) / count)) + 1.0 for gram, count in frequency.items()}
        postings: dict[str, list[tuple[int, float]]] = {gram: [] for gram in frequency}
        for row, counts in enumerate(grams):
            for gram, weight in self._vector(counts).items():
                postings[gram].append((row, weight))
        self._postings = {gram: _columns(entries) for gram, entries in postings.items()}

    def predict(self, sentence: str) -> str:
        """The target of the nearest training prompt."""
        scores = np.zeros(len(self._targets), np.float32)
        for gram, weight in self._vector(_grams(sentence)).items():
            rows, weights = self._postings[gram]
            scores[rows] += weights * np.float32(weight)
        return self._targets[int(scores.argmax())]

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        """Weights of unit length; grams that training never saw add nothing."""
        weights = {gram: count * self._idf[gram] for gram, count in counts.items() if gram in self._idf}
        norm = float(np.sqrt(sum(weight * weight for weight in weights.values()))) or 1.0
        return {gram: weight / norm for gram, weight in weights.items()}


def _grams(text: str) -> Counter[str]:
    padded = f" {text.lower()} "
    return Counter(padded[i : i + _N] for i in range(len(padded) - _N + 1))


def _columns(entries: list[tuple[int, float]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.array([row for row, _ in entries], np.int64), np.array([weight for _, weight in entries], np.float32)
