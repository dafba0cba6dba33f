"""Seeded sentences that flow cannot express, each with the refusal as its program; split by phrase."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from edgedsl.errors import DataError
from edgedsl.grammars.flow_literals import literal
from edgedsl.grammars.flow_phrases import FRAMES
from edgedsl.grammars.flow_refusal_phrases import KINDS, NEAR_MISS, POOLS, UNRELATED, UNSAFE
from edgedsl.grammars.flow_sentences import roughen

REFUSAL = "unsupported"
PHRASES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    dict(zip(KINDS, (UNRELATED, UNSAFE, NEAR_MISS), strict=True))
)
# Near misses are the hard ones: all but a word of them is as in sentences that flow can express.
SHARES: Mapping[str, int] = MappingProxyType({"unrelated": 30, "unsafe": 25, "near miss": 45})  # percent
_HELD_OUT = {"test": 0.3, "dev": 0.1}  # of the phrases of a kind
_POLITE = 0.3
_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"<([^<>|]+(?:\|[^<>|]+)+)>")
_LITERALS = frozenset(
    {"person", "city", "day", "time", "number", "company", "channel", "sheet", "repo", "room", "device", "playlist"}
)


@dataclass(frozen=True)
class Request:
    """A sentence that flow cannot express; ``phrase`` is what it was made from."""

    prompt: str
    kind: str
    topic: str
    phrase: str

    @property
    def group(self) -> str:
        """Kind and phrase: no two parts share one."""
        return f"{self.kind}: {self.phrase}"

    def to_row(self, row_id: str, *, group: str = "") -> dict[str, str]:
        """The columns that a file of pairs has."""
        return {"id": row_id, "prompt": self.prompt, "target": REFUSAL, "group": group or self.group}


def requests(kind: str, part: str, num: int, seed: int, topics: frozenset[str] | None = None) -> list[Request]:
    """Distinct sentences of one kind, evenly from the phrases of one part; the same for the same arguments.

    Args:
        kind: one of :data:`KINDS`.
        part: train, dev or test; a phrase belongs to one of them, by ``seed``.
        num: how many.
        seed: of the split and of the sentences.
        topics: only these keys of :data:`PHRASES`; None takes all.

    Raises:
        DataError: the phrases do not give so many sentences.
    """
    rng = Random(f"flow refusals {kind} {part} {seed}")
    phrases = [item for item in split(kind, seed)[part] if topics is None or item[0] in topics]
    found: dict[str, Request] = {}
    for _ in range(num):  # each round over the phrases brings at least one, or there are no more
        before = len(found)
        for topic, phrase in phrases:
            if len(found) < num:
                found |= {text: Request(text, kind, topic, phrase) for text in _new(phrase, rng, found)}
        if len(found) in (before, num):
            break
    if len(found) < num:
        message = f"the phrases of '{kind}' give {len(found)} requests for {part}, expected {num}"
        raise DataError(message, hint="ask for fewer refusals")
    return list(found.values())


def mixed(part: str, num: int, seed: int) -> list[Request]:
    """``num`` requests of all kinds by :data:`SHARES`, in random order.

    Raises:
        DataError: see :func:`requests`.
    """
    sizes = {kind: num * share // 100 for kind, share in SHARES.items()}
    sizes["near miss"] += num - sum(sizes.values())
    every = [request for kind, size in sizes.items() for request in requests(kind, part, size, seed)]
    Random(f"flow refusals {part} {seed}").shuffle(every)
    return every


def split(kind: str, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Topic and phrase of each part of a kind."""
    items = [(topic, phrase) for topic, phrases in PHRASES[kind].items() for phrase in phrases]
    Random(f"flow refusals split {kind} {seed}").shuffle(items)
    parts = {}
    for part, share in _HELD_OUT.items():
        size = round(share * sum(map(len, PHRASES[kind].values())))
        parts[part], items = items[:size], items[size:]
    return {**parts, "train": items}


def fill(phrase: str, rng: Random) -> str:
    """A sentence of a phrase, without the marks."""
    text = phrase.lstrip("!").replace("*", "")
    while _SLOT.search(text) or _CHOICE.search(text):
        text = _CHOICE.sub(lambda m: rng.choice(m[1].split("|")), text)
        text = _SLOT.sub(lambda m: _value(m[1], rng), text)
    return text


def _value(slot: str, rng: Random) -> str:
    if slot == "message":
        return literal("text", "text", rng)
    return literal(slot, slot, rng) if slot in _LITERALS else rng.choice(POOLS[slot])


def _new(phrase: str, rng: Random, known: Mapping[str, Request]) -> Iterator[str]:
    """One sentence that is not known yet, if a few attempts find one."""
    for _ in range(8):
        text = fill(phrase, rng)
        if not phrase.startswith("!") and rng.random() < _POLITE:
            text = rng.choice(FRAMES["polite"]).format(a=text)
        text = roughen(text, rng)
        if text not in known:
            yield text
            return
