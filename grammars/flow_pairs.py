"""Seeded pairs of sentence and program for flow, split so that no structure of the test part was seen in training."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from edgedsl import atomic
from edgedsl.errors import DataError
from edgedsl.grammars import flow_refusals
from edgedsl.grammars.flow_programs import sample
from edgedsl.grammars.flow_refusal_phrases import KINDS
from edgedsl.grammars.flow_sentences import sentence

Row = dict[str, str]

REFUSAL_SHARE = 0.06  # of train and dev
SHAPES = {"act": 15, "ask": 10, "one": 45, "if": 20, "many": 10}  # percent
# A function keeps at least this many structures for training; a part takes about this share of a shape's structures.
# Programs of one call: without its literals such a group would be a function, and every function must be learnt.
_SINGLE = frozenset({"act", "ask"})
_MIN_GROUPS = 4
_CALL = re.compile(r"\b([a-z]+)\.([a-z]+)\b(?:\(([^)]*)\))?")
_NAME = re.compile(r"(?:^|, )(\w+)(?=[:=])")  # of a parameter
_HELD_OUT = 0.12
_MAX_CHARACTERS = 250  # of sentence and program: below 90 tokens


@dataclass(frozen=True)
class Pair:
    """One row.

    ``shape`` is the form of the program, ``group`` the program with its literals removed, or as it is where it is a
    single call.
    """

    id: str
    prompt: str
    target: str
    group: str
    shape: str
    functions: tuple[str, ...]
    literals: tuple[str, ...]

    def to_row(self) -> Row:
        """The columns that a file of pairs has."""
        return {"id": self.id, "prompt": self.prompt, "target": self.target, "group": self.group}


def generate(num_pairs: int, seed: int) -> list[Pair]:
    """Distinct sentences with their programs; the same for the same arguments."""
    rng = Random(f"flow {seed}")
    pairs: dict[str, Pair] = {}
    while len(pairs) < num_pairs:
        program = sample(rng.choices(list(SHAPES), list(SHAPES.values()))[0], rng)
        prompt = sentence(program, rng)
        if len(prompt) + len(program.spell()) > _MAX_CHARACTERS:
            continue
        pairs.setdefault(
            prompt,
            Pair(
                id=f"flow-{seed}-{len(pairs):05d}",
                prompt=prompt,
                target=program.spell(),
                group=program.spell(skeleton=program.shape not in _SINGLE),
                shape=program.shape,
                functions=tuple(sorted(program.functions())),
                literals=tuple(program.literals()),
            ),
        )
    return list(pairs.values())


def split(
    pairs: Sequence[Pair], seed: int, *, num_dev: int | None = None, num_test: int | None = None
) -> dict[str, list[Pair]]:
    """Parts train, dev and test: a group is in one part only, and each form of a call stays in train.

    A form is a function with the parameters it is given. What is new in the test part is how calls are put together,
    not a way of calling that training never showed.

    Pairs of a held-out group that find no place in dev or test are left out.

    Args:
        pairs: from :func:`generate`.
        seed: of the choice of groups.
        num_dev: pairs of dev, by default 5 % of all.
        num_test: pairs of test, by default 10 % of all.

    Raises:
        DataError: too few groups to fill dev and test.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    order = sorted(groups)
    Random(f"flow split {seed}").shuffle(order)
    left = Counter(form for group in groups for form in _call_forms(group))
    parts: dict[str, list[Pair]] = {}
    wanted = {
        "test": len(pairs) // 10 if num_test is None else num_test,
        "dev": len(pairs) // 20 if num_dev is None else num_dev,
    }
    for part, size in wanted.items():
        quotas = _quotas(size).items()
        parts[part] = [pair for shape, quota in quotas for pair in _take(groups, order, shape, quota, left)]
        if len(parts[part]) < size:
            message = f"{len(pairs)} pairs give {len(parts[part])} pairs for {part}, expected {size}"
            raise DataError(message, hint="generate more pairs")
    train = [pair for pair in pairs if pair.group in groups]
    return {"train": train, "dev": parts["dev"], "test": parts["test"]}


