"""Where the time of a model call goes, by operator: what limits speed.

Run ``python -m edgedsl.bench.operators --bundle BUNDLE --output FILE``. ONNX Runtime's own profiler tells, which costs
a few per cent of a call. In a call of many tokens nothing but arithmetic limits the products.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx
import onnxruntime as ort

from edgedsl.bench.command import add_threads, document, run
from edgedsl.bundle.manifest import open_bundle
from edgedsl.errors import BundleError
from edgedsl.evaluation.record import load_average
from edgedsl.runtime.decoder import Decoder

SIZES = (1, 2, 4, 8, 16, 32, 128)  # tokens of a call
_NUM_CALLS, _WARM_UP = 30, 5
_NUM_NAMED = 4  # operators with a column of their own
_HEAD = "lm_head"


@dataclass
class Call:
    """One call of the model: microseconds of it, of each operator, and of the products without the head."""

    us: float
    operators: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    products_us: float = 0.0


def measure(bundle: Path, num_threads: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of the table, one for each size.

    Raises:
        BundleError: not a bundle, or one whose cache takes no token back.
    """
    opened = open_bundle(bundle)
    path, info = opened.path / "model.onnx", opened.manifest.model
    if info.kv_layout != "shared":
        raise BundleError(f"'{bundle}' has a cache that grows", hint="export it with '--graph fused'")
    products = multiplications(path)
    with tempfile.TemporaryDirectory() as folder:
        with _profiled(Path(folder) / "calls"):
            decoder = Decoder(path, info, num_threads=num_threads)
        for size in sizes:
            for _ in range(_WARM_UP + _NUM_CALLS):
                decoder.reset()
                decoder.forward([1] * size)
        calls = read_profile(Path(decoder.session.end_profiling()), products)
    turns = _WARM_UP + _NUM_CALLS
    by_size = {size: calls[n * turns + _WARM_UP : (n + 1) * turns] for n, size in enumerate(sizes)}
    return _table(by_size, sum(number for name, number in products.items() if _HEAD not in name))


def multiplications(path: Path) -> dict[str, int]:
    """Name of each product with a weight -> multiplications of one row; ``path`` is that of model.onnx."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    found = {}
    for node in graph.node:
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            found[node.name] = sizes["K"] * sizes["N"]
        elif node.op_type in ("MatMul", "MatMulIntegerToFloat") and len(shapes.get(node.input[1], ())) == 2:
            found[node.name] = math.prod(shapes[node.input[1]])
    return found


def read_profile(path: Path, products: Iterable[str]) -> list[Call]:
    """The calls in a profile that ONNX Runtime wrote, in their order."""
    calls: list[Call] = []
    nodes: list[Mapping[str, Any]] = []
    names = {name for name in products if _HEAD not in name}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            nodes.append(event)
        elif event["name"] == "model_run":  # written when it ends, after its nodes
            call = Call(event["dur"])
            for node in nodes:
                call.operators[node["args"]["op_name"]] += node["dur"]
                if node["name"].removesuffix("_kernel_time") in names:
                    call.products_us += node["dur"]
            calls.append(call)
            nodes = []
    return calls


def _table(by_size: Mapping[int, Sequence[Call]], num_multiplied: int) -> list[dict[str, Any]]:
    shares = {size: _shares(calls) for size, calls in by_size.items()}
    totals: dict[str, float] = defaultdict(float)
    for found in shares.values():
        for name, share in found.items():
            totals[name] += share
    named = sorted(totals, key=totals.__getitem__, reverse=True)[:_NUM_NAMED]
    return [_row(size, calls, shares[size], named, num_multiplied) for size, calls in by_size.items()]


def _shares(calls: Sequence[Call]) -> dict[str, float]:
    """Operator -> its share of a call's time, the median."""
    names = {name for call in calls for name in call.operators}
    return {name: statistics.median(call.operators[name] / call.us for call in calls) for name in names}


def _row(
    size: int, calls: Sequence[Call], shares: Mapping[str, float], named: Sequence[str], num_multiplied: int
) -> dict[str, Any]:
    products_us = statistics.median(call.products_us for call in calls)
    return {
        "tokens": size,
        "call_ms_p50": round(statistics.median(call.us for call in calls) / 1000, 2),
        **{f"{name}_share": round(shares.get(name, 0.0), 3) for name in named},
        "other_share": round(1 - sum(shares.get(name, 0.0) for name in named), 3),
        "product_gmac_s": round(num_multiplied * size / products_us / 1000, 1),
    }


def _profiled(prefix: Path) -> Any:
    """Sessions that are made meanwhile write a profile."""
    made = ort.SessionOptions

    def options() -> ort.SessionOptions:
        found = made()
        found.enable_profiling = True
        found.profile_file_prefix = str(prefix)
        return found

    return patch.object(ort, "SessionOptions", options)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure where the time of a model call goes.")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    add_threads(parser)
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    manifest = open_bundle(options.bundle, leaves_weights=True).manifest
    return document(
        "operators",
        f"Where a model call's time goes, {manifest.name}",
        measure(options.bundle, options.num_threads, SIZES),
        load,
        [
            "Shares of a call's time, by ONNX Runtime's profiler; other: other operators and what lies between.",
            "GMAC/s: billions of multiplications a second of the products with weights, without the head.",
        ],
        model=f"{manifest.model.base_model}, {manifest.model.quantization}",
        grammar="none",
        cpu=f"{options.num_threads or 'all'} cores",
        command="python -m edgedsl.bench.operators --bundle BUNDLE",
    )


if __name__ == "__main__":
    sys.exit(main())
