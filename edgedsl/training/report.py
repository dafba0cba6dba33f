"""The loss curve as one HTML file: inline SVG, nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedsl.charts import Points, key_table, line_chart, page, section


def report(record: dict[str, Any]) -> str:
    """HTML of a run.json document."""
    history = record["history"]
    charts = [
        (
            "Loss (nats a target token)",
            [("training", _series(history, "loss")), ("dev", _series(history, "eval_loss"))],
        ),
        ("Exact match on dev", [("exact match", _series(history, "exact_match"))]),
        ("Learning rate", [("learning rate", _series(history, "lr"))]),
        ("Tokens a second", [("tokens/s", _series(history, "tokens_per_s"))]),
    ]
    drawn = "".join(section(name, line_chart(lines)) for name, lines in charts if any(points for _, points in lines))
    return page(f"Training of {record['name']}", _table(record) + drawn)


def _series(history: Sequence[dict[str, Any]], name: str) -> Points:
    return [(entry["step"], entry[name]) for entry in history if entry[name] is not None]


def _table(record: dict[str, Any]) -> str:
    metrics = record["metrics"]
    rows = {
        "base model": record["base_model"]["name"],
        "training pairs": record["data"]["train"]["used"],
        "steps": metrics["steps"],
        "best step": metrics["best_step"],
        "dev loss": _number(metrics["eval_loss"], "{:.4f}"),
        "exact match": _number(metrics["exact_match"], "{:.1%}"),
        "tokens": metrics["tokens"],
        "tokens a second": _number(metrics["tokens_per_s"], "{:.0f}"),
        "padding": _number(metrics["padding_share"], "{:.1%}"),
        "time": _number(metrics["elapsed_s"], "{:.0f} s"),
    }
    return key_table(rows)


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else form.format(value)
