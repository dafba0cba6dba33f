"""The mask engine over single bytes: what it says of a text, and random walks through what it allows."""

from __future__ import annotations

import random
from typing import Any

import llguidance

from edgedsl.grammar import Grammar

BYTES = llguidance.LLTokenizer("byte")


def byte_matcher(grammar: Grammar) -> Any:
    return llguidance.LLMatcher(BYTES, llguidance.grammar_from("lark", grammar.scoped_source()))


def verdict(first: Any, text: str) -> str:
    """accept, incomplete or reject, from a matcher at the start."""
    state, content = first.deep_copy(), list(text.encode())
    if state.try_consume_tokens(content) < len(content):
        return "reject"
    return "accept" if state.is_accepting() else "incomplete"


def random_walk(
    first: Any, rng: random.Random, *, closing: bytes, max_bytes: int, stop: float = 0.6, begin: bytes = b""
) -> str | None:
    """Random allowed bytes behind ``begin``, leaning towards ``closing``; None where no end is reached in time.

    Args:
        closing: bytes that close something.
        stop: how likely the walk ends where it may.
    """
    state, text = first.deep_copy(), bytearray(begin)
    assert state.try_consume_tokens(list(begin)) == len(begin)
    while len(text) < len(begin) + max_bytes and not (state.is_accepting() and rng.random() < stop):
        mask = state.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
        if not allowed:
            break
        enders = [byte for byte in allowed if byte in closing]
        printable = [byte for byte in allowed if 32 <= byte < 127]
        likely = enders if rng.random() < 0.3 else printable if rng.random() < 0.97 else allowed
        text.append(rng.choice(likely or allowed))
        assert state.consume_token(text[-1])
    return text.decode() if state.is_accepting() else None
