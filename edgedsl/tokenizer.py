"""Text to token ids and back, without transformers."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel

from edgedsl import token_bytes
from edgedsl.errors import ModelError
from edgedsl.prompt import PromptTemplate, Segment

_REPLACEMENT = "\ufffd"
_NO_TEXT = b"\xff"  # has a token, but llguidance gives it no bytes: it marks special tokens with it
_Utf8 = codecs.getincrementaldecoder("utf-8")


class Tokenizer:
    """A tokenizer.json. Special tokens come from templates only; the same characters in a text are plain text.

    Args:
        json_text: of the file.

    Raises:
        Exception: the text is not a tokenizer's; tokenizers raises no class of its own.
    """

    def __init__(self, json_text: str) -> None:
        self.json_text = json_text
        self._backend = Backend.from_str(json_text)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True  # spelled out in a text, they are taken apart like any word
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_file(cls, path: Path, bytes_path: Path | None = None) -> Tokenizer:
        """Read tokenizer.json.

        Args:
            path: of it.
            bytes_path: a file of what its tokens spell, see :mod:`edgedsl.token_bytes`; worked out if None, or where
                the file is of another tokenizer.

        Raises:
            ModelError: missing or malformed file.
        """
        tokenizer = cls._from_file(path)
        known = token_bytes.read(bytes_path, tokenizer.json_text) if bytes_path else None
        if known:
            tokenizer.token_bytes = known
        return tokenizer

    @classmethod
    def _from_file(cls, path: Path) -> Tokenizer:
        try:
            return cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise ModelError(f"'{path}' does not exist", hint="a model folder needs tokenizer.json") from exc
        except Exception as exc:  # tokenizers raises bare Exception
            raise ModelError(f"'{path}' is not a tokenizer.json: {exc}") from exc

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text; adds nothing, and never yields a special token."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, template: PromptTemplate, sentence: str) -> list[int]:
        """Token ids of the whole prompt."""
        return self._encode(template.render(sentence))

    def encode_prefix(self, template: PromptTemplate) -> list[int]:
        """Token ids before the sentence: every prompt begins with them."""
        return self._encode(takewhile(lambda segment: segment.kind != "slot", template.segments))

    def _encode(self, segments: Iterable[Segment]) -> list[int]:
        token_ids: list[int] = []
        for segment in segments:
            if segment.kind == "special":
                token_ids.append(self.token_id(segment.value))
            else:
                token_ids.extend(self.encode_plain(segment.value))
        return token_ids

    def token_id(self, token: str) -> int:
        """Id of one token by its spelling.

        Raises:
            ModelError: the vocabulary does not have it.
        """
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise ModelError(
                f"the tokenizer has no token {token!r}", hint="change the prompt template's special tokens"
            )
        return int(token_id)

    def end_token_ids(self, template: PromptTemplate) -> list[int]:
        """Ids of the tokens that end a program."""
        return [self.token_id(token) for token in template.end]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token; of a special one those of its name.

        Raises:
            ModelError: tokens of a kind whose bytes are not known.
        """
        return token_bytes.work_out(self.json_text)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the text of tokens is that of their bytes."""
        return isinstance(self._backend.decoder, ByteLevel)

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A fresh incremental detokeniser."""
        return TextStream(self)


class TextStream:
    """Turns token ids into text piece by piece; holds back bytes of an unfinished character.

    A byte-level decoder puts the tokens' bytes one behind the other. Of others only the last tokens are decoded, with
    those of the piece before them, since some treat the first token in another way: what they make of these alone is
    known, and the rest is new.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._characters = _Utf8(errors="replace") if tokenizer.is_byte_level else None
        self._token_ids: list[int] = []  # of the last piece, and what came since
        self._num_emitted = 0  # tokens of the last piece
        self._emitted = ""  # their text

    def push(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        if self._characters:
            if token_id in self._tokenizer.special_token_ids:
                return ""
            return self._characters.decode(self._tokenizer.token_bytes[token_id] or _NO_TEXT)
        self._token_ids.append(token_id)
        text = self._tokenizer.decode(self._token_ids)
        piece = text[len(self._emitted) :]
        if not piece or text.endswith(_REPLACEMENT):
            return ""
        del self._token_ids[: self._num_emitted]
        self._num_emitted = len(self._token_ids)
        self._emitted = self._tokenizer.decode(self._token_ids)
        return piece

    def finish(self) -> str:
        """What was held back."""
        if self._characters:
            return self._characters.decode(b"", final=True)
        return self._tokenizer.decode(self._token_ids)[len(self._emitted) :]
