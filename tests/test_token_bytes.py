"""The bytes of tokens: worked out, kept in a file, and what the mask engine makes of them."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_tokenizer import learned_tokens
from tiny import BOS_TOKEN, EOS_TOKEN, MERGED_WORDS, tiny_tokenizer
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgedsl import token_bytes
from edgedsl.errors import ModelError
from edgedsl.grammar import BudgetGuard, Grammar
from edgedsl.grammar.authoring.language import open_language
from edgedsl.tokenizer import Tokenizer

JSON_TEXT = tiny_tokenizer().json_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(JSON_TEXT, encoding="utf-8")
    path = tmp_path / token_bytes.FILE_NAME
    path.write_text(token_bytes.to_json(JSON_TEXT), encoding="utf-8")
    return path


def test_every_byte_and_every_word_has_its_own() -> None:
    found = token_bytes.work_out(JSON_TEXT)
    assert found[:255] == [bytes([byte]) for byte in range(255)]
    assert found[255] == b""  # no text has it: llguidance marks special tokens with it
    assert {word.encode() for word in MERGED_WORDS} <= set(found)
    assert found[-2:] == [BOS_TOKEN.encode(), EOS_TOKEN.encode()]


def test_a_file_holds_the_same(file: Path) -> None:
    assert token_bytes.read(file, JSON_TEXT) == token_bytes.work_out(JSON_TEXT)


def test_a_tokenizer_takes_them_from_its_file(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    found["tokens"][65] = "another"
    file.write_text(json.dumps(found), encoding="utf-8")
    tokenizer = Tokenizer.from_file(file.parent / "tokenizer.json", file)
    assert tokenizer.token_bytes[65] == b"another"


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"llguidance": "0.1"}])
def test_a_file_of_something_else_is_not_used(file: Path, change: dict[str, str]) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**found, **change, "tokens": []}), encoding="utf-8")
    assert token_bytes.read(file, JSON_TEXT) is None
    tokenizer = Tokenizer.from_file(file.parent / "tokenizer.json", file)
    assert tokenizer.token_bytes == token_bytes.work_out(JSON_TEXT)


@pytest.mark.parametrize("tokens", [5, None, [5], ["\u20ac"]])
def test_a_damaged_list_is_an_error(file: Path, tokens: Any) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**found, "tokens": tokens}), encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold the bytes"):
        token_bytes.read(file, JSON_TEXT)


@pytest.mark.parametrize("content", ["", "[]", "{}", "5", '{"tokens":' + "[" * 200_000])
def test_a_damaged_file_is_an_error(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold the bytes"):
        token_bytes.read(file, JSON_TEXT)


def with_blanks(pre_tokenizer: Any, normalizer: Any) -> Tokenizer:
    """A tokenizer in the manner of SentencePiece: a blank is "▁", and one may stand before each text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_lowercase]
    merges = [("t", "u"), ("r", "n"), ("tu", "rn"), ("o", "n"), ("▁", "on"), ("d", "i"), ("di", "m")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return Tokenizer(backend.to_str())


LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
WITH_BLANKS = {
    "a blank before each text": with_blanks(None, LLAMA),
    "a blank before the first word": with_blanks(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None),
    "blanks replaced": with_blanks(None, normalizers.Replace(" ", "▁")),
}


@pytest.mark.parametrize("is_stripped", [True, False])
@pytest.mark.parametrize("name", WITH_BLANKS)
def test_text_of_tokenizers_that_add_blanks_streams_to_itself(name: str, is_stripped: bool) -> None:
    backend = Backend.from_str(WITH_BLANKS[name].json_text)
    if is_stripped:  # the blank before a text goes again, as Llama's decoder has it
        backend.decoder = decoders.Sequence([backend.decoder, decoders.Strip(" ", 1, 0)])
    tokenizer = Tokenizer(backend.to_str())

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.sampled_from("turndim aé😀"), max_size=12))
    def check(text: str) -> None:
        token_ids, stream = tokenizer.encode_plain(text), tokenizer.stream()
        assert "".join([*map(stream.push, token_ids), stream.finish()]) == tokenizer.decode(token_ids)

    check()


@pytest.mark.parametrize("name", WITH_BLANKS)
def test_tokenizers_that_add_blanks_decode_too(name: str) -> None:
    tokenizer = WITH_BLANKS[name]
    compiled = Grammar('start: "turn on" | "dim"\n', name="lamp").compile(tokenizer, [tokenizer.token_id("</s>")])
    rng, found = np.random.default_rng(0), set()
    for _ in range(20):
        matcher, token_ids = compiled.matcher(), []
        guard = BudgetGuard(compiled, matcher)
        while not matcher.is_stopped():
            logits = rng.standard_normal(compiled.vocab_size).astype(np.float32)
            token_id = guard.choose(logits, lambda values: int(values.argmax()), 40)
            if token_id in compiled.end_token_ids:
                break
            guard.consume(token_id)
            token_ids.append(token_id)
        found.add(b"".join(tokenizer.token_bytes[token_id] for token_id in token_ids))
    assert found == {b"turn on", b"dim"}


@pytest.mark.parametrize("name", ["flow", "json-call", "sql-select", "thingtalk"])
def test_the_engine_allows_what_it_allows_when_it_reads_the_tokenizer_itself(name: str) -> None:
    tokens, grammar = learned_tokens(), open_language(name).grammar()
    compiled = tokens.compile(grammar)
    (end,) = compiled.end_token_ids
    itself = llguidance.LLTokenizer(tokens.tokenizer.json_text, eos_token=[end])
    first = llguidance.LLMatcher(itself, grammar.engine_source, log_level=0)
    ours, theirs = (np.empty(compiled.bitmask_size, np.int32) for _ in range(2))
    rng, num_masks = random.Random(0), 0
    for _ in range(8):
        matcher, expected = compiled.matcher(), first.deep_copy()
        for _ in range(30):
            matcher.fill_bitmask(ours)
            expected.unsafe_compute_mask_ptr(theirs.ctypes.data, theirs.nbytes)
            np.testing.assert_array_equal(ours, theirs)
            assert matcher.forced_tokens() == expected.compute_ff_tokens()
            num_masks += 1
            allowed = np.flatnonzero(np.unpackbits(ours.view(np.uint8), bitorder="little"))
            token_id = int(rng.choice(allowed))
            assert not tokens.tokenizer.special_token_ids & set(allowed.tolist()) - {end}
            if token_id == end:
                break
            matcher.consume(token_id)
            assert expected.consume_token(token_id)
    assert num_masks > 50
