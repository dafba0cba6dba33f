"""The prefix file: keys and values of the tokens that every prompt begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgedsl import atomic
from edgedsl.bundle.manifest import ModelInfo
from edgedsl.errors import ExportError
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.prefix import FILE_NAME, Prefix

MAX_DIFFERENCE = 1e-3  # of a logit, between fp32 calls of different shape


def write_prefix(
    path: Path, info: ModelInfo, token_ids: Sequence[int], rows: Sequence[Sequence[int]], folder: Path, vocab_size: int
) -> Prefix:
    """Compute the prefix with an fp32 graph, check it against whole prefills, write it into ``folder``.

    Args:
        path: of the graph, with a ``shared`` cache.
        info: of the model.
        token_ids: of the prefix.
        rows: token ids to check with; each begins with the prefix.
        folder: becomes a bundle.
        vocab_size: of the tokenizer.

    Raises:
        ExportError: logits with the prefix differ from those of a whole prefill.
    """
    decoder = Decoder(path, info)
    decoder.forward(token_ids)
    prefix = Prefix(tuple(token_ids), decoder.cached())
    whole = []
    for row in rows:
        decoder.reset()
        whole.append(decoder.forward(row).copy())
    del decoder
    decoder = Decoder(path, info, prefix=prefix)
    for row, expected in zip(rows, whole, strict=True):
        decoder.reset()
        difference = float(np.abs(decoder.forward(row[len(token_ids) :]) - expected).max())
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"logits after the cached prefix differ by {difference:.2g} from those of a whole prefill, "
                f"expected at most {MAX_DIFFERENCE:g}",
                hint="export with '--graph optimum'",
            )
    atomic.write_bytes(folder / FILE_NAME, prefix.pack(vocab_size))
    return prefix
