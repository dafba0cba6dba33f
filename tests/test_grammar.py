"""The mask says what Lark says, and every failure is loud."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import CATALOGUE, GRAMMAR, PAIRS, tiny_template, tiny_tokenizer, write_language

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GenerationError, GrammarError, MatcherError
from edgedsl.grammar import CompiledGrammar, Grammar, Matcher, legal_tokens
from edgedsl.grammar.legal_tokens import LegalTokenCache, LegalTokens

TOKENIZER = tiny_tokenizer()
(END,) = TOKENIZER.end_token_ids(tiny_template())

ROOMS = bind(GRAMMAR, Catalogue.from_lists(CATALOGUE))
GRAMMARS = {
    "rooms": ROOMS,
    "brackets": 'start: "(" start* ")"\n',
    "list": 'start: "[" [item ("," item)*] "]"\nitem: NUM | start\nNUM: /-?[0-9]{1,2}/\n',
    "words": "start: WORD (WS WORD)*\nWORD: /[a-zé]+/\nWS: /[ ]+/\n",
    "choice": 'start: "on" | "one" | "only"\n',
    "empty": 'start: "a"?\n',
    "string": 'start: "say" ESC\nESC: /"[^"\\\\\\n]*"/\n',
    "emoji": 'start: ("😀" | "é")+\n',
}


def compiled(name: str) -> CompiledGrammar:
    if name not in _COMPILED:
        _COMPILED[name] = Grammar(GRAMMARS[name], name=name).compile(TOKENIZER, [END])
    return _COMPILED[name]


_COMPILED: dict[str, CompiledGrammar] = {}


def mask(matcher: Matcher, grammar: CompiledGrammar) -> NDArray[np.bool_]:
    bitmask = np.empty(grammar.bitmask_size, np.int32)
    matcher.fill_bitmask(bitmask)
    bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little").astype(bool)
    assert not bits[grammar.vocab_size :].any()
    return bits[: grammar.vocab_size]


def walk(grammar: CompiledGrammar, choose: Any, limit: int = 40) -> tuple[list[int], bool]:
    """Follow allowed tokens; whether the end token was taken."""
    matcher, ids = grammar.matcher(), list[int]()
    while len(ids) < limit:
        token_id = int(choose(np.flatnonzero(mask(matcher, grammar))))
        if token_id == END:
            return ids, True
        matcher.consume(token_id)
        ids.append(token_id)
    return ids, False


@pytest.mark.parametrize("name", GRAMMARS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_the_mask_lets_through_lark_parses(name: str, data: st.DataObject) -> None:
    grammar = compiled(name)

    def choose(allowed: NDArray[np.int64]) -> int:
        assert allowed.size, "nothing is allowed and the program is not finished"
        return int(data.draw(st.sampled_from(allowed.tolist())))

    ids, ended = walk(grammar, choose)
    if ended:
        text = TOKENIZER.decode(ids)
        assert grammar.grammar.accepts(text), text


@pytest.mark.parametrize("name", GRAMMARS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_end_is_allowed_exactly_where_lark_parses(name: str, data: st.DataObject) -> None:
    grammar = compiled(name)
    matcher, ids = grammar.matcher(), list[int]()
    for _ in range(12):
        allowed = mask(matcher, grammar)
        text = TOKENIZER.decode(ids)
        if "\ufffd" not in text:
            assert bool(allowed[END]) == matcher.is_accepting() == grammar.grammar.accepts(text), text
        others = [token for token in np.flatnonzero(allowed).tolist() if token != END]
        if not others:
            break
        ids.append(data.draw(st.sampled_from(others)))
        matcher.consume(ids[-1])


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_token_is_allowed_when_and_only_when_it_can_be_consumed(name: str) -> None:
    grammar = compiled(name)
    for prefix in _prefixes(name):
        matcher = grammar.matcher()
        for token_id in prefix:
            matcher.consume(token_id)
        allowed = mask(matcher, grammar)
        if matcher.is_stopped():  # nothing but the end can follow; the engine then answers only through the mask
            assert np.flatnonzero(allowed).tolist() == [END]
            continue
        assert [matcher.allows(token_id) for token_id in range(grammar.vocab_size)] == allowed.tolist()


def _prefixes(name: str) -> list[list[int]]:
    rng = np.random.default_rng(0)
    ids, _ = walk(compiled(name), rng.choice, limit=4)
    return [ids[:length] for length in range(len(ids) + 1)]


@pytest.mark.parametrize("name", GRAMMARS)
def test_outlines_own_processor_gives_the_same_logits(name: str) -> None:
    """Outlines applies its mask to logits of batch 1; ours must agree at every step of a program."""
    grammar = compiled(name)
    rng = np.random.default_rng(1)
    ids, _ = walk(grammar, rng.choice, limit=10)
    processor = grammar.outlines_processor()
    matcher = grammar.matcher()
    bitmask = np.empty(grammar.bitmask_size, np.int32)
    for step in range(len(ids) + 1):
        logits = rng.standard_normal(grammar.vocab_size).astype(np.float32)
        theirs = processor.process_logits(np.array([[END, *ids[:step]]]), logits.copy()[np.newaxis])
        matcher.fill_bitmask(bitmask)
        ours = masked(logits, LegalTokenCache(grammar.vocab_size).get(bitmask))
        np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(np.asarray(theirs)[0]))
        np.testing.assert_array_equal(ours[~np.isneginf(ours)], logits[~np.isneginf(ours)])
        if step < len(ids):
            matcher.consume(ids[step])


@pytest.mark.parametrize("target", [target for _, target in PAIRS])
def test_programs_of_the_pairs_are_reached_token_by_token(target: str) -> None:
    grammar = compiled("rooms")
    matcher = grammar.matcher()
    for token_id in TOKENIZER.encode_plain(target):
        assert mask(matcher, grammar)[token_id]
        matcher.consume(token_id)
    assert matcher.is_accepting()
    assert not matcher.is_stopped()  # "; ..." may follow
    matcher.consume(END)
    assert matcher.is_stopped()


def test_an_illegal_token_raises_and_the_matcher_stays_failed() -> None:
    matcher = compiled("choice").matcher()
    (token_id,) = TOKENIZER.encode_plain("x")
    assert not matcher.allows(token_id)
    with pytest.raises(GenerationError):
        matcher.consume(token_id)


def test_followed_tokens_are_told_before_the_next_question() -> None:
    """Whatever the question is, the answer is that of a matcher that consumed them one by one."""
    token_ids = TOKENIZER.encode_plain("on")
    questions = (
        lambda matcher: matcher.allows(END),
        lambda matcher: matcher.count_accepted([END, 0]),
        lambda matcher: matcher.forced_tokens(),
        lambda matcher: matcher.is_accepting(),
        lambda matcher: matcher.is_stopped(),
        lambda matcher: mask(matcher, compiled("choice")).tolist(),
    )
    for question in questions:
        told, followed = compiled("choice").matcher(), compiled("choice").matcher()
        at_start = question(compiled("choice").matcher())
        for token_id in token_ids:
            told.consume(token_id)
            followed.follow(token_id)
        assert question(followed) == question(told)
        assert question(told) != at_start or question is questions[4]


def test_a_followed_token_that_is_illegal_raises_at_the_next_question() -> None:
    matcher = compiled("choice").matcher()
    matcher.follow(TOKENIZER.encode_plain("x")[0])
    with pytest.raises(MatcherError):
        matcher.is_accepting()
    with pytest.raises(MatcherError):
        matcher.allows(END)


def test_the_end_token_too_early_raises() -> None:
    matcher = compiled("choice").matcher()
    with pytest.raises(GenerationError):
        matcher.consume(END)


def test_errors_do_not_quote_the_program() -> None:
    matcher = compiled("words").matcher()
    for token_id in TOKENIZER.encode_plain("secret"):
        matcher.consume(token_id)
    with pytest.raises(GenerationError) as info:
        matcher.consume(TOKENIZER.encode_plain("7")[0])
    assert "secret" not in f"{info.value.message} {info.value.hint} {info.value.__cause__}"


def test_an_engine_error_fails_closed_everywhere() -> None:
    class Broken:
        """An engine that reports an error after every call."""

        def is_error(self) -> bool:
            return True

        def get_error(self) -> str:
            return "of a kind that nobody knows"

        def stop_reason(self) -> str:
            return "InternalError"

        def is_accepting(self) -> bool:
            return True

        def consume_tokens(self, _: list[int]) -> bool:
            return True

        def validate_tokens(self, _: list[int]) -> int:
            return 1

        def unsafe_compute_mask_ptr(self, *_: int) -> None: ...

    matcher = Matcher(Broken())
    for call in (
        lambda: matcher.fill_bitmask(np.zeros(9, np.int32)),
        lambda: matcher.allows(1),
        lambda: matcher.consume(1),
        matcher.is_accepting,
    ):
        with pytest.raises(GenerationError, match="discarded"):
            call()


def test_a_token_that_is_refused_without_an_engine_error_raises_too() -> None:
    class Refusing:
        """An engine that refuses every token and calls it no error."""

        def is_error(self) -> bool:
            return False

        def consume_tokens(self, _: list[int]) -> bool:
            return False

    with pytest.raises(GenerationError, match="does not allow token 7 here"):
        Matcher(Refusing()).consume(7)


def test_matchers_of_one_grammar_are_independent() -> None:
    grammar = compiled("choice")
    first, second = grammar.matcher(), grammar.matcher()
    (token_id,) = TOKENIZER.encode_plain("o")
    first.consume(token_id)
    assert second.allows(token_id)
    assert mask(grammar.matcher(), grammar).tolist() == mask(second, grammar).tolist()


def masked(logits: np.ndarray, legal: LegalTokens, extra: int | None = None) -> np.ndarray:
    values, token_ids = legal.select(logits, extra, np.empty_like(logits))
    ours = np.full_like(logits, -np.inf)
    ours[slice(None) if token_ids is None else token_ids] = values
    return ours


@pytest.mark.parametrize("extra", [None, 1, 31])
@pytest.mark.parametrize("vocab_size", [64, 279, 4000])
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_legal_tokens_keep_the_logits_of_what_a_bitmask_allows(
    vocab_size: int, share: float, extra: int | None
) -> None:
    rng = np.random.default_rng(vocab_size)
    allowed = rng.random(vocab_size) < share
    allowed[[0, 31, vocab_size - 1]] = True
    padded = np.pad(allowed, (0, -vocab_size % 32), constant_values=True)  # ids beyond the vocabulary are no tokens
    legal = LegalTokenCache(vocab_size).get(np.packbits(padded, bitorder="little").view(np.int32))
    logits = rng.standard_normal(vocab_size).astype(np.float32)
    before = logits.copy()
    assert not legal.is_empty
    assert [token_id in legal for token_id in range(vocab_size)] == allowed.tolist()
    ours = masked(logits, legal, extra)
    if extra is not None:
        allowed[extra] = True
    np.testing.assert_array_equal(ours, np.where(allowed, logits, -np.inf))
    np.testing.assert_array_equal(logits, before)


def test_a_mask_of_nothing_is_empty() -> None:
    """Bits beyond the vocabulary are no tokens."""
    legal = LegalTokenCache(40).get(np.array([0, -1 << 8], np.int32))
    assert legal.is_empty
    assert not any(token_id in legal for token_id in range(40))


def test_only_some_masks_are_kept_in_a_large_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others say the same when they are needed again."""
    vocab_size, rng = 4096, np.random.default_rng(0)
    monkeypatch.setattr(legal_tokens, "_MAX_FORM_BYTES", 3 * 4 * vocab_size)
    cache = LegalTokenCache(vocab_size)
    allowed = rng.random((20, vocab_size)) < np.array([[0.001], [0.3], [0.9], [0.8]] * 5)
    known = [cache.get(np.packbits(row, bitorder="little").view(np.int32)) for row in allowed]
    logits = rng.standard_normal(vocab_size).astype(np.float32)
    for _ in range(2):
        for row, legal in zip(allowed, known, strict=True):
            np.testing.assert_array_equal(masked(logits, legal), np.where(row, logits, -np.inf))
            forms = [one._form for one in known if one._form and one._form.num_bytes > vocab_size // 8]
            assert 0 < sum(form.num_bytes for form in forms) <= 3 * 4 * vocab_size
    assert sum(legal._form is not None for legal in known[::4]) == 5, "what takes less than its bits stays"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("start: WORD\n", "does not compile"),
        ('begin: "a"\n', "does not compile"),
        ('start: "a\n', "does not compile"),
        ("start: a | b\na: /x/ /y/\nb: /x/ /y/\n", "does not compile"),  # reduce/reduce: not LALR(1)
        ('start: /a(?=b)/ "b"\n', "does not compile"),  # Lark takes look-ahead, the decoding engine does not
        ("", "does not compile"),
        ("(" * 2000, "does not compile"),
    ],
)
def test_grammars_that_do_not_compile(source: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as info:
        Grammar(source, name="mine.lark")
    assert "'mine.lark'" in info.value.message
    assert "\n" not in info.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set kitchen", "ends too early, at column 12"),
        ("", "ends too early, at column 1"),
        ("set kitchen 2x", "line 1, column 14: unexpected 'x'"),
        ("set cellar 2", "line 1, column 5: unexpected 'cellar 2'"),
        ("off hall;", "ends too early, at column 10"),
        ("off hall off hall", "line 1, column 10: unexpected 'off hall'"),
    ],
)
def test_programs_that_do_not_parse(text: str, message: str) -> None:
    grammar = Grammar(ROOMS, name="rooms")
    assert not grammar.accepts(text)
    with pytest.raises(GrammarError) as info:
        grammar.parse(text)
    assert message in info.value.message
    assert "'rooms'" in info.value.message


