"""A latency result for people: tables as text, and one HTML file with drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedsl import atomic, charts
from edgedsl.bench.latency import Stream, answer_rows
from edgedsl.evaluation.report import context_lines, failures, number, percent

_MIB = 1 << 20
LATENCY_HEADER = ("ms", "mean", "p50", "p95", "p99", "max")
_LATENCIES = {"ttft_ms": "time to first token", "tpot_ms": "time per further token", "e2el_ms": "whole answer"}


def write(folder: Path, record: dict[str, Any], stream: Stream) -> None:
    """Write result.json, report.html and the resolved configuration into a folder."""
    atomic.write_json(folder / "edgedsl.resolved.json", record["config"])
    atomic.write_text(folder / "report.html", report(record, stream))
    atomic.write_json(folder / "result.json", {**record, "answers": answer_rows(stream)})


def latency_rows(record: dict[str, Any]) -> list[list[str]]:
    """Cells under :data:`LATENCY_HEADER`; a dash where there were too few samples."""
    latency = record["summary"]["latency"]
    return [[name, *(_ms(latency[key][column]) for column in LATENCY_HEADER[1:])] for key, name in _LATENCIES.items()]


def summary_lines(record: dict[str, Any]) -> dict[str, str]:
    """The table under the latencies, on terminal and page."""
    measured = record["summary"]
    load, memory = measured["load"], measured["memory"]
    return {
        "answers": f"{measured['num_prompts']} ({failures(measured)})",
        "exact match": f"{percent(measured['exact_match'])} of {measured['num_targets']}",
        "parse rate": percent(measured["parse_rate"]),
        "tokens per answer": number(measured["tokens_per_answer"], "{:.1f}"),
        "tokens per prompt": number(measured["prompt_tokens_mean"], "{:.1f}"),
        "output tokens a second": number(measured["output_throughput"], "{:.1f}"),
        "programs a second": number(measured["programs_per_s"], "{:.2f}"),
        "verify and load": number(load["load_ms"], "{:.0f} ms"),
        "  of that verify, when repeated": number(load["verify_again_ms"], "{:.0f} ms"),
        "process start to ready": number(load["process_to_ready_ms"], "{:.0f} ms"),
        "first answer of the process": number(load["first_answer_ms"], "{:.1f} ms"),
        "memory after load / at end": f"{_mib(memory['after_load'], 'rss')} / {_mib(memory['at_end'], 'rss')}",
        "peak memory after load / at end": f"{_mib(memory['after_load'], 'peak')} / {_mib(memory['at_end'], 'peak')}",
        "sentences": record["prompts"],
        **context_lines(record),
    }


def report(record: dict[str, Any], stream: Stream) -> str:
    """HTML of a latency result."""
    latencies = {row[0]: " / ".join(row[1:]) for row in latency_rows(record)}
    body = charts.bullets(record["caveats"])
    body += charts.section(f"Latency in ms: {' / '.join(LATENCY_HEADER[1:])}", charts.key_table(latencies))
    body += charts.section("Result", charts.key_table(summary_lines(record)))
    answers = [item.e2el_ms for item in stream.answers if item.error is None]
    if answers:
        body += charts.section("Whole answers: how many took how long", charts.histogram(answers, x_name="ms"))
        distribution = [("% of answers within", _distribution(answers))]
        body += charts.section("Whole answers: cumulative", charts.line_chart(distribution, x_name="ms"))
    if steps := _steps(stream):
        body += charts.section(
            "Time of a token after the one before it, by place (ms)", charts.line_chart(steps, x_name="token")
        )
    return charts.page(record["title"], body)


def _distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    ordered = sorted(values)
    return [(value, 100 * (i + 1) / len(ordered)) for i, value in enumerate(ordered)]


def _steps(stream: Stream) -> list[tuple[str, charts.Points]]:
    """Median and longest gap before the second, third, ... token over the answers that are that long."""
    gaps = [item.itl_ms for item in stream.answers]
    places = range(max((len(item) for item in gaps), default=0))
    columns = [[item[place] for item in gaps if len(item) > place] for place in places]
    if not columns:
        return []
    median = [(place + 2.0, float(np.median(column))) for place, column in enumerate(columns)]
    longest = [(place + 2.0, max(column)) for place, column in enumerate(columns)]
    return [("median", median), ("longest", longest)]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mib(memory: dict[str, int | None], name: str) -> str:
    size = memory[name]
    return "not told" if size is None else f"{size / _MIB:.0f} MiB"
