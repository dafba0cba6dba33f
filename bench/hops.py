"""What each hop of an export kept, as a result file: adapter -> merged -> ONNX fp32 -> quantised.

Run ``python -m edgedsl.bench.hops BUNDLE [BUNDLE ...] --output FILE``. The figures are those that the export
measured and wrote into the manifest.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl._version import __version__
from edgedsl.bench.command import run
from edgedsl.bundle.manifest import open_bundle
from edgedsl.bundle.schema import Manifest
from edgedsl.errors import DataError
from edgedsl.evaluation.record import RESULT_SCHEMA
from edgedsl.exporters.quality import HOPS

_PARITY = ("argmax_agreement", "flips", "near_tie_flips", "mean_difference", "max_difference")


def record(manifests: list[Manifest]) -> dict[str, Any]:
    """A result of kind "hops": a row for each hop of each bundle.

    Raises:
        DataError: bundles of different languages, or one whose export measured nothing.
    """
    names = sorted({manifest.name for manifest in manifests})
    if len(names) != 1:
        raise DataError(f"the bundles are of {', '.join(names)}, expected one language", hint="a file for each")
    rows = [row for manifest in manifests for row in _rows(manifest)]
    if not rows:
        raise DataError(f"the export of '{names[0]}' measured nothing", hint="export again without --smoke")
    facts = machine.fingerprint()
    return {
        "schema": RESULT_SCHEMA,
        "edgedsl_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": "hops",
        "title": f"What the export of {names[0]} kept",
        "caption": {
            "model": manifests[0].model.base_model,
            "grammar": names[0],
            "cpu": f"{facts['cpu_model']}, {facts['cores']['usable']} cores",
            "command": "edgedsl export",
        },
        "caveats": ["Differences are between the logits of a hop and those of the hop before it."],
        "machine": facts,
        "rows": rows,
    }


def _rows(manifest: Manifest) -> list[dict[str, Any]]:
    """The hops of the recipe that is served, then the recipes that ``auto`` measured and did not take."""
    served = manifest.model.quantization
    rows = []
    for name, measured in manifest.quality.items():
        is_loser = name not in (*HOPS, "drafted")
        if name == served or "exact_match" not in measured:  # told by "quantized"; never decoded
            continue
        parity = manifest.parity.get(name, {})
        rows.append(
            {
                "recipe": name if is_loser else served,
                "hop": "quantized" if is_loser else name,
                "rows": measured["num_rows"],
                "exact_match": measured["exact_match"],
                "parse_rate": measured["parse_rate"],
                **{figure: parity.get(figure) for figure in _PARITY},
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write what the exports of a language kept as a result file.")
    parser.add_argument("bundles", type=Path, nargs="+", help="bundle folders of one language")
    return run(parser, arguments, lambda given: record([open_bundle(path).manifest for path in given.bundles]))


if __name__ == "__main__":
    sys.exit(main())