def test_a_long_program_is_not_quoted_whole() -> None:
    with pytest.raises(GrammarError) as info:
        Grammar(ROOMS).parse("off hall;" * 100 + "?")
    assert len(info.value.message) < 250


def test_read_from_files(tmp_path: Path) -> None:
    write_language(tmp_path)
    grammar = Grammar.from_files(tmp_path / "grammar.lark", tmp_path / "catalogue.json")
    assert grammar.source == ROOMS
    assert grammar.name == "grammar.lark"
    assert grammar.parse("off hall").data == "start"
    with pytest.raises(GrammarError, match="declares ROOM"):
        Grammar.from_files(tmp_path / "grammar.lark")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="does not exist"):
        Grammar.from_files(tmp_path / "none.lark")
    with pytest.raises(GrammarError, match="cannot be read"):
        Grammar.from_files(tmp_path)
    (tmp_path / "g.lark").write_bytes(b"start: \xff")
    with pytest.raises(GrammarError, match="cannot be read"):
        Grammar.from_files(tmp_path / "g.lark")


def test_two_end_tokens_are_both_allowed_at_the_end() -> None:
    start = TOKENIZER.token_id("<|im_start|>")
    grammar = Grammar('start: "a"').compile(TOKENIZER, [END, start])
    matcher = grammar.matcher()
    assert not mask(matcher, grammar)[[END, start]].any()
    matcher.consume(TOKENIZER.encode_plain("a")[0])
    assert np.flatnonzero(mask(matcher, grammar)).tolist() == sorted([END, start])


