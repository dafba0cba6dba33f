"""Single stream: one sentence after the other, each timed on its own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedsl.bench.memory import memory_now
from edgedsl.bench.prompts import BUNDLED, Prompt, bundled_prompts, read_prompts
from edgedsl.bundle.manifest import open_bundle
from edgedsl.config import Config
from edgedsl.evaluation.answers import Answer, answer, latencies
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, describe, load_average
from edgedsl.evaluation.statistics import MIN_SAMPLES, ratio
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams

Memory = dict[str, int | None]


@dataclass(frozen=True)
class Stream:
    """What a single stream gave: measured prompts, their answers, which of these parse; the first answer of all."""

    prompts: list[Prompt]
    answers: list[Answer]
    parses: list[bool]
    first: Answer

    @property
    def errors(self) -> list[str]:
        """Messages of the sentences that failed."""
        return [item.error for item in self.answers if item.error is not None]


def bench(config: Config, bundle: Path, prompts_file: Path | None, *, command: str) -> tuple[dict[str, Any], Stream]:
    """Load a bundle and measure it on this machine.

    Args:
        prompts_file: JSONL with ``prompt``; None takes the dev pairs inside the bundle.
        command: goes into the record.

    Returns:
        The record for result.json (no sentence and no program in it), and what it was made from.

    Raises:
        DataError: no sentences, or a file of another shape.
        BundleError: not a complete, unchanged bundle.
        ProviderError: the execution provider cannot run here.
    """
    load = load_average()
    prompts = read_prompts(prompts_file) if prompts_file else None
    engine = Engine.from_bundle(bundle, **asdict(config.runtime))
    ready_ms = _process_age_ms()
    after_load = memory_now()
    prompts = prompts or bundled_prompts(bundle)
    params = SamplingParams.from_section(config.generate)
    stream = run_stream(
        engine, prompts, params, num_prompts=config.bench.num_prompts, num_warmup=config.bench.num_warmup
    )
    memory = {"after_load": after_load, "at_end": memory_now()}
    measured = summarise(stream)
    measured["load"] = _load(engine, bundle, ready_ms, stream.first)
    measured["memory"] = memory
    caveats = [*busy_caveat(load), *_caveats(config, stream, len(prompts), params)]
    record = {
        **describe(engine, bundle, command),
        "kind": "latency",
        "title": f"Speed of {engine.name}, single stream",
        "caveats": caveats,
        "prompts": prompts_file.name if prompts_file else f"{BUNDLED} of the bundle",
        "sampling": asdict(params),
        "load_average": load,
        "rows": [_table_row(engine, measured)],
        "summary": measured,
        "config": config.to_dict(),
    }
    return record, stream


def run_stream(
    engine: Engine, prompts: Sequence[Prompt], params: SamplingParams, *, num_prompts: int, num_warmup: int
) -> Stream:
    """Warm up (on sentences that are not measured, where there are any), then answer the first ``num_prompts``."""
    measured = list(prompts[:num_prompts])
    others = prompts[num_prompts:] or prompts
    warm = [answer(engine, others[n % len(others)].prompt, params) for n in range(num_warmup)]
    answers = [answer(engine, item.prompt, params) for item in track(measured, "measuring")]
    parses = [item.error is None and engine.grammar.accepts(item.text) for item in answers]
    return Stream(measured, answers, parses, (warm or answers)[0])


def summarise(stream: Stream) -> dict[str, Any]:
    """The numbers of result.json. Throughput counts the time of failed sentences too; None is: not measured."""
    answers = stream.answers
    given = [item for item in answers if item.error is None]
    whole = sum(item.finish_reason == "stop" and parses for item, parses in zip(answers, stream.parses, strict=True))
    exact = [item.is_exact(p.target) for p, item in zip(stream.prompts, answers, strict=True) if p.target is not None]
    elapsed_s = sum(item.elapsed_ms for item in answers) / 1000
    num_tokens = sum(item.completion_tokens for item in given)
    return {
        "num_prompts": len(answers),
        "num_errors": len(answers) - len(given),
        "num_at_max_tokens": sum(item.finish_reason == "length" for item in given),
        "parse_rate": ratio(sum(stream.parses), len(answers)),
        "exact_match": ratio(sum(exact), len(exact)),
        "num_targets": len(exact),
        "tokens_per_answer": ratio(num_tokens, len(given)),
        "prompt_tokens_mean": ratio(sum(item.prompt_tokens for item in given), len(given)),
        "output_throughput": ratio(num_tokens, elapsed_s),
        "programs_per_s": ratio(whole, elapsed_s),
        "latency": latencies(answers),
    }


def answer_rows(stream: Stream) -> list[dict[str, Any]]:
    """One object per measured sentence, numbers only: results are published, sentences may not be."""
    return [
        {
            "prompt_tokens": item.prompt_tokens,
            "completion_tokens": item.completion_tokens,
            "finish_reason": item.finish_reason,
            "error": item.error,
            "parses": parses,
            "exact_match": None if prompt.target is None else item.is_exact(prompt.target),
            "ttft_ms": round(item.ttft_ms, 3),
            "e2el_ms": round(item.e2el_ms, 3),
            "itl_ms": [round(gap, 3) for gap in item.itl_ms],
        }
        for prompt, item, parses in zip(stream.prompts, stream.answers, stream.parses, strict=True)
    ]


def _load(engine: Engine, bundle: Path, ready_ms: float | None, first: Answer) -> dict[str, float | None]:
    """Loading, in ms. ``verify_again_ms`` is taken last, with the files in the page cache."""
    started = time.perf_counter()
    open_bundle(bundle, verify=True)
    return {
        "process_to_ready_ms": ready_ms,
        "load_ms": round(engine.load_ms, 1),
        "verify_again_ms": round(1000 * (time.perf_counter() - started), 1),
        "first_answer_ms": None if first.error is not None else round(first.e2el_ms, 3),
    }


def _process_age_ms() -> float | None:
    """Time since this process was started, where /proc tells."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return round(1000 * (time.clock_gettime(time.CLOCK_BOOTTIME) - started_s), 1)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _table_row(engine: Engine, measured: dict[str, Any]) -> dict[str, Any]:
    latency = measured["latency"]
    peak = measured["memory"]["at_end"]["peak"] or measured["memory"]["at_end"]["ru_maxrss"]
    return {
        "bundle": engine.name,
        "answers": measured["num_prompts"],
        "errors": measured["num_errors"],
        "at_max_tokens": measured["num_at_max_tokens"],
        "parse_rate": measured["parse_rate"],
        "exact_match": measured["exact_match"],
        "ttft_ms_p50": latency["ttft_ms"]["p50"],
        "tpot_ms_p50": latency["tpot_ms"]["p50"],
        "e2el_ms_p50": latency["e2el_ms"]["p50"],
        "e2el_ms_p95": latency["e2el_ms"]["p95"],
        "output_throughput": measured["output_throughput"],
        "programs_per_s": measured["programs_per_s"],
        "load_ms": measured["load"]["load_ms"],
        "peak_memory_bytes": peak,
    }


def _caveats(config: Config, stream: Stream, num_available: int, params: SamplingParams) -> list[str]:
    num = len(stream.answers)
    lines = [
        "Single stream: one sentence at a time, in this process, no server and no queue.",
        f"{config.bench.num_warmup} warm-up answers are excluded.",
        "Time per token is that of the tokens after the first; n tokens have n - 1 gaps.",
        "Loading is that of this one process; whether the files were in the page cache is not known.",
    ]
    if num < config.bench.num_prompts:
        lines.append(f"{config.bench.num_prompts} sentences were asked for, there are {num_available}.")
    if num < MIN_SAMPLES[99]:
        missing = "p95 and p99" if num < MIN_SAMPLES[95] else "p99"
        lines.append(f"{num} sentences are too few for {missing} ({MIN_SAMPLES[95]} and {MIN_SAMPLES[99]} are needed).")
    if params.temperature:
        lines.append(f"Sampled at temperature {params.temperature:g} (seed {params.seed}), not greedy.")
    return lines
