"""The recipes that were tried, as one page: quality against speed."""

from __future__ import annotations

from collections.abc import Sequence

from edgedsl import charts
from edgedsl.exporters.candidates import Candidate
from edgedsl.exporters.first_round import Contender


def picture(candidates: Sequence[Candidate], chosen: Candidate, beaten: Sequence[Contender] = ()) -> str:
    """HTML page: exact match over the time of a whole answer, and the figures, also of the first round's losers."""
    points = [(candidate.recipe, candidate.e2el_ms, candidate.quality.exact_match) for candidate in candidates]
    chart = charts.scatter_chart(points, x_name="ms an answer (median)", y_name="exact match", marked=chosen.recipe)
    figures = {candidate.recipe: _figures(candidate) for candidate in candidates}
    table = charts.key_table(figures | {contender.recipe: _first_figures(contender) for contender in beaten})
    return charts.page(
        "Quantisation recipes",
        charts.section(f"Served: {chosen.recipe}", chart) + charts.section("Figures", table),
    )


def _figures(candidate: Candidate) -> str:
    changed = candidate.changed_share
    return (
        f"exact match {candidate.quality.exact_match:.1%} of {candidate.quality.num_rows}, "
        f"{candidate.e2el_ms:.1f} ms an answer, {candidate.num_bytes / 2**20:.0f} MiB"
        + (f", drafts change {changed:.1%} of the answers" if changed is not None else "")
        + (f"; {candidate.fidelity}" if candidate.fidelity else "")
    )


def _first_figures(contender: Contender) -> str:
    return (
        f"not measured further: {contender.fidelity}; {contender.num_bytes / 2**20:.0f} MiB; "
        f"{contender.beaten_by} takes the same time and is closer"
    )
