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
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from edgedsl import machine
from edgedsl.bench.command import at_least, run, say
from edgedsl.bundle.manifest import ModelInfo
from edgedsl.evaluation.record import busy_caveat, head, load_average
from edgedsl.exporters.blockwise import Recipe
from edgedsl.exporters.fused.exporter import FusedExporter
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.quantize import quantize_model
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.providers import available_cores

SHAPES: dict[str, Any] = {
    "smollm2-135m": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
}
RECIPES = {"int8": Recipe(bits=8), "int4": Recipe(bits=4, high_bits_for=("lm_head", "embed_tokens"))}
_CONTEXT, _PAST = 256, 32
_READ_BYTES, _NUM_READS, _NUM_STEPS = 1 << 30, 5, 40


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
    """One row of the table, without the machine's bandwidth: median of a step of one token, and what it reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        num_bytes = _write(SHAPES[shape], RECIPES[recipe], path)
        decoder = Decoder(path, _info(SHAPES[shape]), num_threads=num_threads)
        decoder.forward([0] * _PAST)
        seconds = []
        for _ in range(num_steps):
            decoder.truncate(_PAST)
            started = time.perf_counter()
            decoder.forward([0])
            seconds.append(time.perf_counter() - started)
    step = statistics.median(seconds)
    return {
        "shape": shape,
        "recipe": recipe,
        "num_bytes": num_bytes,
        "step_ms_p50": round(1000 * step, 2),
        "read_gb_s": round(num_bytes / step / 1e9, 2),
    }


def _write(config: Any, recipe: Recipe, path: Path) -> int:
    """Write a random model; returns the bytes that a step reads of it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    graph = onnx.load(FusedExporter().export(model, path.parent, context_length=_CONTEXT).path)
    del model
    quantize_model(graph, recipe)
    embedding = next(node for node in graph.graph.node if "embed_tokens" in node.name)
    skipped = set(embedding.input)
    used = [weight for weight in graph.graph.initializer if weight.name not in skipped]
    num_bytes = sum(len(weight.raw_data) for weight in used)
    save_graph(graph, path)
    return num_bytes


def _info(config: Any) -> ModelInfo:
    return ModelInfo(
        architecture=config.model_type,
        base_model="random",
        base_sha256="",
        adapter_sha256="",
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        context_length=_CONTEXT,
        kv_layout="shared",
        quantization="none",
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure how much of the memory bandwidth a step uses.")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be repeated (default: all)")
    parser.add_argument("--num-threads", type=at_least(0), default=0, help="of a step; 0 takes every core")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load, facts, num_threads = load_average(), machine.fingerprint(), options.num_threads or available_cores()
    limit = read_bandwidth(num_threads)
    rows = []
    for shape in options.shape or SHAPES:
        for recipe in RECIPES:
            row = measure(shape, recipe, num_threads)
            share = row["read_gb_s"] * 1e9 / limit
            rows.append({**row, "machine_gb_s": round(limit / 1e9, 2), "bandwidth_share": round(share, 4)})
            say(f"{shape} {recipe}: {row['step_ms_p50']} ms, {share:.0%} of the bandwidth")
    return {
        **head(),
        "kind": "bandwidth",
        "title": "Memory bandwidth used by a step of one token",
        "caption": {
            "model": "random weights in these shapes, fused graph, head 8 bits",
            "grammar": "none",
            "cpu": f"{facts['cpu_model']}, {num_threads} threads",
            "command": "python -m edgedsl.bench.bandwidth",
        },
        "caveats": busy_caveat(load),
        "load_average": load,
        "machine": facts,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
