"""The first round of ``--quantize auto``: recipes that take the same time are compared by fidelity alone.

Decoding the dev pairs takes minutes for each recipe, comparing logits takes seconds. What shares layout and kernel
differs in how its weights are rounded only: the closest to fp32 of each family goes on, and is measured in full.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgedsl.bundle.manifest import ModelInfo
from edgedsl.data.pairs import spread
from edgedsl.exporters.candidates import Writer
from edgedsl.exporters.fidelity import Fidelity, fidelity
from edgedsl.exporters.hops import Hops
from edgedsl.exporters.parity import Logits
from edgedsl.exporters.recipes import families

MAX_ROWS = 48
MAX_POSITIONS = 1024  # of all rows together; their fp32 logits are kept
TIE = 0.005  # agreements this close say nothing: five of a thousand positions are chance, divergence tells more


@dataclass(frozen=True)
class Contender:
    """A recipe of the first round.

    Attributes:
        recipe: its name.
        fidelity: to the fp32 graph.
        num_bytes: of graph, weights and prefix.
        beaten_by: name of the recipe of its family that is closer; empty for that one itself.
    """

    recipe: str
    fidelity: Fidelity
    num_bytes: int
    beaten_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {"num_bytes": self.num_bytes, "fidelity": self.fidelity.to_dict(), "beaten_by": self.beaten_by}


def judged(family: Sequence[Contender]) -> list[Contender]:
    """The same with the losers marked: the best agreement wins, of a tie the least divergence, of equals the first."""
    most = max(contender.fidelity.agreement for contender in family)
    tied = [contender for contender in family if contender.fidelity.agreement >= most - TIE]
    best = min(tied, key=lambda contender: contender.fidelity.mean_kl)
    return [replace(one, beaten_by="" if one is best else best.recipe) for one in family]


class FirstRound:
    """Writes and compares."""

    def __init__(self, writer: Writer, hops: Hops, work: Path) -> None:
        self.writer = writer
        self.hops = hops
        self.work = work

    def run(self, names: Sequence[str]) -> list[Contender]:
        """Compare the recipes that are not alone in their family; the folder of what wins stays, where it can.

        Raises:
            ExportError: see :meth:`~edgedsl.exporters.candidates.Writer.write`; or logits that are not finite.
        """
        return [contender for family in families(names) if len(family) > 1 for contender in self._run_family(family)]

    def _run_family(self, names: Sequence[str]) -> list[Contender]:
        self.hops.say(f"quantized: first round of {', '.join(names)}, which take the same time")
        contenders: list[Contender] = []
        for name in names:
            contenders = judged([*contenders, self._compare(name)])
            self._drop_losers(contenders)
        winner = next(contender for contender in contenders if not contender.beaten_by)
        self.hops.say(f"  {winner.recipe} is the closest to fp32 and goes on")
        return contenders

    def _compare(self, name: str) -> Contender:
        self.hops.say(f"  {name}: write, compare with fp32")
        folder = self.work / name
        self.writer.write(name, folder)
        found = fidelity(self._references, self._logits(folder, self.writer.info_of(name)))
        self.hops.say(f"  {name}: {found}")
        return Contender(name, found, folder_bytes(folder))

    def _drop_losers(self, contenders: Sequence[Contender]) -> None:
        """At most two of a family are on disk; an early loser that a late comer lets win is written once more."""
        for contender in contenders:
            if contender.beaten_by and (self.work / contender.recipe).exists():
                shutil.rmtree(self.work / contender.recipe)

    @cached_property
    def _references(self) -> list[Logits]:
        return self._logits(self.writer.graph.path.parent, self.writer.info)

    @cached_property
    def _rows(self) -> list[tuple[list[int], int]]:
        return list(self._some_rows())

    def _some_rows(self) -> Iterator[tuple[list[int], int]]:
        """Token rows with the number of positions, the last ones, that choose a token of the program or its end."""
        language, num_positions = self.hops.language, 0
        for pair in spread(self.hops.pairs, MAX_ROWS):
            row = self.hops.token_row(pair)
            num = len(row) + 1 - len(language.tokenizer.encode_prompt(language.template, pair.prompt))
            num_positions += num
            if num_positions > MAX_POSITIONS and num_positions > num:  # one row at least
                return
            yield row, num

    def _logits(self, folder: Path, info: ModelInfo) -> list[Logits]:
        decoder = self.hops.decoder(folder, info)
        found = []
        for row, num_positions in self._rows:
            decoder.reset()
            logits = decoder.forward_last(row[decoder.length :], num_positions)
            found.append(np.array(logits, np.float32))  # a copy, the decoder uses its buffers again
        return found


def folder_bytes(folder: Path) -> int:
    """Size of all files in it."""
    return sum(file.stat().st_size for file in folder.iterdir())
