"""What a trimmed head saves: tokens that each shipped grammar can reach, and size and time of the product.

Run ``python -m edgedsl.bench.heads --tokenizer FILE --output FILE``. Heads have the shapes of well-known models and
random weights: neither size nor time depends on what is in them.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgedsl.bench.command import at_least, document, run, say
from edgedsl.evaluation.record import load_average
from edgedsl.exporters.head import MAX_SHARE
from edgedsl.exporters.passes.graph import add_weight, save_graph, use_contrib
from edgedsl.exporters.passes.trim_head import trim_head
from edgedsl.exporters.recipes import RECIPES
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.authoring.token_set import TokenSet, open_tokens
from edgedsl.runtime.providers import available_cores

_FLUSH_BYTES = 128 << 20  # read between two calls: a whole model passes through the caches between two of its heads
_WARM_UP = 3
_SHARES = (0.25, 0.5, MAX_SHARE)  # of a vocabulary, beside those of grammars


@dataclass(frozen=True)
class Shape:
    """Of a model's head."""

    name: str
    hidden_size: int
    vocab_size: int


SHAPES = (
    Shape("smollm2-135m", 576, 49_152),
    Shape("gemma3-270m", 640, 262_144),
    Shape("qwen2.5-0.5b", 896, 151_936),
)


def head_graph(shape: Shape) -> ir.Model:
    """A graph of one int8 product with random weights: ``hidden`` fp32 [1, tokens, hidden] -> ``logits``."""
    recipe = RECIPES["int8"]
    assert recipe
    width, rng = recipe.block_size, np.random.default_rng(0)
    num_blocks = shape.hidden_size // width
    dims: list[int | str] = [1, "tokens", shape.hidden_size]
    hidden = ir.Value(name="hidden", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))
    model = ir.Model(ir.Graph([hidden], [], nodes=[], opset_imports={"": 21}, name="head"), ir_version=10)
    arrays = {
        "codes": rng.integers(0, 256, (shape.vocab_size, num_blocks, width), np.uint8),
        "scales": rng.random((shape.vocab_size, num_blocks), np.float32),
        "zero_points": np.full((shape.vocab_size, num_blocks), 128, np.uint8),
    }
    weights = [add_weight(model, name, array) for name, array in arrays.items()]
    attributes = {
        "K": shape.hidden_size, "N": shape.vocab_size, "bits": 8, "block_size": width,
        "accuracy_level": recipe.accuracy_level,
    }  # fmt: skip
    product = ir.node("MatMulNBits", [hidden, *weights], attributes, domain="com.microsoft", name="/lm_head/MatMul")
    logits = product.outputs[0]
    logits.name, logits.shape, logits.type = "logits", ir.Shape([1, "tokens", shape.vocab_size]), hidden.type
    model.graph.append(product)
    model.graph.outputs.append(logits)
    use_contrib(model)
    return model


