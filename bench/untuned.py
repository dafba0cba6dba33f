"""What fine-tuning has to beat: the base model with examples in its prompt, on the pairs of a project.

Run ``python -m edgedsl.bench.untuned --project PROJECT --num-rows N --output FILE``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.bench.command import at_least, run
from edgedsl.config import Config, load_config
from edgedsl.data.pairs import read_pairs, spread
from edgedsl.evaluation.record import busy_caveat, head, load_average

NUM_EXAMPLES = 5


def measure(config: Config, num_rows: int | None, *, offline: bool = False) -> dict[str, Any]:
    """A result of kind "quality": the test pairs, evenly spaced, greedy, with the grammar and without.

    Raises:
        EdgeDSLError: the project's parts cannot be used.
    """
    from edgedsl.evaluation.untuned import measure_untuned

    load = load_average()
    path = config.path(config.data.test)
    every = read_pairs(path)
    pairs = spread(every, num_rows)
    found = measure_untuned(
        config, pairs, num_examples=NUM_EXAMPLES, max_tokens=config.generate.max_tokens, offline=offline
    )
    facts = machine.fingerprint()
    command = f"python -m edgedsl.bench.untuned --num-rows {len(pairs)}"
    row = {
        "bundle": f"{config.project.name}, base model with {NUM_EXAMPLES} examples",
        "rows": len(pairs),
        "exact_match": found["base_exact_match"],
        "parse_rate": found["base_parse_rate"],
        "no_grammar_exact_match": found["base_exact_match_without_grammar"],
        "no_grammar_parse_rate": found["base_parse_rate_without_grammar"],
    }
    return {
        **head(),
        "kind": "quality",
        "title": f"The untuned base model on {config.project.name}",
        "caption": {
            "model": f"{config.project.base_model}, fp32",
            "grammar": f"{config.project.name} ({Path(config.project.grammar).name})",
            "cpu": f"{facts['cpu_model']}, {facts['cores']['usable']} cores",
            "command": command,
        },
        "caveats": [*busy_caveat(load), f"Measured on {len(pairs)} of {len(every)} pairs, evenly spaced."],
        "machine": facts,
        "pairs": {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "load_average": load,
        "rows": [row],
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure the untuned base model with examples in its prompt.")
    parser.add_argument("--project", type=Path, default=Path(), help="project folder or file (default: here)")
    parser.add_argument(
        "--num-rows", type=at_least(1), default=None, help="test pairs to take, evenly spaced (default: all)"
    )
    parser.add_argument("--offline", action="store_true", help="open no connection")
    return run(
        parser, arguments, lambda given: measure(load_config(given.project), given.num_rows, offline=given.offline)
    )


if __name__ == "__main__":
    sys.exit(main())
