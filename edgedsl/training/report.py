"""The loss curve as one HTML file: inline SVG, nothing from a network."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 760, 260, 48
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 800px; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } .axis { stroke: #999; } text { font-size: 12px; fill: #555; }
.line { fill: none; stroke-width: 1.8; } .a { stroke: #2563a8; fill: #2563a8; } .b { stroke: #c2571a; fill: #c2571a; }
"""

Points = Sequence[tuple[float, float]]


def report(record: dict[str, Any]) -> str:
    """HTML of a run.json document."""
    history = record["history"]
    title = html.escape(f"Training of {record['name']}")
    charts = [
        (
            "Loss (nats a target token)",
            [("training", _series(history, "loss")), ("dev", _series(history, "eval_loss"))],
        ),
        ("Exact match on dev", [("exact match", _series(history, "exact_match"))]),
        ("Learning rate", [("learning rate", _series(history, "lr"))]),
        ("Tokens a second", [("tokens/s", _series(history, "tokens_per_s"))]),
    ]
    drawn = "".join(f"<h2>{name}</h2>{_chart(lines)}" for name, lines in charts if any(points for _, points in lines))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{_table(record)}{drawn}</body></html>\n"
    )


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
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else form.format(value)


def _chart(lines: Sequence[tuple[str, Points]]) -> str:
    every = [point for _, points in lines for point in points]
    right = max(x for x, _ in every)
    top = max(y for _, y in every) or 1.0
    scale_x = lambda x: _MARGIN + (x / right) * (_WIDTH - 2 * _MARGIN)  # noqa: E731
    scale_y = lambda y: _HEIGHT - _MARGIN - (y / top) * (_HEIGHT - 2 * _MARGIN)  # noqa: E731
    body = _axes(right, top)
    for i, (name, points) in enumerate(lines):
        body += _line(name, points, "ab"[i % 2], i, scale_x, scale_y) if points else ""
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{body}</svg>'


def _line(
    name: str, points: Points, kind: str, row: int, scale_x: Callable[[float], float], scale_y: Callable[[float], float]
) -> str:
    places = [(scale_x(x), scale_y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>step {step:g}: {value:.4g}</title></circle>'
        for (x, y), (step, value) in zip(places, points, strict=True)
        if len(points) <= 60
    )
    label = (
        f'<text class="{kind}" x="{_WIDTH - _MARGIN}" y="{16 + 16 * row}" text-anchor="end">{html.escape(name)}</text>'
    )
    return f'<polyline class="line {kind}" style="fill:none" points="{path}"/>{dots}{label}'


def _axes(right: float, top: float) -> str:
    left, bottom = _MARGIN, _HEIGHT - _MARGIN
    return (
        f'<line class="axis" x1="{left}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" y1="{_MARGIN}" x2="{left}" y2="{bottom}"/>'
        f'<text x="{left - 6}" y="{_MARGIN + 4}" text-anchor="end">{top:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom + 4}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 18}" text-anchor="end">step {right:g}</text>'
    )
