"""Which tokens the head of a bundle keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgedsl.errors import ExportError
from edgedsl.exporters.recipes import HALF
from edgedsl.grammar import CompiledGrammar
from edgedsl.runtime.head import Head

MAX_SHARE = 0.8  # of the vocabulary; above it "auto" leaves the head whole, since little would be saved


def choose_head(
    compiled: CompiledGrammar, vocab_size: int, wanted: str, recipes: Sequence[str], say: Callable[[str], None]
) -> Head | None:
    """The tokens that some program can hold; None for a whole head.

    A graph for CUDA keeps its head: what brings the logits back to their places would be worked out on the CPU.

    Args:
        compiled: the grammar over the model's tokenizer.
        vocab_size: of the model; tokens that the tokenizer does not have count too.
        wanted: ``auto``, ``always`` or ``never``.
        recipes: that are tried.
        say: is told the share.

    Raises:
        ExportError: ``always``, and a recipe for CUDA.
    """
    on_device = sorted(set(recipes) & set(HALF))
    if on_device and wanted == "always":
        raise ExportError(
            f"[export] trim_head is 'always', and graphs of the recipe {on_device[0]} keep their head",
            hint="take '--trim-head auto'",
        )
    if wanted == "never" or on_device:
        return None
    reached = compiled.reachable
    share = len(reached) / vocab_size
    is_trimmed = share < 1 if wanted == "always" else share < MAX_SHARE
    what = "it is trimmed to these" if is_trimmed else "it stays whole"
    say(f"head: programs can hold {len(reached):,} of {vocab_size:,} tokens ({share:.1%}); {what}")
    return Head(reached) if is_trimmed else None
