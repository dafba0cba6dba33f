"""How many tokens a call of the model yields with drafts, without the model: the targets are replayed.

Run ``python -m edgedsl.bench.drafts --bundle BUNDLE --train JSONL --dev JSONL --output FILE``, or with ``--grammar``,
``--catalogue`` and ``--tokenizer`` for a language that nobody trained a model for. The indices are built from
``--train``, as an export does. Every call counts, that of the prompt too, and the end token is a token: without drafts
the figure is 1, and ``k`` drafts cannot make it more than ``k + 1``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.bench.command import at_least, run
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.errors import ConfigError, DataError
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, describe, head, load_average
from edgedsl.exporters.drafts import write_drafts
from edgedsl.grammar import CompiledGrammar, Grammar
from edgedsl.grammar.authoring.token_set import open_tokens
from edgedsl.runtime.drafts import SOURCES, DraftSources, Source
from edgedsl.runtime.engine import Engine
from edgedsl.tokenizer import Tokenizer

SIZES = (2, 4, 6, 8, 12)
CHOICES: tuple[tuple[Source, ...], ...] = (*((source,) for source in SOURCES), SOURCES)


@dataclass
class Replay:
    """What the replay of some targets came to.

    Attributes:
        start_us: to prepare for each sentence.
        propose_us: of each proposal.
    """

    tokens: int = 0
    calls: int = 0
    drafted: int = 0
    start_us: list[float] = field(default_factory=list)
    propose_us: list[float] = field(default_factory=list)

    @property
    def tokens_per_call(self) -> float | None:
        """None where nothing was replayed."""
        return round(self.tokens / self.calls, 3) if self.calls else None

    def __add__(self, other: Replay) -> Replay:
        """Both together."""
        return Replay(
            self.tokens + other.tokens,
            self.calls + other.calls,
            self.drafted + other.drafted,
            self.start_us + other.start_us,
            self.propose_us + other.propose_us,
        )


@dataclass(frozen=True)
class Target:
    """A program to replay; ``token_ids`` has the end token."""

    sentence: str
    token_ids: list[int]
    is_unseen: bool


def replay(sources: DraftSources, compiled: CompiledGrammar, targets: Sequence[Target], most: int) -> Replay:
    """Decode the targets as a model would that always agrees with them, with up to ``most`` drafted tokens a call."""
    result = Replay()
    for target in targets:
        _replay(sources, compiled, target, most, result)
    return result


def _replay(sources: DraftSources, compiled: CompiledGrammar, target: Target, most: int, result: Replay) -> None:
    started = time.perf_counter()
    drafter, matcher = sources.start(target.sentence), compiled.matcher()
    result.start_us.append(1e6 * (time.perf_counter() - started))
    done = 0
    while done < len(target.token_ids):
        program, rest = target.token_ids[:done], target.token_ids[done:]
        started = time.perf_counter()
        draft = drafter.propose(program, matcher, most)
        result.propose_us.append(1e6 * (time.perf_counter() - started))
        agreed = _agreement(draft.token_ids, rest)
        drafter.learn(draft, agreed)
        new = rest[: agreed + 1]
        for token_id in new:
            if token_id not in compiled.end_token_ids:
                matcher.consume(token_id)
        done += len(new)
        result.calls += 1
        result.tokens += len(new)
        result.drafted += len(draft.token_ids)


def _agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def measure(compiled: CompiledGrammar, sources: DraftSources, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Rows of the result table: each source alone, then all, at every number of drafted tokens."""
    rows = []
    for enabled, most in track([(enabled, most) for enabled in CHOICES for most in SIZES], "sources and sizes"):
        chosen = sources.only(enabled)  # with nothing learned: the sources learn as they go
        seen = replay(chosen, compiled, [target for target in targets if not target.is_unseen], most)
        unseen = replay(chosen, compiled, [target for target in targets if target.is_unseen], most)
        rows.append(_row(enabled, most, len(targets), seen + unseen, unseen))
    return rows


