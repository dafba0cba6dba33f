"""Drafts change how often the model is called, and nothing that it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_export import TinyOnnx

from edgedsl.runtime.call_costs import SIZES, CallCosts, TokenCost
from edgedsl.runtime.drafts import Draft
from edgedsl.runtime.lookahead import MAX_DRAFT, Lookahead

FLAT = CallCosts((1.0,) * len(SIZES))  # drafts cost nothing
STEEP = CallCosts(tuple(float(size) for size in SIZES))  # a drafted token costs half a call of two
PROMPT = [int(i) for i in np.random.default_rng(1).integers(0, 256, 12)]


@dataclass
class Oracle:
    """Drafts that are right for a while, then wrong."""

    text: list[int]
    num_right: int
    learned: list[int] = field(default_factory=list)

    def propose(self, token_ids: Sequence[int], matcher: Any, max_tokens: int) -> Draft:
        start = len(token_ids)
        drafted = [
            token_id if number < self.num_right else (token_id + 1) % 256
            for number, token_id in enumerate(self.text[start : start + max_tokens])
        ]
        return Draft(drafted, [0.9] * len(drafted))

    def learn(self, draft: Draft, num_accepted: int) -> None:
        self.learned.append(num_accepted)


def greedy(ahead: Lookahead, length: int) -> tuple[list[int], np.ndarray]:
    matcher: Any = SimpleNamespace()
    rows = [ahead.start(PROMPT, matcher, length).copy()]
    token_ids = [int(rows[-1].argmax())]
    while len(token_ids) < length:
        rows.append(ahead.after(token_ids, matcher, length - len(token_ids)).copy())
        token_ids.append(int(rows[-1].argmax()))
    ahead.finish()
    return token_ids, np.array(rows)


@pytest.mark.parametrize("num_right", [0, 1, 3, 99])
def test_drafts_leave_the_tokens_as_they_are_and_save_calls(tiny_onnx: TinyOnnx, num_right: int) -> None:
    plain = Lookahead(tiny_onnx.shared())
    wanted, wanted_rows = greedy(plain, 40)
    assert plain.num_calls == 40
    oracle = Oracle(wanted, num_right)
    drafted = Lookahead(tiny_onnx.shared(), FLAT, oracle)  # type: ignore[arg-type]
    token_ids, rows = greedy(drafted, 40)
    assert token_ids == wanted
    np.testing.assert_allclose(rows, wanted_rows, atol=1e-5)
    if num_right == 0:
        assert drafted.num_calls == 40
        assert drafted.num_accepted == 0
    else:
        assert drafted.num_calls == pytest.approx(40 / (1 + min(num_right, MAX_DRAFT)), abs=2)
        assert drafted.num_accepted == sum(oracle.learned) == 40 - drafted.num_calls
    assert drafted.num_drafted >= drafted.num_accepted


def test_no_more_is_drafted_than_pays(tiny_onnx: TinyOnnx) -> None:
    wanted, _ = greedy(Lookahead(tiny_onnx.shared()), 20)
    cost = TokenCost()
    cost.estimate = lambda _: 0.9  # type: ignore[method-assign]
    ahead = Lookahead(tiny_onnx.shared(), STEEP, Oracle(wanted, 99), token_cost=cost)  # type: ignore[arg-type]
    assert greedy(ahead, 20)[0] == wanted
    assert ahead.num_drafted == ahead.num_calls - 1  # one a call is free, since no call has one token only


def test_less_is_drafted_where_the_first_token_waits_for_it(tiny_onnx: TinyOnnx) -> None:
    wanted, _ = greedy(Lookahead(tiny_onnx.shared()), 20)
    cost = TokenCost()
    cost.estimate = lambda _: 1.3  # type: ignore[method-assign]
    ahead = Lookahead(tiny_onnx.shared(), STEEP, Oracle(wanted, 99), token_cost=cost)  # type: ignore[arg-type]
    ahead.start(PROMPT, SimpleNamespace(), 20)  # type: ignore[arg-type]
    assert ahead.num_drafted == 0, "0.6 of 1.3 is less than what a row costs"
    ahead.after(wanted[:1], SimpleNamespace(), 19)  # type: ignore[arg-type]
    assert ahead.num_drafted > 1


def test_a_draft_stays_inside_context_and_budget(tiny_onnx: TinyOnnx) -> None:
    decoder = tiny_onnx.shared()
    room = decoder.info.context_length - len(PROMPT)
    wanted, _ = greedy(Lookahead(tiny_onnx.shared()), room)
    ahead = Lookahead(decoder, FLAT, Oracle([*wanted, *[0] * 40], 99))  # type: ignore[arg-type]
    assert greedy(ahead, room)[0] == wanted
    longest = []
    oracle = Oracle([1] * 40, 99)
    oracle.propose = lambda *args: longest.append(args[2]) or Draft([], [])  # type: ignore[method-assign, func-returns-value]
    ahead = Lookahead(tiny_onnx.shared(), FLAT, oracle)  # type: ignore[arg-type]
    greedy(ahead, 6)
    assert longest == [6, 5, 4, 3, 2, 1]


@given(
    st.lists(st.floats(0, 1), max_size=MAX_DRAFT),
    st.lists(st.floats(0.1, 9), min_size=len(SIZES), max_size=len(SIZES)),
    st.floats(0, 9),
    st.integers(1, 40),
)
def test_the_best_length_gains_most(
    probabilities: list[float], ms: list[float], token_ms: float, num_certain: int
) -> None:
    costs = CallCosts(tuple(sorted(ms)))

    def gain(length: int) -> float:
        saved = sum(float(np.prod(probabilities[: n + 1])) for n in range(length)) * token_ms
        return saved - (costs.of(num_certain + length) - costs.of(num_certain))

    best = costs.best_length(probabilities, token_ms, num_certain)
    assert gain(best) == pytest.approx(max(gain(n) for n in range(len(probabilities) + 1)), abs=1e-9)


def test_what_calls_brought_is_what_a_token_costs() -> None:
    cost, costs = TokenCost(), CallCosts((6.0,) * len(SIZES))
    assert cost.estimate(costs) == 2.0, "as if calls of four brought three"
    for _ in range(500):
        cost.learn(8.0, 2)
    assert cost.estimate(costs) == pytest.approx(4.0, rel=0.05)
    for _ in range(500):
        cost.learn(8.0, 8)
    assert cost.estimate(costs) == pytest.approx(1.0, rel=0.1), "what was long ago is forgotten"


def test_calls_after_the_prompts_are_learned_with_what_they_brought(tiny_onnx: TinyOnnx) -> None:
    wanted, _ = greedy(Lookahead(tiny_onnx.shared()), 9)
    learned: list[tuple[float, int]] = []
    cost = TokenCost()
    cost.learn = lambda ms, num: learned.append((ms, num))  # type: ignore[method-assign]
    ahead = Lookahead(tiny_onnx.shared(), FLAT, Oracle(wanted, 2), token_cost=cost)  # type: ignore[arg-type]
    greedy(ahead, 9)
    assert learned == [(1.0, 3), (1.0, 3)], "the prompt's call brought three as well"
    learned.clear()
    greedy(Lookahead(tiny_onnx.shared(), FLAT, token_cost=cost), 5)
    assert learned == [(1.0, 1)] * 4


def test_costs_between_and_beyond_the_measured_sizes() -> None:
    costs = CallCosts((2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0))
    assert [costs.of(n) for n in (1, 2, 5, 16, 18)] == [2.0, 2.0, 5.0, 20.0, 24.0]
