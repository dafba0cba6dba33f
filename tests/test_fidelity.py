"""Fidelity to fp32, and the first round that it decides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedsl.errors import ExportError
from edgedsl.exporters.fidelity import Fidelity, fidelity
from edgedsl.exporters.first_round import Contender, judged
from edgedsl.runtime.lm_head import NO_LOGIT

ROWS = [np.random.default_rng(seed).normal(size=(length, 7)).astype(np.float32) for seed, length in ((0, 5), (1, 3))]


def noisy(size: float) -> list[np.ndarray]:
    return [row + size * np.random.default_rng(9).normal(size=row.shape).astype(np.float32) for row in ROWS]


def slow(candidates: list[np.ndarray]) -> tuple[float, float]:
    """The definition, position by position."""
    same, divergence, number = 0, 0.0, 0
    for reference, candidate in zip(ROWS, candidates, strict=True):
        for one, other in zip(reference.tolist(), candidate.tolist(), strict=True):
            p, q = ([math.exp(x) / sum(map(math.exp, logits)) for x in logits] for logits in (one, other))
            same += p.index(max(p)) == q.index(max(q))
            divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            number += 1
    return same / number, divergence / number


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_fidelity_is_what_the_definition_says(size: float) -> None:
    found = fidelity(ROWS, noisy(size))
    agreement, mean_kl = slow(noisy(size))
    assert found.num_positions == 8
    assert found.agreement == pytest.approx(agreement)
    assert found.mean_kl == pytest.approx(mean_kl, rel=1e-5)
    assert slow(noisy(3.0))[0] < 1, "the comparison can fail"


def test_the_same_logits_are_perfect_and_a_shift_changes_nothing() -> None:
    assert fidelity(ROWS, ROWS) == Fidelity(8, 1.0, 0.0)
    shifted = fidelity(ROWS, [row + 50 for row in ROWS])
    assert shifted.agreement == 1
    assert shifted.mean_kl == pytest.approx(0, abs=1e-5)


def test_tokens_that_a_cut_head_leaves_out_do_not_count() -> None:
    cut = [row.copy() for row in noisy(0.5)]
    for row in cut:
        row[:, [1, 4]] = NO_LOGIT
    kept = [0, 2, 3, 5, 6]
    expected = fidelity([row[:, kept] for row in ROWS], [row[:, kept] for row in cut])
    assert fidelity(ROWS, cut) == expected
    assert any(row.argmax(-1)[n] in (1, 4) for row in ROWS for n in range(len(row))), "some of fp32's choices are cut"


def test_logits_that_are_not_finite_are_an_error() -> None:
    broken = [row.copy() for row in ROWS]
    broken[1][2, 3] = np.nan
    with pytest.raises(ExportError, match="not finite"):
        fidelity(ROWS, broken)


def contender(recipe: str, agreement: float, mean_kl: float) -> Contender:
    return Contender(recipe, Fidelity(100, agreement, mean_kl), 2**20)


@pytest.mark.parametrize(
    ("figures", "winner"),
    [
        ([("a", 0.9, 0.1), ("b", 0.95, 0.5), ("c", 0.8, 0.01)], "b"),  # by agreement
        ([("a", 0.9, 0.1), ("b", 0.9, 0.05), ("c", 0.9, 0.2)], "b"),  # by divergence
        ([("a", 0.904, 0.1), ("b", 0.9, 0.05), ("c", 0.898, 0.01)], "b"),  # a flip or two is a tie, more is not
        ([("a", 0.9, 0.1), ("b", 0.9, 0.1)], "a"),  # the first of equals
    ],
)
def test_the_closest_goes_on(figures: list[tuple[str, float, float]], winner: str) -> None:
    found = judged([contender(*one) for one in figures])
    assert [one.recipe for one in found] == [name for name, _, _ in figures]
    assert {one.recipe: one.beaten_by for one in found} == {
        name: "" if name == winner else winner for name, _, _ in figures
    }


def test_a_late_comer_can_turn_a_loser_into_the_winner() -> None:
    early = judged([contender("a", 0.992, 0.1), contender("b", 0.996, 0.2)])
    assert [one.beaten_by for one in early] == ["", "a"]
    late = judged([*early, contender("c", 0.9975, 0.3)])
    assert [one.beaten_by for one in late] == ["b", "", "b"]


def test_a_contender_is_plain_data() -> None:
    assert judged([contender("a", 0.9, 0.1), contender("b", 0.8, 0.2)])[1].to_dict() == {
        "num_bytes": 2**20, "beaten_by": "a", "fidelity": {"num_positions": 100, "agreement": 0.8, "mean_kl": 0.2},
    }  # fmt: skip
