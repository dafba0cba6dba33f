"""What ``edgedsl export --quantize auto`` measured on this machine, as a result file: one row for each recipe.

Run ``python -m edgedsl.bench.recipes BUNDLE --output FILE``. The figures are those in the bundle's manifest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedsl.bench.command import document, run
from edgedsl.bundle.manifest import open_bundle
from edgedsl.bundle.schema import Manifest
from edgedsl.errors import DataError
from edgedsl.exporters.quality import HOPS
from edgedsl.runtime.providers import available_cores


def record(manifest: Manifest) -> dict[str, Any]:
    """A result of kind "recipes".

    Raises:
        DataError: the bundle was not exported with ``auto``.
    """
    tried = {name: entry for name, entry in manifest.quality.items() if name not in (*HOPS, "drafted")}
    if not tried:
        raise DataError(
            f"the export of '{manifest.name}' tried one recipe only", hint="run 'edgedsl export --quantize auto'"
        )
    return document(
        "recipes",
        f"What auto measured for {manifest.name}",
        [_row(name, entry, manifest.model.quantization) for name, entry in tried.items()],
        None,  # the export's is not kept
        [
            "Recipes that take the same time are compared by how close they are to fp32 first (likeliest token, "
            "divergence); only the closest goes on."
        ],
        model=manifest.model.base_model,
        grammar=manifest.name,
        cpu=f"{available_cores()} cores",
        command="edgedsl export --quantize auto",
    )


def _row(name: str, entry: Mapping[str, Any], taken: str) -> dict[str, Any]:
    fidelity = entry.get("fidelity") or {}
    return {
        "recipe": name,
        "taken": "yes" if name == taken else f"closer: {entry['beaten_by']}" if "beaten_by" in entry else "no",
        "rows": entry.get("num_rows"),
        "exact_match": entry.get("exact_match"),
        "parse_rate": entry.get("parse_rate"),
        "e2el_ms_p50": entry.get("e2el_ms_p50"),
        "model_bytes": entry["num_bytes"],
        "drafts_change_share": entry.get("drafts_change"),
        "argmax_agreement": fidelity.get("agreement"),
        "mean_kl": fidelity.get("mean_kl"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write what 'export --quantize auto' measured as a result file.")
    parser.add_argument("bundle", type=Path, help="bundle folder")
    return run(parser, arguments, lambda given: record(open_bundle(given.bundle).manifest))


if __name__ == "__main__":
    sys.exit(main())
