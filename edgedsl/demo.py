"""``edgedsl demo``: the main job end to end on the sample language, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedsl.config import Config, load_config, override
from edgedsl.data.baseline import NearestNeighbour
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.errors import ConfigError
from edgedsl.evaluation import refusals
from edgedsl.evaluation.metrics import exact_match, parse_rate
from edgedsl.project import REFUSALS, write_project
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion

Say = Callable[[str], None]
NUM_SHOWN = 5
MAX_TOKENS = 96


@dataclass(frozen=True)
class DemoSizes:
    """How much is trained and measured; the defaults fit into a quarter of an hour on 2 cores."""

    train_rows: int = 3000
    test_rows: int = 200
    base_rows: int = 12
    unconstrained_rows: int = 40
    export_rows: int = 48
    eval_rows: int = 16
    refusal_rows: int = 120


def run_demo(
    folder: Path, sizes: DemoSizes = DemoSizes(), *, offline: bool = False, say: Say = lambda _: None
) -> dict[str, Any]:
    """Write the sample project into ``folder``, fine-tune, export, generate and measure.

    What an earlier run finished is kept.

    Returns:
        Plain data: ``exact_match``, ``base_exact_match``, ``nearest_neighbour_exact_match``, ``parse_rate``,
        ``parse_rate_without_grammar``, ``refusals`` (:func:`edgedsl.evaluation.refusals.measure`), ``tokens_per_s``,
        ``ttft_ms``, ``seconds`` and the figures beside them.

    Raises:
        EdgeDSLError: whatever a step raises.
    """
    from edgedsl.evaluation.untuned import measure_untuned
    from edgedsl.exporters.pipeline import export
    from edgedsl.training.run import train

    started = time.perf_counter()
    config = _project(folder, sizes, say)
    test = spread(read_pairs(config.path(config.data.test)), sizes.test_rows)
    say(f"[1/5] base model {config.project.base_model}, untuned, five examples in the prompt")
    base = measure_untuned(config, spread(test, sizes.base_rows), max_tokens=MAX_TOKENS // 2, offline=offline)
    say("[2/5] fine-tune")
    train(config, resume=True, offline=offline)
    say("[3/5] export")
    export(config, offline=offline, say=say)
    say("[4/5] generate")
    engine = Engine.from_bundle(config.path(config.export.output))
    tuned = _measure_tuned(engine, test, _to_refuse(config, sizes.refusal_rows), sizes.unconstrained_rows)
    neighbour = NearestNeighbour(read_pairs(config.path(config.data.train)))
    nearest = exact_match([neighbour.predict(pair.prompt) for pair in test], [pair.target for pair in test])
    say("[5/5] done")
    return {
        **tuned,
        **base,
        "base_rows": min(sizes.base_rows, len(test)),
        "nearest_neighbour_exact_match": nearest,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _project(folder: Path, sizes: DemoSizes, say: Say) -> Config:
    if not (folder / "edgedsl.toml").exists():
        write_project(folder, num_train=sizes.train_rows)
        say(f"wrote the sample project to {folder}")
    config = load_config(folder)
    if len(read_pairs(config.path(config.data.train))) != sizes.train_rows:
        raise ConfigError(
            f"'{folder}' holds a demo of another size", hint=f"remove '{folder}', or give another --output"
        )
    # Evaluated once, at the end: one pass has no checkpoint that is better than its last.
    config = override(config, "train", {
        "num_epochs": 1.0,
        "eval_every": math.ceil(sizes.train_rows / config.train.batch_size),
        "eval_rows": sizes.eval_rows,
        "eval_loss_rows": 6 * sizes.eval_rows,
    })  # fmt: skip
    config = override(config, "export", {"eval_rows": sizes.export_rows})
    return override(config, "generate", {"max_tokens": MAX_TOKENS})


def _to_refuse(config: Config, num_rows: int) -> list[Pair]:
    path = config.root / REFUSALS
    return spread(read_pairs(path), num_rows) if path.exists() else []


def _measure_tuned(
    engine: Engine, pairs: Sequence[Pair], to_refuse: Sequence[Pair], unconstrained_rows: int
) -> dict[str, Any]:
    params = SamplingParams(max_tokens=MAX_TOKENS)
    engine.generate(pairs[0].prompt, params)  # warm up
    started = time.perf_counter()
    completions = [engine.generate(pair.prompt, params) for pair in pairs]
    seconds = time.perf_counter() - started
    sample = spread(pairs, unconstrained_rows)
    free = [engine.generate(pair.prompt, params, constrained=False).text for pair in sample]
    refused = [engine.generate(pair.prompt, params).text for pair in to_refuse]
    texts = [completion.text for completion in completions]
    bound = {pair.source: text for pair, text in zip(pairs, texts, strict=True)}
    return {
        "exact_match": exact_match(texts, [pair.target for pair in pairs]),
        "exact_match_without_grammar": exact_match(free, [pair.target for pair in sample]),
        "exact_match_same_rows": exact_match([bound[pair.source] for pair in sample], [pair.target for pair in sample]),
        "rows": len(pairs),
        "rows_without_grammar": len(sample),
        "parse_rate": parse_rate(texts, engine.grammar),
        "parse_rate_without_grammar": parse_rate(free, engine.grammar),
        "refusals": refusals.measure(engine.grammar, [*pairs, *to_refuse], [*texts, *refused]),
        "truncated": sum(completion.finish_reason == "length" for completion in completions),
        **_speed(completions, seconds),
        "examples": [{"sentence": pair.prompt, "program": bound[pair.source]} for pair in spread(pairs, NUM_SHOWN)],
    }


def _speed(completions: Sequence[Completion], seconds: float) -> dict[str, Any]:
    def percentile(values: Sequence[float], q: float) -> float:
        return round(float(np.percentile(values, q)), 2)

    return {
        "tokens_per_s": round(sum(c.completion_tokens for c in completions) / seconds, 1),
        "programs_per_s": round(len(completions) / seconds, 2),
        "ttft_ms": percentile([c.timings.ttft_ms for c in completions], 50),
        "tpot_ms": percentile([c.timings.tpot_ms for c in completions], 50),
        "e2el_ms_p50": percentile([c.timings.e2el_ms for c in completions], 50),
        "e2el_ms_p95": percentile([c.timings.e2el_ms for c in completions], 95),
    }