def _row(enabled: Sequence[Source], most: int, num_rows: int, found: Replay, unseen: Replay) -> dict[str, Any]:
    return {
        "sources": enabled[0] if len(enabled) == 1 else "all",
        "k": most,
        "rows": num_rows,
        "tokens_per_call": found.tokens_per_call,
        "tokens_per_call_unseen": unseen.tokens_per_call,
        "accepted_share": round((found.tokens - found.calls) / max(found.drafted, 1), 4),
        "start_us_p50": round(statistics.median(found.start_us), 1),
        "propose_us_p50": round(statistics.median(found.propose_us), 1),
        "propose_us_p95": round(sorted(found.propose_us)[int(0.95 * (len(found.propose_us) - 1))], 1),
    }


def targets_of(
    pairs: Sequence[Pair], train: Sequence[Pair], compiled: CompiledGrammar, tokenizer: Tokenizer
) -> list[Target]:
    """What can be replayed: the targets that the grammar allows in the tokenizer's own tokens.

    Raises:
        DataError: there are none.
    """
    seen, end = {pair.target for pair in train}, min(compiled.end_token_ids)
    found = []
    for pair in pairs:
        token_ids = [*tokenizer.encode_plain(pair.target), end]
        if compiled.matcher().accepts(token_ids):
            found.append(Target(pair.prompt, token_ids, pair.target not in seen))
    if not found:
        raise DataError("no target is a program of the grammar", hint="give the pairs of this bundle's language")
    return found


def build(folder: Path, train: Sequence[Pair], compiled: CompiledGrammar, tokenizer: Tokenizer) -> DraftSources:
    """The sources that an export with these pairs would have."""
    write_drafts(folder, train, tokenizer, compiled)
    return DraftSources.from_bundle(folder, tokenizer, compiled.end_token_ids)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure tokens per model call with drafts, without the model.")
    parser.add_argument("--bundle", type=Path, help="bundle folder, for grammar and tokenizer")
    parser.add_argument("--grammar", type=Path, help="Lark file, instead of a bundle")
    parser.add_argument("--catalogue", type=Path, help="of the grammar")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, with --grammar")
    parser.add_argument("--train", type=Path, required=True, help="pairs to draft from")
    parser.add_argument("--dev", type=Path, required=True, help="pairs to replay")
    parser.add_argument(
        "--num-rows", type=at_least(1), default=None, help="pairs to replay, evenly spaced (default: all)"
    )
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    train, dev = read_pairs(options.train), spread(read_pairs(options.dev), options.num_rows)
    command = f"python -m edgedsl.bench.drafts --train {options.train.name} --dev {options.dev.name}"
    name, compiled, tokenizer, described = _language(options, f"{command} --num-rows {len(dev)}")
    targets = targets_of(dev, train, compiled, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(compiled, build(Path(folder), train, compiled, tokenizer), targets)
    return {
        **described,
        "kind": "drafts",
        "title": f"Tokens per model call with drafts, {name}, targets replayed",
        "caveats": [f"{len(train)} training pairs to draft from; no model runs.", *busy_caveat(load)],
        "load_average": load,
        "rows": rows,
    }


def _language(options: argparse.Namespace, command: str) -> tuple[str, CompiledGrammar, Tokenizer, dict[str, Any]]:
    """Name, grammar and tokenizer of what is replayed, and what the result says of them.

    Raises:
        ConfigError: neither a bundle nor a grammar with a tokenizer was given.
    """
    if options.bundle:
        engine = Engine.from_bundle(options.bundle, num_threads=1)
        return engine.name, engine.compiled, engine.tokenizer, describe(engine, options.bundle, command)
    if not (options.grammar and options.tokenizer):
        raise ConfigError("no language was given", hint="give --bundle, or --grammar and --tokenizer")
    grammar = Grammar.from_files(options.grammar, options.catalogue)
    tokens, facts = open_tokens(options.tokenizer), machine.fingerprint()
    caption = {
        "model": f"none, a tokenizer of {tokens.tokenizer.vocab_size:,} tokens",
        "grammar": options.grammar.name,
        "cpu": f"{facts['cpu_model']}, one thread",
        "command": command,
    }
    return (
        options.grammar.stem,
        tokens.compile(grammar),
        tokens.tokenizer,
        {
            **head(),
            "caption": caption,
            "machine": facts,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
