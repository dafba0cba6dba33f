"""Several requests at a time on one engine: what each way of running them gives, beside one request at a time.

Run ``python -m edgedsl.bench.streams BUNDLE --streams 8 --output FILE``. The ways take turns: in each round each of
them answers the same sentences once. Figures are medians over the rounds, ratios those of the two in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.bench.command import at_least, run
from edgedsl.bench.peers.worker import Clock
from edgedsl.bench.prompts import BUNDLED, Prompt, bundled_prompts
from edgedsl.bench.together import Outcome, answer_together, teller
from edgedsl.errors import EdgeDSLError
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, check_answered, describe, load_average
from edgedsl.evaluation.statistics import MIN_SAMPLES, percentile, ratio
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.runtime.streams import Streams

STREAMS = (2, 4, 8)
ONE = "one at a time"
WAYS = {"each alone, with drafts": False, "a token of each together": True, "automatic": None}


@dataclass(frozen=True)
class Round:
    """Every sentence answered once in one way; times are those of who asked, from the moment there was a place.

    Attributes:
        seconds: of all answers.
        first_ms: request to first token, of the answers without an error.
        end_ms: request to whole answer, likewise.
    """

    outcomes: list[Outcome]
    seconds: float
    first_ms: list[float]
    end_ms: list[float]

    @property
    def texts(self) -> list[str | None]:
        """None where a sentence failed."""
        return [one.text if isinstance(one, Completion) else None for one in self.outcomes]

    @property
    def errors(self) -> list[str]:
        """Messages of the sentences that failed."""
        return [one.message for one in self.outcomes if isinstance(one, EdgeDSLError)]

    @property
    def answers_per_s(self) -> float:
        """Failed ones took time and are no answers."""
        return (len(self.outcomes) - len(self.errors)) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Of the programs, without end tokens."""
        return sum(one.completion_tokens for one in self.outcomes if isinstance(one, Completion)) / self.seconds


class Way:
    """One way to run requests, and its rounds so far.

    Args:
        engine: with as many slots.
        name: in the table.
        num_streams: requests at a time.
        streams: None runs the engine by itself.
    """

    def __init__(self, engine: Engine, name: str, num_streams: int = 1, streams: Streams | None = None) -> None:
        self.name = name
        self.num_streams = num_streams
        self.rounds: list[Round] = []
        self._engine = engine
        self._streams = streams

    def answer(self, sentences: Sequence[str], params: SamplingParams) -> Round:
        """Answer every sentence."""
        clock, started = Clock(len(sentences)), time.perf_counter()
        if self._streams:
            requests = [(sentence, params) for sentence in sentences]
            outcomes = answer_together(self._streams, requests, self.num_streams, clock)
        else:
            outcomes = [self._alone(clock, index, sentence, params) for index, sentence in enumerate(sentences)]
        seconds = time.perf_counter() - started
        times = [clock.answer(n, []) for n, one in enumerate(outcomes) if isinstance(one, Completion)]
        return Round(outcomes, seconds, [item["first_ms"] for item in times], [item["end_ms"] for item in times])

    def _alone(self, clock: Clock, index: int, sentence: str, params: SamplingParams) -> Outcome:
        clock.start(index)
        try:
            return self._engine.generate(sentence, params, on_text=teller(clock, index))
        except EdgeDSLError as exc:
            return exc
        finally:
            clock.end(index)


def ways(engine: Engine, numbers: Sequence[int]) -> list[Way]:
    """One at a time, then all ways with each number of streams.

    Raises:
        RequestError: the engine's bundle takes one request at a time.
    """
    # Each has streams of its own; what calls brought, which the automatic choice goes by, is the engine's.
    several = [Way(engine, name, n, Streams(engine, together=how)) for n in numbers for name, how in WAYS.items()]
    return [Way(engine, ONE), *several]


def measure(measured: Sequence[Way], sentences: Sequence[str], params: SamplingParams, num_rounds: int) -> None:
    """Let the ways take turns; before that, each answers two sentences a stream, which are not counted."""
    for way in measured:
        way.answer(sentences[: 2 * way.num_streams], params)
    for way in track([way for _ in range(num_rounds) for way in measured], "in turn"):
        way.rounds.append(way.answer(sentences, params))


