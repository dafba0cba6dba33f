"""What ``edgedsl data check`` reports about the files of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedsl.config import Config
from edgedsl.data.pairs import BadRow, Pair, check_pairs, read_pairs
from edgedsl.data.project import ProjectInputs
from edgedsl.errors import DataError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens."""

    p50: int
    p95: int
    max: int


@dataclass(frozen=True)
class SplitReport:
    """One file of pairs. Token lengths are those of usable pairs, targets with their end token."""

    split: str
    file: str
    rows: int
    usable: int
    bad: list[BadRow]
    duplicate_prompts: int
    distinct_targets: int
    groups: int
    prompts_in_train: int
    prompt_tokens: Lengths | None
    target_tokens: Lengths | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_project(config: Config, inputs: ProjectInputs) -> list[SplitReport]:
    """Check every file of pairs that the project has; only the test file may be absent.

    Raises:
        DataError: a file that cannot be read.
    """
    reports: list[SplitReport] = []
    train_prompts: set[str] = set()
    for split in SPLITS:
        name = getattr(config.data, split)
        path = config.path(name)
        if split == "test" and (not name or not path.exists()):
            continue
        pairs = read_pairs(path)
        good, bad = check_pairs(pairs, inputs.grammar, inputs.tokenizer, inputs.template, config.data.max_tokens)
        reports.append(_report(split, path, pairs, good, bad, train_prompts, inputs))
        if split == "train":
            train_prompts = {pair.prompt for pair in pairs}
    return reports


def refuse(reports: Sequence[SplitReport], on_bad_row: str) -> None:
    """Raise DataError when there are bad rows and they were not to be dropped."""
    count = sum(len(report.bad) for report in reports)
    if count and on_bad_row != "drop":
        raise DataError(f"{count} rows cannot be used", hint='mend them, or set [data] on_bad_row = "drop"')


def _report(
    split: str,
    path: Path,
    pairs: Sequence[Pair],
    good: Sequence[Pair],
    bad: list[BadRow],
    train_prompts: set[str],
    inputs: ProjectInputs,
) -> SplitReport:
    prompts = {pair.prompt for pair in pairs}
    return SplitReport(
        split=split,
        file=str(path),
        rows=len(pairs),
        usable=len(good),
        bad=bad,
        duplicate_prompts=len(pairs) - len(prompts),
        distinct_targets=len({pair.target for pair in pairs}),
        groups=len({pair.group for pair in pairs if pair.group}),
        prompts_in_train=len(prompts & train_prompts),
        prompt_tokens=_lengths([len(inputs.tokenizer.encode_prompt(inputs.template, p.prompt)) for p in good]),
        target_tokens=_lengths([len(inputs.tokenizer.encode_plain(p.target)) + 1 for p in good]),
    )


def _lengths(lengths: Sequence[int]) -> Lengths | None:
    if not lengths:
        return None
    return Lengths(*(int(np.percentile(lengths, share, method="higher")) for share in (50, 95, 100)))
