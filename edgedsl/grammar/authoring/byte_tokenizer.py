"""A tokenizer of 256 bytes and an end token, made in code: for when no model is at hand."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgedsl.tokenizer import Tokenizer

END_TOKEN = "<|end|>"


def byte_tokenizer() -> Tokenizer:
    """Token id = byte; :data:`END_TOKEN` is token 256."""
    backend = Backend(models.BPE(vocab={character: byte for byte, character in enumerate(_alphabet())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_TOKEN, special=True)])
    return Tokenizer(backend.to_str())


def _alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, in byte order (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [spelling[byte] for byte in range(256)]