def measure(shape: Shape, token_ids: NDArray[np.int64] | None, num_calls: int) -> dict[str, Any]:
    """Bytes of a head, and the time of its product for one token and for four.

    Args:
        shape: of the whole head.
        token_ids: that a trimmed one keeps; the time then has what brings the logits back to their places in it.
        num_calls: of each size.
    """
    model = head_graph(shape)
    if token_ids is not None:
        trim_head(model, token_ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        save_graph(model, path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cores()
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        num_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        times = {num: _median_ms(session, shape, num, num_calls) for num in (1, 4)}
    return {"head_bytes": num_bytes, "one_token_ms_p50": times[1], "four_tokens_ms_p50": times[4]}


def _median_ms(session: ort.InferenceSession, shape: Shape, num_tokens: int, num_calls: int) -> float:
    """With inputs and outputs bound once, as the runtime has them."""
    hidden = np.random.default_rng(1).standard_normal((1, num_tokens, shape.hidden_size)).astype(np.float32)
    logits = np.zeros((1, num_tokens, shape.vocab_size), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("hidden", hidden)
    binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
    flushed = np.zeros(_FLUSH_BYTES, np.uint8)
    times = []
    for _ in range(_WARM_UP + num_calls):
        flushed += 1
        started = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[_WARM_UP:])


def reached(name: str, tokens: TokenSet) -> NDArray[np.int64]:
    """The tokens that programs of a grammar can hold; ``name`` of a shipped one, or a path.

    Raises:
        GrammarError: no such grammar, or one that cannot be looked at token by token.
    """
    return tokens.compile(open_language(name).grammar()).reachable


def placed(token_ids: NDArray[np.int64], vocab_size: int, shape: Shape) -> NDArray[np.int64]:
    """The same share of another vocabulary, evenly spread; of the tokenizer's own size, the tokens themselves."""
    return token_ids if shape.vocab_size == vocab_size else _spread(len(token_ids) / vocab_size, shape)


def _spread(share: float, shape: Shape) -> NDArray[np.int64]:
    return np.linspace(0, shape.vocab_size - 1, max(1, round(share * shape.vocab_size))).astype(np.int64)


def rows(found: dict[str, NDArray[np.int64]], vocab_size: int, num_calls: int) -> list[dict[str, Any]]:
    """For each shape the whole head, one trimmed for each grammar for which ``auto`` trims, and some between."""
    lines = []
    for shape in SHAPES:
        heads: dict[str, NDArray[np.int64] | None] = {"whole": None}
        heads |= {
            name: placed(ids, vocab_size, shape) for name, ids in found.items() if len(ids) < MAX_SHARE * vocab_size
        }
        heads |= {f"{share:.0%} of it": _spread(share, shape) for share in _SHARES}
        for name, token_ids in heads.items():
            num_tokens = shape.vocab_size if token_ids is None else len(token_ids)
            lines.append({
                "shape": shape.name, "head": name, "tokens": num_tokens,
                "token_share": num_tokens / shape.vocab_size, **measure(shape, token_ids, num_calls),
            })  # fmt: skip
        say(f"{shape.name}: measured")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure what a trimmed head saves.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a model")
    parser.add_argument("--grammar", action="append", help="name or file; may be repeated (default: all shipped)")
    parser.add_argument("--num-calls", type=at_least(1), default=30, help="calls of each head and size")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    tokens = open_tokens(options.tokenizer)
    path = options.tokenizer / "tokenizer.json" if options.tokenizer.is_dir() else options.tokenizer
    vocab_size = tokens.tokenizer.vocab_size
    names = options.grammar or shipped()
    found = {}
    for name in names:
        found[Path(name).stem] = reached(name, tokens)
        say(f"{name}: {len(found[Path(name).stem]):,} of {vocab_size:,} tokens")
    record = document(
        "heads",
        "Heads trimmed to what a grammar can reach",
        rows(found, vocab_size, options.num_calls),
        load,
        _caveats(vocab_size),
        model="heads in the shape of models, int8, random weights",
        grammar=", ".join(found) if options.grammar else f"{len(found)} shipped",
        cpu=f"{available_cores()} threads",
        command=f"python -m edgedsl.bench.heads --tokenizer FILE --num-calls {options.num_calls}",
    )
    return {
        **record,
        "tokenizer_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "by_grammar": [_reach(name, token_ids, vocab_size) for name, token_ids in found.items()],
    }


def _reach(name: str, token_ids: NDArray[np.int64], vocab_size: int) -> dict[str, Any]:
    share = len(token_ids) / vocab_size
    return {
        "grammar": name, "tokens": len(token_ids), "token_share": share,
        "auto": "trims" if share < MAX_SHARE else "leaves it whole",
    }  # fmt: skip


def _caveats(vocab_size: int) -> list[str]:
    return [
        f"Which tokens a grammar reaches was worked out for one tokenizer of {vocab_size:,} tokens; heads of other "
        "vocabularies have the same share of theirs, evenly spread.",
        "Times are of the product alone, and with a trimmed head of bringing the logits to their places in the "
        f"vocabulary. Before each call {_FLUSH_BYTES >> 20} MiB are written, so that no weight is in a cache.",
    ]


if __name__ == "__main__":
    sys.exit(main())
