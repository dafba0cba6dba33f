"""The tokens that a trimmed head works out. A grammar that may need another one is refused, not decoded without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedsl.bundle.manifest import Bundle
from edgedsl.errors import RequestError
from edgedsl.grammar import CompiledGrammar
from edgedsl.runtime.index_file import Layout, refuse

FILE_NAME = "head.tokens"
LAYOUT = Layout(magic=b"EDSLHEAD", version=1, fields=("vocab_size",), arrays=(("token_ids", "<u4"),))


@dataclass(frozen=True, eq=False)
class Head:
    """What is left of a head.

    Attributes:
        token_ids: int64, ascending: the tokens that have a logit; the others are never drawn, grammar or none.
    """

    token_ids: NDArray[np.int64]

    @classmethod
    def from_file(cls, path: Path, vocab_size: int) -> Head:
        """Read the file of a bundle.

        Args:
            path: of the file.
            vocab_size: of the tokenizer in the bundle.

        Raises:
            BundleError: malformed, or of another tokenizer.
        """
        _, arrays = LAYOUT.read(path, vocab_size)
        token_ids = arrays["token_ids"].astype(np.int64)
        if not token_ids.size or token_ids[-1] >= vocab_size or (np.diff(token_ids) <= 0).any():
            refuse(path, "its token ids do not ascend inside the vocabulary")
        return cls(token_ids)

    def pack(self, vocab_size: int) -> bytes:
        """The file's content."""
        return LAYOUT.pack({"vocab_size": vocab_size}, {"token_ids": self.token_ids})

    def check(self, compiled: CompiledGrammar) -> None:
        """Refuse a grammar with a program that needs a token which is not there.

        Raises:
            RequestError: names one of them.
        """
        missing = np.setdiff1d(compiled.reachable, self.token_ids, assume_unique=True)
        if missing.size:
            token = compiled.planner.vocabulary.token_bytes[missing[0]].decode(errors="replace")
            raise RequestError(
                f"'{compiled.grammar.name}' may need {missing.size:,} tokens that the head of this bundle was trimmed "
                f"of, {token!r} among them",
                hint="export the bundle with '--trim-head never'",
            )


def open_head(bundle: Bundle, vocab_size: int) -> Head | None:
    """What the head of a bundle was trimmed to; None where it is whole.

    Args:
        bundle: opened.
        vocab_size: of its tokenizer.

    Raises:
        BundleError: missing or malformed, or not as many tokens as the manifest says.
    """
    path, expected = bundle.path / FILE_NAME, bundle.manifest.model.num_head_tokens
    if not expected and not path.exists():
        return None
    head = Head.from_file(path, vocab_size)
    if len(head.token_ids) != expected:
        refuse(path, f"it has {len(head.token_ids)} tokens, the manifest says {expected}")
    return head
