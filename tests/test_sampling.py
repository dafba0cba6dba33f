from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedsl.errors import GenerationError, RequestError
from edgedsl.runtime.sampling import SamplingParams, sample

LOGITS = np.array([1.5, -np.inf, 3.0, 0.5, 2.0, -1.0, -np.inf], np.float32)
# The 0.999 quantile of chi-square for 1, 2, ... degrees of freedom (any table of the distribution).
CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}


def distribution(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """The slow, obvious reference: token id -> probability."""
    exponents = {i: math.exp((x - max(logits)) / params.temperature) for i, x in enumerate(logits) if x > -math.inf}
    ranked = sorted(exponents, key=lambda i: (-logits[i], i))
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = sum(exponents[i] for i in ranked)
    kept: dict[int, float] = {}
    for i in ranked:
        if sum(kept.values()) >= params.top_p:
            break
        kept[i] = exponents[i] / total
    mass = sum(kept.values())
    return {i: share / mass for i, share in kept.items()}


def draws(params: SamplingParams, number: int, logits: np.ndarray = LOGITS) -> list[int]:
    rng = np.random.default_rng(params.seed)
    return [sample(logits, params, rng) for _ in range(number)]


def test_greedy_takes_the_likeliest_allowed_token() -> None:
    assert set(draws(SamplingParams(), 20)) == {2}


def test_greedy_takes_the_first_of_equals() -> None:
    assert draws(SamplingParams(), 1, np.array([0, 1, 1], np.float32)) == [1]


PARAMS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.5, seed=1),
    SamplingParams(temperature=2.0, seed=2),
    SamplingParams(temperature=1.0, top_k=2, seed=3),
    SamplingParams(temperature=1.0, top_p=0.8, seed=4),
    SamplingParams(temperature=1.5, top_k=4, top_p=0.9, seed=5),
    SamplingParams(temperature=1.0, top_k=100, seed=6),
]


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_frequencies_match_the_distribution(params: SamplingParams) -> None:
    expected = distribution(LOGITS.tolist(), params)
    number = 4000
    counts = np.bincount(draws(params, number), minlength=len(LOGITS))
    assert {i for i, count in enumerate(counts) if count} <= set(expected)
    statistic = sum((counts[i] - number * share) ** 2 / (number * share) for i, share in expected.items())
    assert statistic < CHI_SQUARE_999[len(expected) - 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32) | st.just(-math.inf), min_size=2, max_size=12).filter(
        lambda row: max(row) > -math.inf
    ),
    st.floats(0.1, 3),
    st.integers(0, 5),
    st.floats(0.05, 1),
)
def test_only_tokens_of_the_reference_are_drawn(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    # A hair more mass than asked for: the reference adds in another order.
    allowed = distribution(logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=min(1, top_p + 1e-9)))
    assert set(draws(params, 20, np.array(logits, np.float32))) <= set(allowed)


def test_top_k_of_one_is_greedy() -> None:
    assert set(draws(SamplingParams(temperature=3.0, top_k=1), 50)) == {2}


def test_a_small_top_p_is_greedy() -> None:
    assert set(draws(SamplingParams(temperature=3.0, top_p=1e-9), 50)) == {2}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(draws(SamplingParams(temperature=temperature), 20)) == {2}


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([3e38, 3e38, -3e38], np.float32)
    assert set(draws(SamplingParams(temperature=1.0), 60, logits)) == {0, 1}


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    first, again, other = (draws(SamplingParams(temperature=1.0, seed=seed), 40) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_sampling_leaves_the_logits_alone() -> None:
    logits = LOGITS.copy()
    draws(SamplingParams(temperature=0.7, top_k=3, top_p=0.9), 5, logits)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits",
    [[-np.inf, -np.inf], [np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0]],
    ids=["all masked", "nan first", "nan last", "inf"],
)
def test_nothing_to_choose_from(logits: list[float], temperature: float) -> None:
    params = SamplingParams(temperature=temperature)
    with pytest.raises(GenerationError, match="masked or not finite"):
        sample(np.array(logits, np.float32), params, np.random.default_rng(0))


BAD = [
    ("max_tokens", [0, -1, 1.5, "5", None, True]),
    ("temperature", [-0.1, 101, math.nan, math.inf, "1", None, False]),
    ("top_k", [-1, 2.5, "3", None]),
    ("top_p", [0, -1, 1.01, math.nan, "0.5", None]),
    ("seed", [-1, 2**63, 0.5, "0", None]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_bad_values_are_request_errors(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=rf"^{name} is .*, expected"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 1, "temperature": 0, "top_k": 0, "top_p": 1, "seed": 0},
        {"temperature": 100, "top_p": 1e-12, "seed": 2**63 - 1},
        {"max_tokens": np.int64(3), "temperature": np.float32(0.5)},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(params: dict[str, float]) -> None:
    sample(LOGITS, SamplingParams(**params), np.random.default_rng(0))  # type: ignore[arg-type]
