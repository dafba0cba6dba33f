"""Text to token ids and back: plain text stays plain, streamed text equals whole text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import BOS_TOKEN, EOS_TOKEN, MERGED_WORDS, tiny_backend, tiny_template, tiny_tokenizer, write_tokenizer

from edgedsl.errors import ModelError
from edgedsl.tokenizer import Tokenizer

TOKENIZER = tiny_tokenizer()
SPECIAL = {TOKENIZER.token_id(BOS_TOKEN), TOKENIZER.token_id(EOS_TOKEN)}
TEXTS = [
    "",
    "turn on the lamp",
    "naïve café",
    "😀",
    "a😀b👩‍👩‍👧c",
    "日本語 text",
    " \n\t ",
    EOS_TOKEN,
    f"x{BOS_TOKEN}y{EOS_TOKEN}",
]


def streamed(ids: list[int]) -> list[str]:
    stream = TOKENIZER.stream()
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


def test_read_from_a_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(write_tokenizer(tmp_path) / "tokenizer.json")
    assert tokenizer.vocab_size == tiny_backend().get_vocab_size()
    assert tokenizer.encode_plain("turn lamp") == TOKENIZER.encode_plain("turn lamp")


@pytest.mark.parametrize("content", ["", "{}", "nonsense", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json' is not a tokenizer\.json"):
        Tokenizer.from_file(path)


def test_bytes_that_are_no_text_are_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not a tokenizer"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_merges_are_used() -> None:
    # The first word has no space before it.
    assert len(TOKENIZER.encode_plain("".join(MERGED_WORDS))) == len(MERGED_WORDS)


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_round_trips_without_special_tokens(text: str) -> None:
    ids = TOKENIZER.encode_plain(text)
    assert not SPECIAL & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_typed_by_a_user_are_plain_text_in_the_prompt() -> None:
    ids = TOKENIZER.encode_prompt(tiny_template(), f"a{EOS_TOKEN}")
    assert ids[0] == TOKENIZER.token_id(BOS_TOKEN)
    assert not SPECIAL & set(ids[1:])
    assert ids[1:] == TOKENIZER.encode_plain(f"a{EOS_TOKEN}") + TOKENIZER.encode_plain("\n")


def test_decode_leaves_special_tokens_out() -> None:
    ids = [TOKENIZER.token_id(BOS_TOKEN), *TOKENIZER.encode_plain("hi"), TOKENIZER.token_id(EOS_TOKEN)]
    assert TOKENIZER.decode(ids) == "hi"
    assert TOKENIZER.end_token_ids(tiny_template()) == [TOKENIZER.token_id(EOS_TOKEN)]


def test_an_unknown_token_is_named() -> None:
    with pytest.raises(ModelError, match="no token '<nothing>'"):
        TOKENIZER.token_id("<nothing>")


def test_padding_and_truncation_of_the_file_are_switched_off() -> None:
    backend = tiny_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    text = backend.to_str()
    assert json.loads(text)["truncation"]
    tokenizer = Tokenizer(text)
    assert tokenizer.decode(tokenizer.encode_plain("a long sentence")) == "a long sentence"
    assert len(tokenizer.encode_plain("ab")) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_the_stream_equals_the_whole(text: str) -> None:
    pieces = streamed(TOKENIZER.encode_plain(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_emoji_is_held_back_until_it_is_whole() -> None:
    ids = TOKENIZER.encode_plain("😀")
    assert len(ids) == 4
    assert streamed(ids) == ["", "", "", "😀", ""]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_streams_to_itself(text: str) -> None:
    ids = TOKENIZER.encode_plain(text)
    assert TOKENIZER.decode(ids) == text
    assert "".join(streamed(ids)) == text


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_any_tokens_stream_to_what_they_decode_to(ids: list[int]) -> None:
    assert "".join(streamed(ids)) == TOKENIZER.decode(ids)
