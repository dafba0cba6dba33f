"""Programs that end inside their budget, against a slow and obviously right reference."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GenerationError, GrammarError, MatcherError
from edgedsl.grammar import BudgetGuard, CompiledGrammar, Grammar, Matcher, lalr
from edgedsl.grammar.authoring.fuzz import Generation
from edgedsl.grammar.lalr import Stack
from edgedsl.grammar.position import Automaton, Position
from edgedsl.grammar.vocabulary import Vocabulary

# name -> Lark grammar, words that are tokens, largest budget tried
SMALL = {
    "list": ('start: item ("," item)* ";"\nitem: "a" | "bb" | "(" item ("," item)* ")"', ["bb", "a,", "),", ");"], 7),
    "left": ('start: sum\nsum: sum "+" term | term\nterm: "x" | "[" sum "]"', ["x+", "]]", "[[", "+x"], 7),
    "right": ('start: "a" start | "b"', ["aa", "aab", "ab"], 7),
    "names": ('start: NAME "=" NAME\nNAME: /[a-c]{2,4}/', ["abc", "=ab", "aa", "a="], 5),
    "glue": ('start: NAME NAME ";"\nNAME: /[ab]+/\n%ignore " "', ["ab", " a", "b;"], 6),
    "keyword": ('start: "if" NAME | NAME\nNAME: /[if]{2,3}/\n%ignore " "', ["if", " ff", "ff"], 5),
    "string": ('start: "\\"" TEXT? "\\"" ("+" start)?\nTEXT: /[é漢a]+/', ['"a', 'a"', "é"], 6),
    "empty": ('start: ("a" "b")*', ["ab", "ba"], 5),
    "nested": ('start: "{" start* "}"', ["{}", "}}", "{{"], 7),
    "unit": ('start: a\na: b\nb: "x" | c\nc: "y" a "z"', ["yy", "zz", "xz"], 8),
    "catalogue": (
        'start: "@" NAME ("." NAME)?\nNAME: "com.mail" | "com.map" | "org.x"',
        ["@com", ".ma", "com.map", "il"],
        6,
    ),
}


def compiled(name: str) -> CompiledGrammar:
    source, words, _ = SMALL[name]
    tokenizer = tiny_tokenizer(words)
    return Grammar(source, name=name).compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])


class Reference:
    """A token is legal iff some completion exists within the budget: try them all.

    A completion must be a program for both engines.
    """

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.grammar = grammar
        self.end = min(grammar.end_token_ids)
        self.token_bytes = grammar.planner.vocabulary.token_bytes
        self.known: dict[tuple[tuple[int, ...], int], bool] = {}

    def after(self, token_ids: Sequence[int]) -> Matcher:
        matcher = self.grammar.matcher()
        for token_id in token_ids:
            matcher.consume(token_id)
        return matcher

    def allowed(self, token_ids: Sequence[int]) -> list[int]:
        matcher = self.after(token_ids)
        if matcher.is_stopped():
            return []
        return [t for t in range(self.grammar.vocab_size) if t != self.end and matcher.accepts([t])]

    def is_whole(self, token_ids: Sequence[int]) -> bool:
        text = b"".join(self.token_bytes[t] for t in token_ids).decode(errors="replace")
        return self.after(token_ids).is_accepting() and self.grammar.grammar.accepts(text)

    def can_finish(self, token_ids: tuple[int, ...], budget: int) -> bool:
        key = (token_ids, budget)
        if key not in self.known:
            self.known[key] = self.is_whole(token_ids) or (
                budget > 0 and any(self.can_finish((*token_ids, t), budget - 1) for t in self.allowed(token_ids))
            )
        return self.known[key]


@pytest.mark.parametrize("name", SMALL)
def test_a_token_passes_exactly_if_a_completion_fits(name: str) -> None:
    """Every prefix that the budget lets through, every token, every budget."""
    grammar, largest = compiled(name), SMALL[name][2]
    reference = Reference(grammar)
    shortest = next(budget for budget in range(20) if reference.can_finish((), budget))
    assert grammar.planner.min_tokens == shortest
    num_checked = num_refused = 0
    for budget in range(shortest, largest + 1):
        waiting: list[tuple[int, ...]] = [()]
        while waiting:
            prefix = waiting.pop()
            left = budget - len(prefix) - 1
            guard = guard_after(grammar, prefix, budget)
            for token_id in reference.allowed(prefix) if left >= 0 else ():
                expected = reference.can_finish((*prefix, token_id), left)
                assert guard.permits(token_id, left) == expected, (budget, prefix, token_id)
                num_checked += 1
                num_refused += not expected
                if expected and len(waiting) < 40:  # deep grammars have too many prefixes; a wide front of them is kept
                    waiting.append((*prefix, token_id))
    assert num_checked > 10
    assert num_refused > 0


def guard_after(grammar: CompiledGrammar, prefix: Sequence[int], budget: int) -> BudgetGuard:
    matcher = grammar.matcher()
    guard = BudgetGuard(grammar, matcher)
    for n, token_id in enumerate(prefix):
        assert guard.permits(token_id, budget - n - 1)
        guard.consume(token_id)
    return guard


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 30))
def test_random_choices_end_inside_the_budget_and_parse(name: str, seed: int, spare: int) -> None:
    grammar = compiled(name)
    budget = grammar.planner.min_tokens + spare
    token_ids = Generation(grammar, np.random.default_rng(seed)).program(budget, is_greedy=True)
    text = b"".join(grammar.planner.vocabulary.token_bytes[i] for i in token_ids).decode()
    grammar.grammar.parse(text)
    assert len(token_ids) <= budget


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_is_the_best_of_what_single_questions_permit(seed: int) -> None:
    grammar = compiled("list")
    rng = np.random.default_rng(seed)
    for budget in range(2, 8):
        one_by_one = [
            t for t in Reference(grammar).allowed(()) if guard_after(grammar, [], budget).permits(t, budget - 1)
        ]
        logits = rng.standard_normal(grammar.vocab_size).astype(np.float32)
        best = max(one_by_one, key=logits.__getitem__)
        guard = guard_after(grammar, [], budget)
        assert guard.choose(logits, lambda values: int(values.argmax()), budget - 1) == best


@pytest.mark.parametrize("name", SMALL)
def test_classes_hold_what_a_walk_token_by_token_meets(name: str) -> None:
    planner = compiled(name).planner

    def step(position: tuple[Stack, int], byte: int) -> tuple[Stack, int] | None:
        return planner.automaton.advance(Position(*position), bytes([byte]))

    waiting, seen = [planner.automaton.start()], set[Position]()
    for position in waiting:
        expected: dict[Position, list[int]] = {}
        for token_id, (stack, lexeme) in planner.vocabulary.walk(position, step):
            expected.setdefault(Position(stack, lexeme), []).append(token_id)
        found = {target: ids.tolist() for target, ids in planner.classes.at(position).items()}
        assert found == {target: sorted(ids) for target, ids in expected.items()}
        waiting += [target for target in expected if target not in seen][: max(0, 60 - len(waiting))]
        seen.update(expected)


def test_an_ending_has_a_word_that_is_one_token_with_the_blank_before_it() -> None:
    tokenizer = tiny_tokenizer([" a", "k:"])
    grammar = Grammar('start: "k:" " " WORD\nWORD: /[0-9a-z]+/').compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])
    planner = grammar.planner
    begun = planner.automaton.advance(planner.automaton.start(), b"k:")
    assert begun is not None
    assert [planner.vocabulary.token_bytes[i] for i in planner.completion(begun) or []] == [b" a"]
    assert grammar.planner.enough_tokens == 2


@pytest.mark.parametrize(
    ("source", "names", "begun", "ending"),
    [
        # The nearest name in bytes has more tokens.
        ('start: NAME ";"\n%declare NAME', {"NAME": ["abcd", "abefghij"]}, b"ab", [b"efghij", b";"]),
        # What comes behind the nearest terminal has more tokens.
        (
            'start: HOUSE "(n=1);" | ROOM ";"\n%declare HOUSE ROOM',
            {"HOUSE": ["abcd"], "ROOM": ["abcd.efghij"]},
            b"ab",
            [b"c", b"d", b".", b"efghij", b";"],
        ),
    ],
)
def test_an_ending_has_few_tokens_not_few_bytes(
    source: str, names: dict[str, list[str]], begun: bytes, ending: list[bytes]
) -> None:
    tokenizer = tiny_tokenizer(["efghij"])
    catalogue = Catalogue.from_lists(names)
    grammar = Grammar(bind(source, catalogue), catalogue=catalogue)
    planner = grammar.compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)]).planner
    position = planner.automaton.advance(planner.automaton.start(), begun)
    assert position is not None
    assert [planner.vocabulary.token_bytes[i] for i in planner.completion(position) or []] == ending


def test_behind_a_whole_program_any_legal_token_is_what_would_come() -> None:
    grammar = compiled("left")
    words = grammar.planner.vocabulary.token_bytes
    guard = guard_after(grammar, [words.index(b"x")], 1)
    logits = np.zeros(grammar.vocab_size, np.float32)
    logits[words.index(b"]]")], logits[words.index(b"+x")] = 2.0, 1.0
    assert guard.choose(logits, lambda values: int(values.argmax()), -1) == words.index(b"+x")
    assert guard.permits(words.index(b"+x"), -1)
    assert not guard.permits(words.index(b"]]"), -1)
    assert not guard.is_steering


def test_steering_is_told_from_a_budget_that_did_not_matter() -> None:
    grammar = compiled("list")
    vocabulary = grammar.planner.vocabulary.token_bytes
    guard = guard_after(grammar, [], 50)
    assert guard.permits(vocabulary.index(b"("), 49)
    assert not guard.is_steering
    assert not guard.permits(vocabulary.index(b"("), 1)
    assert guard.is_steering


def test_the_engine_is_asked_once_about_a_program_and_told_of_it_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = compiled("left")
    asked: list[object] = []
    told: list[list[int]] = []
    count_accepted, catch_up = Matcher.count_accepted, Matcher.catch_up

    def counted(self: Matcher, token_ids: list[int]) -> int:
        asked.append(token_ids)
        return count_accepted(self, token_ids)

    def listened(self: Matcher) -> None:
        told.extend([list(self._untold)] if self._untold else [])
        catch_up(self)

    monkeypatch.setattr(Matcher, "count_accepted", counted)
    monkeypatch.setattr(Matcher, "catch_up", listened)
    words = grammar.planner.vocabulary.token_bytes
    token_ids = [words.index(text) for text in (b"x+", b"x+", b"[", b"x", b"]")]
    for number in range(2):
        asked.clear()
        told.clear()
        guard = guard_after(grammar, token_ids, 40)
        assert guard.may_end()
        assert not guard.is_over()
        assert bool(asked) == (number == 0)
        assert guard.is_whole()
        if number:
            assert told == [token_ids]


def test_a_program_that_the_engine_does_not_take_is_not_whole() -> None:
    grammar = compiled("left")
    words = grammar.planner.vocabulary.token_bytes
    guard = guard_after(grammar, [words.index(b"x+")], 40)
    assert not guard.is_whole()
    guard._position.node.passed[words.index(b"]]")] = guard._position  # as if an engine had allowed it
    assert guard.permits(words.index(b"]]"), 30)
    guard.consume(words.index(b"]]"))
    with pytest.raises(MatcherError):
        guard.is_whole()


@pytest.mark.parametrize("name", SMALL)
def test_one_way_down_costs_what_a_search_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stacks miss, worked out along single ways, and by Dijkstra's search everywhere."""
    chained = compiled(name).planner
    monkeypatch.setattr(lalr, "_MAX_CHAIN", 0)
    searched = compiled(name).planner
    rng = np.random.default_rng(0)
    num_stacks = 0
    for _ in range(40):
        here, there = chained.automaton.start(), searched.automaton.start()
        for _ in range(12):
            assert chained.rough_bound(here) == searched.rough_bound(there)
            assert chained.completion(here) == searched.completion(there)
            token_bytes = [b for b in chained.vocabulary.token_bytes if b and chained.automaton.advance(here, b)]
            if not token_bytes:
                break
            taken = token_bytes[rng.integers(len(token_bytes))]
            after, other = chained.automaton.advance(here, taken), searched.automaton.advance(there, taken)
            assert after is not None
            assert other is not None
            here, there = after, other
            num_stacks += 1
    assert num_stacks > 40


