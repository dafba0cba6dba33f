"""An evaluation for people: the summary as text, and one HTML file with the misses."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedsl import atomic, charts
from edgedsl.evaluation.evaluate import Evaluation, Row
from edgedsl.evaluation.misses import Piece, difference

SHOWN_MISSES = 200


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write result.json, predictions.jsonl, report.html and the resolved configuration into a folder."""
    lines = (json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in evaluation.rows)
    atomic.write_text(folder / "predictions.jsonl", "".join(lines))
    atomic.write_json(folder / "edgedsl.resolved.json", evaluation.record["config"])
    atomic.write_text(folder / "report.html", report(evaluation))
    atomic.write_json(folder / "result.json", evaluation.record)


def summary_lines(record: dict[str, Any]) -> dict[str, str]:
    """The table that terminal and page share."""
    measured = record["summary"]
    free, unseen, latency = measured["no_grammar"], measured["unseen_targets"], measured["latency"]
    rows = f"first {free['num_rows']} rows"
    return {
        "rows": f"{measured['num_rows']} ({failures(measured)})",
        "exact match": percent(measured["exact_match"]),
        "  targets not in the training pairs": _of(unseen["exact_match"], unseen["num_rows"]),
        "  nearest neighbour in the training pairs": percent(measured["nearest_neighbour_exact_match"]),
        "parse rate": percent(measured["parse_rate"]),
        f"  without the grammar ({rows})": percent(free["parse_rate"]),
        f"exact match without the grammar ({rows})": percent(free["exact_match"]),
        f"  with it ({rows})": percent(free["exact_match_with_grammar"]),
        **refusal_lines(measured["refusals"]),
        "tokens per answer": number(measured["tokens_per_answer"], "{:.1f}"),
        "time to first token, p50 / p95": times(latency["ttft_ms"]),
        "time per further token, p50 / p95": times(latency["tpot_ms"]),
        "whole answer, p50 / p95": times(latency["e2el_ms"]),
        **context_lines(record),
    }


def refusal_lines(measured: dict[str, Any] | None) -> dict[str, str]:
    """How often the model said no, where the grammar lets it."""
    if measured is None:
        return {}
    lines = {}
    if measured["num_rows"]:
        lines[f"refused, of {measured['num_rows']} that should be"] = percent(measured["refusal_rate"])
    for item in measured["kinds"]:
        lines[f"  {item['kind']} ({item['num_rows']})"] = percent(item["refusal_rate"])
    return lines | {f"refused, of {measured['num_programs']} others": percent(measured["wrong_refusal_rate"])}


def failures(measured: dict[str, Any]) -> str:
    """How many answers failed, and how many ended at ``max_tokens``."""
    return f"{measured['num_errors']} errors, {measured['num_at_max_tokens']} at max_tokens"


def context_lines(record: dict[str, Any]) -> dict[str, str]:
    """What was measured, and on what."""
    runtime, caption = record["runtime"], record["caption"]
    return {
        "model": caption["model"],
        "grammar": caption["grammar"],
        "bundle": f"{record['bundle']['name']}, manifest sha256 {record['bundle']['manifest_sha256'][:16]}",
        "execution provider": f"{runtime['execution_provider']}, {runtime['num_threads'] or '?'} threads",
        "machine": caption["cpu"],
        "command": caption["command"],
    }


def percent(value: float | None) -> str:
    """A share as text."""
    return number(value, "{:.1%}")


def number(value: float | None, form: str) -> str:
    """A number as text, or that there is none."""
    return "not measured" if value is None else form.format(value)


def times(summary: dict[str, Any], names: Sequence[str] = ("p50", "p95")) -> str:
    """Percentiles in ms; a dash where there were too few samples."""
    return " / ".join("-" if summary[name] is None else f"{summary[name]:.1f}" for name in names) + " ms"


def report(evaluation: Evaluation) -> str:
    """HTML of an evaluation."""
    record = evaluation.record
    bars = [(item["class"], float(item["count"])) for item in record["summary"]["misses"]]
    body = charts.bullets(record["caveats"]) if record["caveats"] else ""
    body += charts.key_table(summary_lines(record))
    body += charts.section("Misses by what differs", charts.bar_chart(bars) if bars else "<p>None.</p>")
    misses = [row for row in evaluation.rows if row.miss is not None]
    if misses:
        body += charts.section("Misses", _miss_table(misses))
    return charts.page(record["title"], body)


def _miss_table(rows: Sequence[Row]) -> str:
    note = ""
    if len(rows) > SHOWN_MISSES:
        note = f"<p>The first {SHOWN_MISSES} of {len(rows)}; all are in predictions.jsonl.</p>"
    return note + f"<table>{''.join(_miss(row) for row in rows[:SHOWN_MISSES])}</table>"


def _miss(row: Row) -> str:
    wanted, got = difference(row.pair.target, row.answer.text)
    given = f"<i>{html.escape(row.answer.error)}</i>" if row.answer.error else f"<pre>{_marked(got, 'del')}</pre>"
    return (
        f"<tr><th>{html.escape(row.pair.id)}</th>"
        f"<td>{html.escape(row.pair.prompt)} <i>{html.escape(row.miss or '')}</i>"
        f"<pre>{_marked(wanted, 'ins')}</pre>{given}</td></tr>"
    )


def _marked(pieces: Sequence[Piece], tag: str) -> str:
    return "".join(html.escape(text) if same else f"<{tag}>{html.escape(text)}</{tag}>" for text, same in pieces)


def _of(value: float | None, num_rows: int | None) -> str:
    return percent(value) if num_rows is None else f"{percent(value)} of {num_rows}"
