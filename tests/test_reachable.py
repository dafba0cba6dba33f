"""Tokens of a trimmed head: all that a matcher ever allows are among them, and few others."""

from __future__ import annotations

import tracemalloc
from functools import cache
from random import Random

import numpy as np
import pytest
from learned_tokenizer import learned_tokens
from tiny import CATALOGUE, GRAMMAR, tiny_template, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import MatcherError
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.authoring.walks import possible_tokens
from edgedsl.grammar.reachable import reachable_tokens

WALKS, STEPS = 6, 25
SLOW_TO_COMPARE = {"bash-lite"}  # the plain construction takes minutes


@cache
def compiled(name: str) -> CompiledGrammar:
    tokens = learned_tokens()
    return open_language(name).grammar().compile(tokens.tokenizer, [tokens.end_token_id])


def tiny_compiled(source: str = GRAMMAR) -> CompiledGrammar:
    tokenizer, catalogue = tiny_tokenizer(), Catalogue.from_lists(CATALOGUE)
    grammar = Grammar(bind(source, catalogue), catalogue=catalogue)
    return grammar.compile(tokenizer, tokenizer.end_token_ids(tiny_template()))


def allowed_on_walks(grammar: CompiledGrammar, rng: Random) -> set[int]:
    """Every token that was legal somewhere on random walks; a token not seen before is taken first."""
    seen: set[int] = set()
    bitmask = np.zeros(grammar.bitmask_size, np.int32)
    for _ in range(WALKS):
        matcher = grammar.matcher()
        for _ in range(STEPS):
            matcher.fill_bitmask(bitmask)
            allowed = set(np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist())
            choices = sorted(allowed - seen - grammar.end_token_ids) or sorted(allowed - grammar.end_token_ids)
            seen |= allowed
            if not choices:
                break
            try:
                matcher.consume(rng.choice(choices))
            except MatcherError:  # a dead end
                break
    return seen


@pytest.mark.parametrize("name", shipped())
def test_each_token_that_a_matcher_allows_is_reachable(name: str) -> None:
    reachable = compiled(name).reachable.tolist()
    assert reachable == sorted(set(reachable))
    for seed in range(3):
        assert allowed_on_walks(compiled(name), Random(seed)) <= set(reachable)


@pytest.mark.parametrize("name", sorted(set(shipped()) - SLOW_TO_COMPARE))
def test_merging_states_adds_no_token(name: str) -> None:
    grammar = compiled(name)
    vocabulary = grammar.planner.vocabulary
    extra = {i for i, data in enumerate(vocabulary.token_bytes) if len(data) == 1} | grammar.end_token_ids
    expected = possible_tokens(vocabulary, grammar.grammar.lark.terminals, extra)
    assert len(grammar.reachable) == expected


def test_tokens_that_no_program_holds_are_left_out() -> None:
    grammar, tokenizer = tiny_compiled(), tiny_tokenizer()
    texts = grammar.planner.vocabulary.token_bytes
    reachable = {texts[i] for i in grammar.reachable}
    assert {b"et", b" o", b" of", b" off"} & set(texts) <= reachable
    assert b"turn" in texts and b"turn" not in reachable
    assert {bytes([byte]) for byte in range(255)} <= reachable  # 0xff is in no text
    assert tokenizer.token_id("<|im_end|>") in grammar.reachable
    assert tokenizer.token_id("<|im_start|>") not in grammar.reachable


def test_every_name_of_the_catalogue_can_be_spelt_with_the_tokenizers_own_tokens() -> None:
    grammar, tokenizer = tiny_compiled(), tiny_tokenizer()
    reachable = set(grammar.reachable.tolist())
    for name in CATALOGUE["ROOM"]:
        assert set(tokenizer.encode_plain(f"set {name} 1")) <= reachable


def test_a_long_counted_repeat_is_cut_to_a_few_states() -> None:
    grammar = tiny_compiled(GRAMMAR.replace("{1,3}", "{1,900}"))
    assert grammar.reachable.tolist() == tiny_compiled().reachable.tolist()


def test_tokens_that_spell_the_same_are_all_kept() -> None:
    grammar = tiny_compiled()
    texts = [*grammar.planner.vocabulary.token_bytes, b"se", b"se", b"xy"]
    reachable = reachable_tokens(texts, grammar.grammar.lark.terminals)
    assert {len(texts) - 3, len(texts) - 2} <= set(reachable)
    assert len(texts) - 1 not in reachable


def test_a_catalogue_of_many_names_takes_little() -> None:
    """Behind each name any terminal may begin, with all of its names: worked out once for all of them."""
    names = [f"{chr(ord('a') + number % 26)}room{number}" for number in range(800)]
    catalogue = Catalogue.from_lists({"ROOM": names})
    grammar = Grammar(bind(GRAMMAR, catalogue), catalogue=catalogue)
    texts = grammar.compile(tiny_tokenizer(), [0]).planner.vocabulary.token_bytes
    tracemalloc.start()
    reachable_tokens(texts, grammar.lark.terminals)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 << 20
