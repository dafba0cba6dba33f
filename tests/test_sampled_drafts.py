"""Sampled answers have the same distribution with drafts as without: a chi-square test over many seeds."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

import edgedsl
from edgedsl.runtime.engine import Engine

NUM_SAMPLES = 300
SENTENCE = "set the hall to 5"
Z_99_9 = 3.09  # of the normal distribution


@pytest.fixture(scope="module")
def engines(tiny_bundle: Path) -> tuple[Engine, Engine]:
    drafting, exact = edgedsl.load(tiny_bundle, num_threads=1), edgedsl.load(tiny_bundle, num_threads=1, exact=True)
    assert drafting.drafts
    assert not exact.drafts
    return drafting, exact


def sampled(engine: Engine, seeds: range, temperature: float = 0.3) -> Counter[str]:
    """Counts of the programs that some seeds lead to."""
    return Counter(engine(SENTENCE, max_tokens=12, temperature=temperature, top_k=2, seed=seed).text for seed in seeds)


def chi_square(one: Counter[str], other: Counter[str]) -> tuple[float, int]:
    """Statistic and degrees of freedom of two samples of one size; rare programs are one class."""
    common = [text for text, count in (one + other).items() if count >= 10]
    classes = [(one[text], other[text]) for text in common]
    classes.append((one.total() - sum(a for a, _ in classes), other.total() - sum(b for _, b in classes)))
    classes = [(a, b) for a, b in classes if a + b]
    return sum((a - b) ** 2 / (a + b) for a, b in classes), len(classes) - 1


def critical(freedom: int) -> float:
    """What chi-square passes once in a thousand (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + Z_99_9 * math.sqrt(spread)) ** 3)


def test_the_distribution_is_the_same(engines: tuple[Engine, Engine]) -> None:
    drafting, exact = engines
    with_drafts = sampled(drafting, range(NUM_SAMPLES))
    without = sampled(exact, range(NUM_SAMPLES, 2 * NUM_SAMPLES))
    statistic, freedom = chi_square(with_drafts, without)
    assert freedom >= 3, "too few programs to tell anything"
    assert statistic < critical(freedom)


def test_another_temperature_would_be_noticed(engines: tuple[Engine, Engine]) -> None:
    _, exact = engines
    other = sampled(exact, range(NUM_SAMPLES, 2 * NUM_SAMPLES), temperature=0.01)
    statistic, freedom = chi_square(other, sampled(exact, range(NUM_SAMPLES)))
    assert statistic > critical(freedom)


def test_a_seed_gives_one_program_with_and_without_drafts(engines: tuple[Engine, Engine]) -> None:
    drafting, exact = engines
    answers = [[e(SENTENCE, max_tokens=20, temperature=0.8, seed=s).text for e in (drafting, exact)] for s in range(20)]
    assert len({text for pair in answers for text in pair}) > 5
    assert all(one == other for one, other in answers)


def test_the_critical_values_are_those_of_the_tables() -> None:
    assert [round(critical(n), 1) for n in (4, 10, 30)] == [pytest.approx(v, abs=0.3) for v in (18.5, 29.6, 59.7)]
