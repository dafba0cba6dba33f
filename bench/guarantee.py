"""What the guarantee costs: the time of masks, budget check and grammar engines in answers whose budget is never near.

Run ``python -m edgedsl.bench.guarantee --bundle BUNDLE --pairs PAIRS --num-rows N --output FILE``. The first round
follows a load, the second one knows every position; a third one follows another load and the work that a server does
while it is idle. Then each of a few sentences is the first one of a new process, and asked later in the others: what
does the first request pay.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from edgedsl.bench.command import add_bundle, at_least, run
from edgedsl.data.pairs import read_pairs, spread
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, describe, load_average
from edgedsl.grammar import BudgetGuard, CompiledGrammar
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.lm_head import HeadRow
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Sequence

_PARAMS = SamplingParams(max_tokens=256)
_GUARDED = ("choose", "choose_of_few", "permits", "consume", "is_over", "is_whole")


class Clock:
    """The seconds inside of methods; those of one inside another count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_running = False

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method with its time added."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._is_running:
                return method(*arguments, **keywords)
            self._is_running, started = True, time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - started
                self._is_running = False

        return timed

    def left_out(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method with its time taken off where it is inside of another one."""

        def left_out(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self.seconds -= (time.perf_counter() - started) * self._is_running

        return left_out


def measure(engine: Engine, sentences: list[str], title: str) -> dict[str, Any]:
    """One round of answers: the share of their time that went into the guarantee."""
    clock = Clock()
    guarded: dict[str, Any] = {name: clock.timed(getattr(BudgetGuard, name)) for name in _GUARDED}
    matcher = clock.timed(CompiledGrammar.matcher)
    # The guard asks for them, but any decoder works out logits and takes a token.
    head, draw = clock.left_out(HeadRow.of), clock.left_out(Sequence.draw)
    with (
        patch.multiple(BudgetGuard, **guarded),
        patch.object(CompiledGrammar, "matcher", matcher),
        patch.object(HeadRow, "of", head),
        patch.object(Sequence, "draw", draw),
    ):
        answers = [engine.generate(sentence, _PARAMS) for sentence in track(sentences, title)]
    spent_ms = sum(answer.timings.e2el_ms for answer in answers)
    return {
        "round": title,
        "rows": len(answers),
        "guarantee_share": round(1000 * clock.seconds / spent_ms, 5),
        "guarantee_us_token": round(1e6 * clock.seconds / sum(answer.completion_tokens for answer in answers), 1),
        "e2el_ms_p50": round(statistics.median(answer.timings.e2el_ms for answer in answers), 1),
    }


def answer_ms(bundle: Path, sentences: list[str], num_threads: int) -> list[float]:
    """Milliseconds of each answer after a load; to be asked in a new process."""
    engine = _ready(bundle, num_threads)
    return [engine.generate(sentence, _PARAMS).timings.e2el_ms for sentence in sentences]


def _ready(bundle: Path, num_threads: int) -> Engine:
    """As a server begins."""
    engine = Engine.from_bundle(bundle, num_threads=num_threads)
    engine.warm_up()
    return engine


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure what masks, budget check and grammar engines cost.")
    add_bundle(parser, "pairs whose sentences are asked")
    parser.add_argument("--num-loads", type=at_least(2), default=8, help="new processes for the first request")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    sentences = [pair.prompt for pair in spread(read_pairs(options.pairs), options.num_rows)]
    engine = _ready(options.bundle, options.num_threads)
    rows = [measure(engine, sentences, title) for title in ("after a load", "again")]
    idle = _ready(options.bundle, options.num_threads)
    num_walked = sum(1 for _ in idle.idle_work())
    rows.append(measure(idle, sentences, "after a load and idle work"))
    first = _first_requests(options, sentences)
    command = f"python -m edgedsl.bench.guarantee --pairs {options.pairs.name} --num-rows {len(sentences)}"
    return {
        **describe(engine, options.bundle, command),
        "kind": "guarantee",
        "title": f"What the guarantee costs in answers of {engine.name}",
        "caveats": [
            f"The first request of {len(first)} new processes took {min(first):.1f} to {max(first):.1f} ms (median "
            f"{statistics.median(first):.1f}) more than the same sentence later on in the others (their median).",
            f"Idle work: {num_walked} training programs.",
            *busy_caveat(load),
        ],
        "load_average": load,
        "first_request_ms": [round(value, 2) for value in first],
        "rows": rows,
    }


def _first_requests(options: argparse.Namespace, sentences: list[str]) -> list[float]:
    asked = list(dict.fromkeys(sentences))[: options.num_loads]
    new = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {}
    for turn in track(range(len(asked)), "first requests"):
        turned = [*asked[turn:], *asked[:turn]]
        with new.Pool(1) as process:
            times = process.apply(answer_ms, (options.bundle, turned, options.num_threads))
        for sentence, ms in zip(turned, times, strict=True):
            found.setdefault(sentence, []).append(ms)
    return [penalty(found[sentence], turn) for turn, sentence in enumerate(asked)]


def penalty(times: list[float], first: int) -> float:
    """What one of the times is above the median of the others; 0 where there is no other."""
    others = [ms for number, ms in enumerate(times) if number != first]
    return times[first] - statistics.median(others) if others else 0.0


if __name__ == "__main__":
    sys.exit(main())
