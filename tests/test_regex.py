"""The byte automaton of terminals against Python's own engine."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import utf8_ranges
from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.regex import Nfa

PATTERNS = [
    r'"([^"\\\x00-\x1f\x7f]|\\["\\])*"',
    r"-?(0|[1-9][0-9]{0,4})(\.[0-9]{1,6})?",
    r"(?i:select|from)",
    r"[^a-zé]+",
    r"a{2,3}b?|(?:ab|abc|b)*",
    r"(?s:.)*x",
    r".+",
    r"\w+\s\W?",
    r"[à-ÿ]|\d\D",
    "[\\u0800-\\uffff\U00010000]",
    r"(?:a|)(?:b*?c)+?",
    r"(?:ab|abc|[x]y|xS|b|é1|e)+x?",
]
CHARACTERS = st.one_of(st.sampled_from('ab"\\01.-xcsSeElLfromT '), st.characters(exclude_categories=["Cs"]))
TEXT = st.text(CHARACTERS, max_size=8)


def automaton(*patterns: str) -> tuple[Dfa, list[int]]:
    nfa, starts = nondeterministic(*patterns)
    return Dfa(nfa), starts


def nondeterministic(*patterns: str) -> tuple[Nfa, list[int]]:
    nfa = Nfa()
    return nfa, [nfa.add(pattern, f"T{i}") for i, pattern in enumerate(patterns)]


def walk(dfa: Dfa, state: int, data: bytes) -> int:
    for byte in data:
        state = dfa.step(state, byte)
        if state < 0:
            break
    return state


@pytest.mark.parametrize("pattern", PATTERNS)
def test_matches_what_python_matches(pattern: str) -> None:
    nfa, starts = nondeterministic(pattern)
    dfa = Dfa(nfa)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(TEXT, st.from_regex(pattern, fullmatch=True).filter(lambda text: text.isprintable())))
    def check(text: str) -> None:
        state = walk(dfa, dfa.start(starts), text.encode())
        is_match = bool(re.fullmatch(pattern, text))
        assert (state >= 0 and dfa.accepts[state] == (0,)) == is_match
        assert nfa.matches(starts[0], text.encode()) == is_match

    check()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_row_holds_every_step(pattern: str) -> None:
    (dfa, starts), (other, _) = automaton(pattern), automaton(pattern)
    reached = [dfa.start(starts)]
    assert other.start(starts) == reached[0]
    for state in reached:  # rows first in one automaton, steps first in the other: both number their states alike
        row = dfa.row(state).tolist()
        assert row == [other.step(state, byte) for byte in range(256)]
        reached += sorted(set(row) - {-1, *reached})[: max(0, 20 - len(reached))]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_min_bytes_is_the_length_of_the_shortest_match(pattern: str) -> None:
    dfa, starts = automaton(pattern)
    state, distance = dfa.start(starts), dfa.min_bytes(dfa.start(starts), 0)
    level, steps = {state}, 0
    while not any(dfa.accepts[s] for s in level):
        level = {t for s in level for byte in range(256) if (t := dfa.step(s, byte)) >= 0}
        steps += 1
    assert distance == steps


def test_patterns_side_by_side() -> None:
    dfa, starts = automaton("set", "[a-z]+", "7")
    state = walk(dfa, dfa.start(starts), b"se")
    assert (dfa.patterns[state], dfa.accepts[state]) == ({0, 1}, (1,))
    state = dfa.step(state, ord("t"))
    assert dfa.accepts[state] == (0, 1)
    assert dfa.step(state, ord("7")) == -1
    assert dfa.min_bytes(walk(dfa, dfa.start(starts), b"s"), 0) == 2


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.sets(st.integers(0, 7), max_size=4), min_size=1, max_size=4), text=st.text("abx17", max_size=6)
)
def test_a_union_of_states_is_the_state_of_them_all(parts: list[set[int]], text: str) -> None:
    """Some of the patterns match nothing at all, and so rule out those of a higher rank."""
    patterns = ["ab", "[a-z]+", "7", "a?", "(?:x|1)*", "abx", "[0-9]{2}", "a"]
    ranks = [0, 1, 0, 1, 2, 0, 1, 2]
    united, whole = (Dfa(automaton(*patterns)[0]._nfa, ranks) for _ in range(2))
    starts = automaton(*patterns)[1]
    state = united.union(united.start(starts[n] for n in part) for part in parts)
    other = whole.start(starts[n] for n in set().union(*parts))
    for byte in text.encode():
        assert (united.accepts[state], united.patterns[state]) == (whole.accepts[other], whole.patterns[other])
        assert united.distances(state) == whole.distances(other)
        state, other = united.step(state, byte), whole.step(other, byte)
        assert (state < 0) == (other < 0)
        if state < 0:
            return


@pytest.mark.parametrize("pattern", ["a(?=b)", "^a", r"(a)\1", "(?<!a)b", "(?>ab)", "a++", r"\bx", "a{2000}"])
def test_what_no_finite_automaton_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarError, match=r"terminal T0: .*not supported"):
        automaton(pattern)


def test_a_broken_pattern_is_named() -> None:
    with pytest.raises(GrammarError, match=r"terminal T0: '\(a' is not a regular expression"):
        automaton("(a")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 0x10FFFF), st.integers(0, 3000), st.integers(0, 0x10FFFF))
def test_utf8_ranges_hold_exactly_the_code_points(first: int, size: int, probe: int) -> None:
    last = min(first + size, 0x10FFFF)
    ranges = list(utf8_ranges(first, last))
    for code_point in {first, last, (first + last) // 2, probe}:
        if 0xD800 <= code_point <= 0xDFFF:
            continue
        data = chr(code_point).encode()
        hits = sum(
            len(spans) == len(data) and all(low <= byte <= high for byte, (low, high) in zip(data, spans, strict=True))
            for spans in ranges
        )
        assert hits == (first <= code_point <= last)
