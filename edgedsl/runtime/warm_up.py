"""Programs walked through the grammar before anyone asks for them: by a server, whose load nobody waits for.

Both engines are built as far as they are walked, and what they say of a position is kept: a request that comes by there
finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from edgedsl.errors import GenerationError
from edgedsl.grammar import BudgetGuard, CompiledGrammar
from edgedsl.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_ENOUGH = 1 << 20  # tokens: no budget
_MAX_CHARS = 2_000  # of a program: tokens and positions of longer ones say nothing new
AT_START = 64  # programs; enough for most of a lexer's states
WHILE_IDLE = (
    320  # programs, those at the start among them; what more of them bring is little, and each takes some 40 KB
)
IDLE_TOKENS = 128  # of a program: a request may be waiting


def warm_up(
    compiled: CompiledGrammar, tokenizer: Tokenizer, programs: Iterable[list[int]], *, needs_masks: bool = False
) -> None:
    """Walk along tokens of programs, of any kind; Lark's parser is warmed too."""
    for token_ids in programs:
        text = tokenizer.decode(token_ids)
        if len(text) <= _MAX_CHARS:
            compiled.grammar.accepts(text)
            walk(compiled, token_ids, needs_masks=needs_masks)


def walk(compiled: CompiledGrammar, token_ids: Iterable[int], *, needs_masks: bool = False) -> None:
    """Walk along tokens as far as they are legal; they may hold anything.

    Args:
        compiled: the grammar over the tokens.
        token_ids: of a program.
        needs_masks: whether each token is chosen from the legal ones, as with a head apart (see lm_head.py).
    """
    guard = BudgetGuard(compiled, compiled.matcher())
    try:
        for token_id in token_ids:
            if needs_masks:
                guard.few()
            if token_id in compiled.end_token_ids or not guard.permits(token_id, _ENOUGH):
                return
            guard.consume(token_id)
        if not guard.is_over() and needs_masks:
            guard.few()
    except GenerationError as exc:  # a request will say so again
        _log.warning("the warm-up failed: %s", exc.message)