def test_only_a_permitted_token_is_consumed() -> None:
    guard = guard_after(compiled("list"), [], 9)
    with pytest.raises(GenerationError, match="token 97 was not checked against the budget"):
        guard.consume(97)


def test_a_grammar_that_no_token_spells() -> None:
    """An automaton over a vocabulary without the bytes of the language."""
    from edgedsl.grammar.planner import Planner

    automaton = Automaton(Grammar('start: "x"').lark, "start")
    with pytest.raises(GrammarError, match="no program of the grammar can be spelled"):
        Planner(automaton, Vocabulary([b"a", b"b"]), lambda _: True)


WORDS = [b"a", b"ab", b"abc", b"b", b"ba", b"\xff", b"\xff\xff", b"c\xff", b"", b"cab"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12).map(lambda data: bytes(b"abc\xff"[byte % 4] for byte in data)))
def test_segments_are_the_fewest_tokens(data: bytes) -> None:
    vocabulary = Vocabulary(WORDS)
    fewest = [0] + [99] * len(data)
    for end in range(1, len(data) + 1):
        fewest[end] = min([fewest[end - len(w)] + 1 for w in WORDS if w and data[:end].endswith(w)], default=99)
    tokens = vocabulary.segment(data)
    if fewest[-1] >= 99:
        assert tokens is None
    else:
        assert tokens is not None
        assert len(tokens) == fewest[-1]
        assert b"".join(WORDS[i] for i in tokens) == data


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(sorted({word[:n] for word in WORDS for n in range(1, 4)}))))
def test_a_walk_meets_every_token_whose_prefixes_live(alive: set[bytes]) -> None:
    words = [*WORDS, *WORDS[::2]]  # with byte fallback, two tokens may spell the same
    vocabulary = Vocabulary(words)

    def step(state: bytes, byte: int) -> bytes | None:
        return state + bytes([byte]) if state + bytes([byte]) in alive else None

    def live(state: bytes) -> list[int]:
        return sorted({word[len(state)] for word in alive if word.startswith(state) and word != state})

    found = list(vocabulary.walk(b"", step))
    assert list(vocabulary.walk(b"", step, live)) == found
    expected = [i for i, w in enumerate(words) if w and all(w[:n] in alive for n in range(1, len(w) + 1))]
    assert sorted(i for i, _ in found) == expected
    assert all(state == words[i] for i, state in found)


# Grammars whose terminals overlap: Lark takes the first one in its order that matches, not the longest.
OVERLAPS = {
    "wide first": ('start: P "c" | Q "b"\nP: /a(bb)?/\nQ: "ab"', "abc"),
    "string in regex": ('start: NAME "b" | "ab" "c"\nNAME: /[ab]+/', "abc"),
    "longer pattern": ('start: A "c" | B\nA: /aa?/\nB: /aa?b/', "abc"),
    "ignored": ('start: "a" NAME\nNAME: /[ab ]+/\n%ignore " "', "ab "),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_what_the_automaton_accepts_lark_accepts(name: str) -> None:
    """The other way round it may be stricter: it does not go back to a shorter lexeme."""
    source, alphabet = OVERLAPS[name]
    grammar = Grammar(source)
    automaton = Automaton(grammar.lark, "start")
    texts = ["".join(text) for size in range(1, 6) for text in itertools.product(alphabet, repeat=size)]
    positions = ((text, automaton.advance(automaton.start(), text.encode())) for text in texts)
    accepted = [text for text, position in positions if position is not None and automaton.is_complete(position)]
    assert accepted
    assert [text for text in accepted if not grammar.accepts(text)] == []
