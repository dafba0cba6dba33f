"""The promise, counted: random logits on every shipped grammar, and every program is parsed anew.

Run ``python -m edgedsl.bench.generations --tokenizer FILE --n 100000 --output FILE``. No model runs: the logits are
random, of the kinds of edgedsl/grammar/authoring/random_logits.py, greedy and sampled, with budgets from the shortest
program up, in batches of 1, 4 and 8. What a grammar gave is kept beside the output as OUTPUT.GRAMMAR.part; a run that
is started again goes on with the grammars that are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import edgedsl.grammar
from edgedsl import atomic, machine
from edgedsl.bench.command import at_least, exit_code, say, write_result
from edgedsl.errors import GenerationError
from edgedsl.evaluation.record import busy_caveat, head, load_average
from edgedsl.grammar.authoring.fuzz import BATCH_SIZES, Fuzzer
from edgedsl.grammar.authoring.language import open_language, shipped
from edgedsl.grammar.authoring.random_logits import KINDS
from edgedsl.grammar.authoring.token_set import open_tokens

_SUMMED = ("n", "parsed", "over_budget", "invented_names", "errors", "tokens", "distinct")


@dataclass(frozen=True)
class Task:
    """One grammar's share of the generations."""

    grammar: str
    n: int
    seed: int
    tokenizer: Path
    output: Path

    @property
    def part(self) -> Path:
        """Where the result of this grammar is kept."""
        return self.output.with_name(f"{self.output.name}.{self.grammar}.part")

    def identity(self) -> dict[str, Any]:
        """What the result depends on: a part of another version of the code or the grammar is not gone on with."""
        code = sorted(Path(edgedsl.grammar.__file__).parent.rglob("*.py"))
        return {
            "grammar": self.grammar,
            "n": self.n,
            "seed": self.seed,
            "source": _sha256([open_language(self.grammar).grammar().source.encode()]),
            "tokenizer": _sha256([self.tokenizer.read_bytes()]),
            "code": _sha256(path.read_bytes() for path in code),
        }

    def finished(self) -> dict[str, Any] | None:
        """The part of an earlier run, if it is of the same task."""
        try:
            part: dict[str, Any] = json.loads(self.part.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return part if part.get("identity") == self.identity() else None


def run(task: Task) -> dict[str, Any]:
    """Generate, and write the part.

    Raises:
        GrammarError: the grammar does not compile with these tokens.
    """
    identity, language = task.identity(), open_language(task.grammar)
    fuzzer = Fuzzer(language.grammar(), open_tokens(task.tokenizer), language.catalogue, task.seed)
    result = fuzzer.run(task.n)
    part = {
        "identity": identity,
        "result": asdict(result),
        "failures": fuzzer.failures,
        "mask_us": Counter(f"{us:.3g}" for us in fuzzer.mask_us),
    }
    atomic.write_json(task.part, part)
    return part


def run_all(tasks: list[Task], num_processes: int = 1) -> list[dict[str, Any]]:
    """The parts of all tasks, in their order; those that an earlier run finished are only read."""
    parts = {task.grammar: part for task in tasks if (part := task.finished())}
    missing = [task for task in tasks if task.grammar not in parts]
    for name in parts:
        say(f"{name}: finished earlier")
    if num_processes == 1:
        for task in missing:
            parts[task.grammar] = _told(run(task))
    elif missing:
        # spawn: a fork would copy locks that threads of the tokenizer hold.
        with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
            for future in as_completed([pool.submit(run, task) for task in missing]):
                part = _told(future.result())
                parts[part["identity"]["grammar"]] = part
    return [parts[task.grammar] for task in tasks]


def rows(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a grammar, and the total."""
    found = [_row(part["identity"]["grammar"], part["result"], Counter(part["mask_us"])) for part in parts]
    total = {name: sum(part["result"][name] for part in parts) for name in _SUMMED}
    times = sum((Counter(part["mask_us"]) for part in parts), Counter[str]())
    return [*found, _row("all", {**total, "min_budget": None}, times)]


def percentile(times: Counter[str], share: float) -> float | None:
    """The value that a share of the counted times does not exceed; times have three digits."""
    wanted = share * times.total()
    seen = 0
    for value, num in sorted((float(text), num) for text, num in times.items()):
        seen += num
        if seen >= wanted:
            return value
    return None


def _row(name: str, result: dict[str, Any], times: Counter[str]) -> dict[str, Any]:
    shown = ("n", "parsed", "over_budget", "invented_names", "errors", "min_budget", "tokens", "distinct")
    return {
        "grammar": name,
        **{key: result[key] for key in shown},
        "mask_us_p50": percentile(times, 0.5),
        "mask_us_p99": percentile(times, 0.99),
        "mask_us_max": percentile(times, 1.0),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: that of a generation error when a program broke the promise."""
    parser = argparse.ArgumentParser(description="Count programs from random logits that do not parse.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a model")
    parser.add_argument("--n", type=at_least(1), default=100_000, help="generations, split evenly over the grammars")
    parser.add_argument("--grammar", action="append", choices=shipped(), help="only this one; may be repeated")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the logits")
    parser.add_argument("--num-processes", type=at_least(1), default=1, help="grammars that run at once")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    record = _record(options)
    write_result(record, options.output)
    broken = [f"{part['identity']['grammar']}: {line}" for part in record["parts"] for line in part["failures"]]
    for line in broken:
        say(f"failed: {line}")
    if broken:
        raise GenerationError(f"{len(broken)} programs broke the promise")


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    names = options.grammar or shipped()
    share, rest = divmod(options.n, len(names))
    tokenizer = options.tokenizer / "tokenizer.json" if options.tokenizer.is_dir() else options.tokenizer
    tokens = open_tokens(tokenizer)  # before any process is started: a bad file is one message
    tasks = [
        Task(name, share + (number < rest), options.seed, tokenizer, options.output)
        for number, name in enumerate(names)
    ]
    parts = run_all(tasks, options.num_processes)
    facts = machine.fingerprint()
    command = f"python -m edgedsl.bench.generations --tokenizer FILE --n {options.n} --seed {options.seed}"
    return {
        **head(),
        "kind": "generations",
        "title": "Random logits on every shipped grammar: do all programs parse",
        "caption": {
            "model": f"none, a tokenizer of {tokens.tokenizer.vocab_size:,} tokens",
            "grammar": f"{len(names)} shipped",
            "cpu": f"{facts['cpu_model']}, {facts['cores']['usable']} cores",
            "command": command,
        },
        "caveats": [*_caveats(options.num_processes), *busy_caveat(load)],
        "machine": facts,
        "parts": [{name: part[name] for name in ("identity", "failures")} for part in parts],
        "rows": rows(parts),
    }


def _caveats(num_processes: int) -> list[str]:
    sizes = ", ".join(map(str, BATCH_SIZES))
    return [
        f"Logits are random, of {len(KINDS)} kinds; greedy and sampled; batches of {sizes}; budgets from the shortest "
        "program of a grammar (min budget) to 89 tokens more.",
        "Times are of mask and budget check of one token, caches cold at the start of each grammar, "
        f"{num_processes} processes at once.",
    ]


def _told(part: dict[str, Any]) -> dict[str, Any]:
    result = part["result"]
    say(f"{part['identity']['grammar']}: {result['parsed']} of {result['n']} parse")
    return part


def _sha256(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
