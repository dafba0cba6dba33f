"""The tokens a grammar is looked at through: a model's, or plain bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgedsl.errors import ModelError
from edgedsl.grammar.authoring.byte_tokenizer import END_TOKEN, byte_tokenizer
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.grammar import Grammar
from edgedsl.tokenizer import Tokenizer

# Ends of a turn come before ends of a text: a model that has both is tuned to write the first.
_END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "</s>",
)


@dataclass(frozen=True)
class TokenSet:
    """A tokenizer and the token that ends a program; ``description`` says which, for the reader of a report."""

    tokenizer: Tokenizer
    end_token_id: int
    description: str

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """The grammar over these tokens."""
        return grammar.compile(self.tokenizer, [self.end_token_id])


def open_tokens(path: Path | None) -> TokenSet:
    """The tokens of a tokenizer.json (or of the folder it is in); bytes where None is given.

    The end token is the ``eos_token`` of a tokenizer_config.json beside it, else the first usual one it has.

    Raises:
        ModelError: missing or malformed file, or no end token.
    """
    if path is None:
        tokenizer = byte_tokenizer()
        return TokenSet(tokenizer, tokenizer.token_id(END_TOKEN), "bytes were the tokens (no --tokenizer)")
    path = path / "tokenizer.json" if path.is_dir() else path
    tokenizer = Tokenizer.from_file(path)
    return TokenSet(tokenizer, _end_token_id(tokenizer, path), f"{tokenizer.vocab_size} tokens of {path}")


def _end_token_id(tokenizer: Tokenizer, path: Path) -> int:
    for token in (*_configured(path.with_name("tokenizer_config.json")), *_END_TOKENS):
        try:
            token_id = tokenizer.token_id(token)
        except ModelError:
            continue
        if token_id in tokenizer.special_token_ids:
            return token_id
    raise ModelError(
        f"'{path}' has none of the usual end tokens", hint="put a tokenizer_config.json that names eos_token beside it"
    )


def _configured(path: Path) -> list[str]:
    """The eos_token of a tokenizer_config.json; a special token is spelled as a string or as an object."""
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return []
    if isinstance(token, dict):
        token = token.get("content")
    return [token] if isinstance(token, str) else []