def rows(measured: Sequence[Way], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Of the table; the first of the ways is what the others are compared with."""
    return [_row(way, measured[0], prompts) for way in measured]


def _row(way: Way, reference: Way, prompts: Sequence[Prompt]) -> dict[str, Any]:
    both = list(zip(way.rounds, reference.rounds, strict=True))
    texts = [text for one in way.rounds for text in one.texts]
    expected = [text for one in reference.rounds for text in one.texts]
    return {
        "way": way.name,
        "streams": way.num_streams,
        "answers": len(texts),
        "errors": sum(len(one.errors) for one in way.rounds),
        "exact_match": _exact_match(way, prompts),
        "differing_share": ratio(sum(a != b for a, b in zip(texts, expected, strict=True)), len(texts)),
        "answers_per_s": _median([one.answers_per_s for one in way.rounds]),
        "output_throughput": _median([one.tokens_per_s for one in way.rounds]),
        "e2el_ms_p50": _median([percentile(one.end_ms, 50) for one in way.rounds]),
        "e2el_ms_p95": _median([percentile(one.end_ms, 95) for one in way.rounds]),
        "ttft_ms_p50": _median([percentile(one.first_ms, 50) for one in way.rounds]),
        "answers_factor": _median([ratio(one.answers_per_s, other.answers_per_s) for one, other in both]),
    }


def _exact_match(way: Way, prompts: Sequence[Prompt]) -> float | None:
    """Share of the sentences with a target that got it."""
    answered = [(prompt.target, text) for one in way.rounds for prompt, text in zip(prompts, one.texts, strict=True)]
    found = [text is not None and text.strip() == target.strip() for target, text in answered if target is not None]
    return ratio(sum(found), len(found))


def _median(values: Sequence[float | None]) -> float | None:
    """None where a round has no figure."""
    given = [value for value in values if value is not None]
    return round(statistics.median(given), 3) if given and len(given) == len(values) else None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure several requests at a time on one engine.")
    parser.add_argument("bundle", type=Path, help="bundle folder, with dev pairs")
    parser.add_argument(
        "--streams", type=at_least(2), action="append", help="requests at a time; may be repeated (default: 2, 4, 8)"
    )
    parser.add_argument("--num-sentences", type=at_least(1), default=40, help="of the bundle's own, evenly spaced")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="in which each way answers every sentence")
    parser.add_argument("--max-tokens", type=at_least(1), default=256, help="budget of an answer")
    parser.add_argument("--num-threads", type=at_least(0), default=0, help="of a model call; 0: what was quickest here")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load, numbers = load_average(), sorted(set(options.streams or STREAMS))
    engine = Engine.from_bundle(options.bundle, num_threads=options.num_threads, num_slots=numbers[-1])
    measured = ways(engine, numbers)
    pairs = bundled_prompts(options.bundle)
    num = min(options.num_sentences, len(pairs))
    prompts = [pairs[n * len(pairs) // num] for n in range(num)]
    measure(measured, [p.prompt for p in prompts], SamplingParams(max_tokens=options.max_tokens), options.rounds)
    first = measured[0].rounds
    check_answered(len(prompts) * len(first), [message for one in first for message in one.errors])
    command = (
        f"python -m edgedsl.bench.streams BUNDLE {' '.join(f'--streams {n}' for n in numbers)} --num-sentences {num} "
        f"--rounds {options.rounds} --max-tokens {options.max_tokens} --num-threads {options.num_threads}"
    )
    return {
        **describe(engine, options.bundle, command),
        "kind": "streams",
        "title": f"{engine.name}, several requests at a time on one engine",
        "caveats": [*_caveats(options, num), *busy_caveat(load)],
        "load_average": load,
        "costs_ms": list(engine.costs.ms) if engine.costs else None,
        "rows": rows(measured, prompts),
    }


def _caveats(options: argparse.Namespace, num: int) -> list[str]:
    lines = [
        f"{num} sentences of {BUNDLED}, greedy, at most {options.max_tokens} tokens, in this process, no server. A "
        "stream asks as soon as it has its answer; times begin when there is a place, and end when the answer is out.",
        f"The ways take turns in {options.rounds} rounds; figures are medians over these, exact match and other "
        "answers those of all. A few sentences to warm up are not counted.",
    ]
    if num < options.num_sentences:
        lines.append(f"{options.num_sentences} sentences were asked for, there are {num}.")
    if num < MIN_SAMPLES[95]:
        lines.append(f"{num} sentences are too few for p95 ({MIN_SAMPLES[95]} are needed).")
    return lines


if __name__ == "__main__":
    sys.exit(main())