def write_dataset(
    folder: Path,
    num_train: int = 2000,
    num_dev: int = 100,
    num_test: int = 200,
    seed: int = 0,
    num_refusals: int = 120,
) -> None:
    """Write train.jsonl, dev.jsonl, test.jsonl and refusals.jsonl.

    :data:`REFUSAL_SHARE` of train and dev are refusals; test has none, so that its exact match is that of programs.
    refusals.jsonl has ``num_refusals`` of phrases that train does not have, as many of each kind, which is their group.

    Raises:
        DataError: too few training pairs for a split by group.
    """
    refused = {part: round(REFUSAL_SHARE * size) for part, size in (("train", num_train), ("dev", num_dev))}
    # Held-out groups lose the pairs beyond their share, hence the surplus.
    pairs = generate(num_train + 3 * (num_dev + num_test), seed)
    parts = split(pairs, seed, num_dev=num_dev - refused["dev"], num_test=num_test)
    left = num_train - refused["train"]
    if len(parts["train"]) < left:
        message = f"{len(parts['train'])} training pairs are left, expected {left}"
        raise DataError(message, hint="ask for smaller dev and test parts")
    rows = {name: [pair.to_row() for pair in part] for name, part in parts.items()}
    rows["train"] = rows["train"][:left]
    for part, num in refused.items():
        requests = flow_refusals.mixed(part, num, seed)
        extra = [request.to_row(f"flow-{seed}-{part}-{n:04d}") for n, request in enumerate(requests)]
        rows[part] = _scattered(rows[part], extra, Random(f"flow refusals in {part} {seed}"))
    rows["refusals"] = _held_out_refusals(num_refusals, seed)
    for name, part_rows in rows.items():
        atomic.write_text(folder / f"{name}.jsonl", _lines(part_rows))


def _held_out_refusals(num: int, seed: int) -> list[Row]:
    sizes = {kind: (num + n) // len(KINDS) for n, kind in enumerate(KINDS)}
    held = [request for kind, size in sizes.items() for request in flow_refusals.requests(kind, "test", size, seed)]
    return [request.to_row(f"flow-{seed}-refusals-{n:04d}", group=request.kind) for n, request in enumerate(held)]


def _scattered(rows: list[Row], extra: list[Row], rng: Random) -> list[Row]:
    """``rows`` in their order, with ``extra`` at random places: those who take every n-th row get their share."""
    places = set(rng.sample(range(len(rows) + len(extra)), len(extra)))
    ordinary, others = iter(rows), iter(extra)
    return [next(others if place in places else ordinary) for place in range(len(rows) + len(extra))]


def _quotas(size: int) -> dict[str, int]:
    quotas = {shape: size * share // 100 for shape, share in SHAPES.items()}
    quotas["one"] += size - sum(quotas.values())
    return quotas


def _take(groups: dict[str, list[Pair]], order: list[str], shape: str, quota: int, left: Counter[str]) -> list[Pair]:
    """Move groups of one shape out of ``groups`` until ``quota`` pairs are taken."""
    taken: list[Pair] = []
    candidates = [group for group in order if group in groups and groups[group][0].shape == shape]
    most = max(1, math.ceil(quota / max(1.0, _HELD_OUT * len(candidates))))  # pairs of one group
    for group in candidates:
        if len(taken) == quota:
            break
        forms = _call_forms(group)
        if all(left[form] > _MIN_GROUPS for form in forms):
            left.subtract(forms)
            taken += groups.pop(group)[: min(most, quota - len(taken))]
    return taken


def _call_forms(group: str) -> set[str]:
    """``{"tickets.count(project)"}`` of a program without its literals."""
    calls = (match for match in _CALL.finditer(group) if match[1] != "it")
    return {f"{match[1]}.{match[2]}({', '.join(_NAME.findall(match[3] or ''))})" for match in calls}


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
