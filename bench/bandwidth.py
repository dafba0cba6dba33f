"""How much of the machine's memory bandwidth a step of one token uses: a small model's speed limit.

Run ``python -m edgedsl.bench.bandwidth --output FILE``. The models have random weights in the shapes of real ones, on
which alone speed depends. A step reads every weight once, but for the embedding, of which it reads a row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgedsl.bench import shapes
from edgedsl.bench.command import at_least, document, run, say
from edgedsl.evaluation.record import load_average
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.providers import available_cores

RECIPES = ("w8a8", "int8", "int4-rtn")
_CONTEXT, _PAST = 256, 32
_READ_BYTES, _NUM_READS = 1 << 30, 2
_NUM_ROUNDS, _NUM_STEPS = 7, 8


def read_bandwidth(num_threads: int, num_bytes: int = _READ_BYTES) -> float:
    """Bytes a second that so many threads read from memory together, the best of a few times."""
    array = np.ones(num_bytes // 8)
    parts = np.array_split(array, num_threads)
    best = 0.0
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in range(_NUM_READS):
            started = time.perf_counter()
            list(threads.map(np.max, parts))
            best = max(best, array.nbytes / (time.perf_counter() - started))
    return best


def measure(shape: str, recipe: str, num_threads: int, num_steps: int = _NUM_STEPS) -> dict[str, Any]:
    """One row of the table: medians of rounds, each with the machine's bandwidth and steps of one token after it.

    A machine that others use has another bandwidth a minute later.
    """
    with tempfile.TemporaryDirectory() as folder:
        info = shapes.write_random(shapes.shape(shape), recipe, Path(folder), _CONTEXT)
        path = Path(folder) / "model.onnx"
        num_bytes = bytes_read(path)
        decoder = Decoder(path, info, num_threads=num_threads)
        decoder.forward([0] * _PAST)
        limits, steps = zip(
            *((read_bandwidth(num_threads), _step_s(decoder, num_steps)) for _ in range(_NUM_ROUNDS)), strict=True
        )
    shares = [num_bytes / step / limit for limit, step in zip(limits, steps, strict=True)]
    step = statistics.median(steps)
    return {
        "shape": shape,
        "recipe": recipe,
        "num_bytes": num_bytes,
        "step_ms_p50": round(1000 * step, 2),
        "read_gb_s": round(num_bytes / step / 1e9, 2),
        "machine_gb_s": round(statistics.median(limits) / 1e9, 2),
        "bandwidth_share": round(statistics.median(shares), 4),
    }


def _step_s(decoder: Decoder, num_steps: int) -> float:
    """Median seconds of a step of one token."""
    seconds = []
    for _ in range(num_steps):
        decoder.truncate(_PAST)
        started = time.perf_counter()
        decoder.forward([0])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def bytes_read(path: Path) -> int:
    """Of a graph's weights, those that a step of one token reads: all but the embedding."""
    graph = onnx.load(path, load_external_data=False).graph
    embedding = {name for node in graph.node if "embed_tokens" in node.name for name in node.input}
    return sum(_size(weight) for weight in graph.initializer if weight.name not in embedding)


def _size(weight: onnx.TensorProto) -> int:
    places = {entry.key: entry.value for entry in weight.external_data}
    return int(places["length"]) if places else len(weight.raw_data)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure how much of the memory bandwidth a step uses.")
    parser.add_argument("--shape", action="append", choices=shapes.NAMES, help="may be repeated (default: all)")
    parser.add_argument("--num-threads", type=at_least(0), default=0, help="of a step; 0 takes every core")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load, num_threads = load_average(), options.num_threads or available_cores()
    rows = []
    for shape in options.shape or shapes.NAMES:
        for recipe in RECIPES:
            row = measure(shape, recipe, num_threads)
            rows.append(row)
            say(f"{shape} {recipe}: {row['step_ms_p50']} ms, {row['bandwidth_share']:.0%} of the bandwidth")
    return document(
        "bandwidth",
        "Memory bandwidth used by a step of one token",
        rows,
        load,
        model="random weights in these shapes, fused graph, head 8 bits",
        grammar="none",
        cpu=f"{num_threads} threads",
        command="python -m edgedsl.bench.bandwidth",
    )


if __name__ == "__main__":
    sys.exit(main())