def test_special_tokens_are_never_allowed_inside_a_program() -> None:
    """A free text terminal must not let a special token through, whatever its spelling."""
    grammar = Grammar("start: TEXT\nTEXT: /.+/\n").compile(TOKENIZER, [END])
    allowed = mask(grammar.matcher(), grammar)
    assert not allowed[[END, TOKENIZER.token_id("<|im_start|>")]].any()
    assert allowed[TOKENIZER.encode_plain("<")[0]]


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Grammar(ROOMS).compile(TOKENIZER, [END]).matcher().is_accepting()


@pytest.mark.slow
def test_random_programs_of_the_sample_language_parse() -> None:
    """Uniform choices among allowed tokens reach corners that a model never would."""
    from importlib.resources import files

    language = files("edgedsl.grammars")
    catalogue = json.loads(language.joinpath("flow.catalogue.json").read_text(encoding="utf-8"))
    source = language.joinpath("flow.lark").read_text(encoding="utf-8")
    bound = bind(source, Catalogue.from_lists(catalogue))
    grammar = Grammar(bound, name="flow").compile(TOKENIZER, [END])
    finished = 0
    for seed in range(5000):
        rng = np.random.default_rng(seed)
        ids, ended = walk(grammar, lambda allowed, rng=rng: END if END in allowed else rng.choice(allowed), limit=300)
        text = TOKENIZER.decode(ids)
        assert not ended or grammar.grammar.accepts(text), text
        finished += ended
    assert finished > 1000
