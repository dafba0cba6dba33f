"""What a bundle costs before its first program, and what its server holds in memory.

Run ``python -m edgedsl.bench.startup --bundle BUNDLE --output FILE``; several bundles take turns. Each load is that of
a new process, with the files in the page cache; imports are not in it. The server is ``edgedsl serve``, asked one
sentence after the other.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from edgedsl.bench.command import add_threads, at_least, document, run, say
from edgedsl.bench.memory import resident_bytes
from edgedsl.bench.prompts import bundled_prompts
from edgedsl.bundle.manifest import open_bundle
from edgedsl.errors import GenerationError
from edgedsl.evaluation.record import load_average
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams

_MAX_TOKENS = 256
_TIMEOUT_S = 120.0


def first_program(bundle: Path, sentence: str, num_threads: int) -> tuple[float, float]:
    """Milliseconds of a load, and of the first program after it; to be asked in a new process."""
    started = time.perf_counter()
    engine = Engine.from_bundle(bundle, num_threads=num_threads)
    loaded = time.perf_counter()
    engine.generate(sentence, SamplingParams(max_tokens=_MAX_TOKENS))
    return 1000 * (loaded - started), 1000 * (time.perf_counter() - loaded)


def measure_loads(
    bundles: Sequence[Path], sentences: Sequence[str], num_loads: int, num_threads: int
) -> list[dict[str, float]]:
    """Medians for each bundle, which take turns; one load of each before is not counted.

    Args:
        bundles: folders.
        sentences: the first one that each bundle is asked.
        num_loads: of each.
        num_threads: of a model call; 0 takes every core.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in bundles]
    new = multiprocessing.get_context("spawn")
    for turn in range(num_loads + 1):
        for bundle, sentence, found in zip(bundles, sentences, times, strict=True):
            with new.Pool(1) as process:
                found.append(process.apply(first_program, (bundle, sentence, num_threads)))
            say(f"{bundle.name}, load {turn}: {found[-1][0]:.0f} ms, first program {found[-1][1]:.0f} ms")
    return [
        {
            "load_ms_p50": round(statistics.median(load for load, _ in counted), 1),
            "first_program_ms_p50": round(statistics.median(program for _, program in counted), 1),
            "load_to_program_ms_p50": round(statistics.median(map(sum, counted)), 1),
        }
        for _, *counted in times
    ]


def served_bytes(bundle: Path, sentences: Sequence[str]) -> int | None:
    """Resident memory of a server once it has answered; None where the system does not tell.

    Raises:
        GenerationError: the server does not start or refuses a sentence.
    """
    with _server(bundle) as (server, url):
        _wait_until_ready(url)
        for sentence in sentences:
            body = {"model": open_bundle(bundle, leaves_weights=True).manifest.name, "max_tokens": _MAX_TOKENS}
            _ask(f"{url}/v1/chat/completions", {**body, "messages": [{"role": "user", "content": sentence}]})
        return resident_bytes(server.pid)


@contextmanager
def _server(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "edgedsl", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            address = re.search(r"http://[^/\s]+", line)
            if not address:
                raise GenerationError(f"the server of '{bundle}' did not start: {line.strip()}")
            yield server, address[0]
        finally:
            server.kill()


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        try:
            with urlopen(f"{url}/health/ready", timeout=_TIMEOUT_S):
                return
        except HTTPError as exc:
            exc.close()
            time.sleep(0.1)
    raise GenerationError(f"the server was not ready in {_TIMEOUT_S:g} s")


def _ask(url: str, body: dict[str, Any]) -> None:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            answer.read()
    except HTTPError as exc:
        with exc:
            raise GenerationError(f"the server answered {exc.code}: {exc.read().decode()}") from exc


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure loads, first programs and a server's memory.")
    parser.add_argument("--bundle", type=Path, required=True, action="append", help="bundle folder; may be repeated")
    parser.add_argument("--num-loads", type=at_least(1), default=9, help="new processes for each bundle")
    parser.add_argument("--num-answers", type=at_least(1), default=40, help="that a server has given when it is read")
    add_threads(parser)
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    manifests = [open_bundle(bundle, leaves_weights=True).manifest for bundle in options.bundle]
    sentences = [[row.prompt for row in bundled_prompts(bundle)][: options.num_answers] for bundle in options.bundle]
    loads = measure_loads(options.bundle, [asked[0] for asked in sentences], options.num_loads, options.num_threads)
    rows = [
        {
            "bundle": manifest.name,
            "recipe": manifest.model.quantization,
            "loads": options.num_loads,
            **times,
            "answers": len(asked),
            "served_bytes": served_bytes(bundle, asked),
        }
        for bundle, manifest, asked, times in zip(options.bundle, manifests, sentences, loads, strict=True)
    ]
    return document(
        "startup",
        "Load, first program and memory of a server",
        rows,
        load,
        [
            "A load is that of a new process, files in the page cache, imports not counted; medians.",
            "Served: resident memory of 'edgedsl serve' after that many answers, mapped weights included.",
        ],
        model=", ".join(sorted({f"{m.model.base_model}, {m.model.quantization}" for m in manifests})),
        grammar=", ".join(dict.fromkeys(manifest.name for manifest in manifests)),
        cpu=f"{options.num_threads or 'all'} cores",
        command=f"python -m edgedsl.bench.startup --num-loads {options.num_loads} --num-answers {options.num_answers}",
    )


if __name__ == "__main__":
    sys.exit(main())
