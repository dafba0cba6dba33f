"""Pages with drawings for reports: one HTML file, inline SVG, nothing from a network. Text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 760, 260, 48
_BAR_HEIGHT, _BAR_LABEL = 22, 300
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 800px; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; } pre { margin: 0; font-size: 12px; white-space: pre-wrap; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } th { vertical-align: top; } del { background: #f9d3c5; text-decoration: none; } ins { background: #cfe8cf; text-decoration: none; }
svg { width: 100%; height: auto; } .axis { stroke: #999; } text { font-size: 12px; fill: #555; }
.line { fill: none; stroke-width: 1.8; } .a { stroke: #2563a8; fill: #2563a8; } .b { stroke: #c2571a; fill: #c2571a; } text.a, text.b { stroke: none; }
"""  # noqa: E501

Points = Sequence[tuple[float, float]]


def page(title: str, body: str) -> str:
    """A whole document; ``body`` is HTML, ``title`` is text."""
    title = html.escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading (text) and what stands under it (HTML)."""
    return f"<h2>{html.escape(title)}</h2>{body}"


def key_table(rows: Mapping[str, Any]) -> str:
    """Names on the left, values on the right."""
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def line_chart(lines: Sequence[tuple[str, Points]], *, x_name: str = "step") -> str:
    """Named lines over one x axis; both axes start at 0. At least one line has a point."""
    every = [point for _, points in lines for point in points]
    right = max(x for x, _ in every) or 1.0
    top = max(y for _, y in every) or 1.0
    scale_x = lambda x: _MARGIN + (x / right) * (_WIDTH - 2 * _MARGIN)  # noqa: E731
    scale_y = lambda y: _HEIGHT - _MARGIN - (y / top) * (_HEIGHT - 2 * _MARGIN)  # noqa: E731
    body = _axes(f"{x_name} {right:.4g}", top)
    for i, (name, points) in enumerate(lines):
        body += _line(name, points, "ab"[i % 2], i, scale_x, scale_y, x_name) if points else ""
    return _svg(body, _HEIGHT)


def histogram(values: Sequence[float], *, x_name: str, num_bins: int = 24) -> str:
    """How many values (at least one, none negative) fall into each of ``num_bins`` equal bins from 0 to the largest."""
    right = max(values) or 1.0
    counts = [0] * num_bins
    for value in values:
        counts[min(int(value / right * num_bins), num_bins - 1)] += 1
    top = max(counts)
    width = (_WIDTH - 2 * _MARGIN) / num_bins
    body = _axes(f"{x_name} {right:.4g}", top)
    for i, count in enumerate(counts):
        tall = count / top * (_HEIGHT - 2 * _MARGIN)
        label = f"{right * i / num_bins:.3g} to {right * (i + 1) / num_bins:.3g}: {count}"
        body += (
            f'<rect class="a" x="{_MARGIN + i * width + 1:.1f}" y="{_HEIGHT - _MARGIN - tall:.1f}" '
            f'width="{width - 2:.1f}" height="{tall:.1f}"><title>{html.escape(label)}</title></rect>'
        )
    return _svg(body, _HEIGHT)


def scatter_chart(points: Sequence[tuple[str, float, float]], *, x_name: str, y_name: str, marked: str) -> str:
    """Named points; x starts at 0, y goes from the least to the largest of them. At least one point."""
    right = max(x for _, x, _ in points) or 1.0
    low, high = min(y for _, _, y in points), max(y for _, _, y in points)
    body = _axes(f"{x_name} {right:.4g}", high) + f'<text x="{_MARGIN}" y="12">{html.escape(y_name)}</text>'
    for name, x, y in points:
        at_x = _MARGIN + x / right * 0.8 * (_WIDTH - 2 * _MARGIN)
        at_y = _HEIGHT - 2 * _MARGIN - (y - low) / ((high - low) or 1.0) * (_HEIGHT - 4 * _MARGIN)
        kind, size = ("b", 6) if name == marked else ("a", 4)
        label = f"{name}: {x:.4g}, {y:.4g}"
        body += (
            f'<circle class="{kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="{size}"/>'
            f'<text x="{at_x + 9:.1f}" y="{at_y + 4:.1f}">{html.escape(label)}</text>'
        )
    return _svg(body, _HEIGHT)


def bar_chart(bars: Sequence[tuple[str, float]]) -> str:
    """One horizontal bar for each name, in the order given."""
    top = max((value for _, value in bars), default=0) or 1.0
    room = _WIDTH - _BAR_LABEL - _MARGIN
    body = ""
    for i, (name, value) in enumerate(bars):
        y, wide = i * _BAR_HEIGHT, value / top * room
        body += (
            f'<text x="{_BAR_LABEL - 8}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect class="a" x="{_BAR_LABEL}" y="{y + 3}" width="{wide:.1f}" height="{_BAR_HEIGHT - 6}"/>'
            f'<text x="{_BAR_LABEL + wide + 6:.1f}" y="{y + 15}">{value:g}</text>'
        )
    return _svg(body, max(len(bars), 1) * _BAR_HEIGHT)


def _svg(body: str, height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{body}</svg>'


def _line(
    name: str,
    points: Points,
    kind: str,
    row: int,
    scale_x: Callable[[float], float],
    scale_y: Callable[[float], float],
    x_name: str,
) -> str:
    places = [(scale_x(x), scale_y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">'
        f"<title>{html.escape(x_name)} {at:g}: {value:.4g}</title></circle>"
        for (x, y), (at, value) in zip(places, points, strict=True)
        if len(points) <= 60
    )
    label = (
        f'<text class="{kind}" x="{_WIDTH - _MARGIN}" y="{16 + 16 * row}" text-anchor="end">{html.escape(name)}</text>'
    )
    return f'<polyline class="line {kind}" style="fill:none" points="{path}"/>{dots}{label}'


def _axes(right: str, top: float) -> str:
    left, bottom = _MARGIN, _HEIGHT - _MARGIN
    return (
        f'<line class="axis" x1="{left}" y1="{bottom}" x2="{_WIDTH - _MARGIN}" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" y1="{_MARGIN}" x2="{left}" y2="{bottom}"/>'
        f'<text x="{left - 6}" y="{_MARGIN + 4}" text-anchor="end">{top:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom + 4}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 18}" text-anchor="end">{html.escape(right)}</text>'
    )
