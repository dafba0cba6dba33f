"""edgedsl beside its peers.

``setup`` makes the environment of a peer, ``weights`` merges a project's adapter, ``run`` measures, and ``all`` does
the three for a project that has an adapter and a bundle. The last line of standard output of ``run`` and ``all`` is one
JSON object of the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.bench.command import at_least, exit_code, say, write_result
from edgedsl.bench.peers import environments
from edgedsl.bench.peers.measure import Plan, measure, parse_specs
from edgedsl.bench.peers.specs import PEERS, Spec
from edgedsl.bench.peers.weights import write_weights
from edgedsl.config import PROJECT_FILE, Config, load_config
from edgedsl.errors import ConfigError

DEFAULT_PEERS = {
    "cpu": "llama-cpp,genai,transformers",
    "cuda": "llama-cpp-cuda,genai-cuda,transformers-cuda",
}
QUICK = 20
QUICK_S = 300.0  # of ten minutes; several streams have half of it, loading and building a model take the rest
STREAMS = 8


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: options.action(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgedsl.bench.peers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    setup = commands.add_parser("setup", help="make a peer's environment")
    setup.add_argument("peer", choices=list(PEERS))
    setup.set_defaults(action=_setup)
    weights = commands.add_parser("weights", help="merge a project's adapter into its base model")
    weights.add_argument("--project", type=Path, required=True, help="project folder")
    weights.add_argument("--output", type=Path, required=True, help="folder to write")
    weights.set_defaults(action=_weights)
    run = commands.add_parser("run", help="measure a bundle beside its peers")
    run.add_argument("--bundle", type=Path, required=True, action="append", help="bundle folder; the first is compared")
    run.add_argument("--merged", type=Path, required=True, help="what 'weights' wrote")
    run.add_argument("--pairs", type=Path, required=True, help="pairs to ask")
    run.set_defaults(action=lambda options: _say_last(_measured(options, _plan(options))))
    whole = commands.add_parser("all", help="setup, weights and run")
    whole.add_argument("--project", type=Path, required=True, help="project folder with an adapter and a bundle")
    whole.set_defaults(action=_all)
    for command in (setup, run, whole):
        command.add_argument("--folder", type=Path, required=True, help="of the peers' environments and models")
    for command in (run, whole):
        _add_measurement(command)
    return parser


def _add_measurement(command: argparse.ArgumentParser) -> None:
    features = sorted({feature for peer in PEERS.values() for feature in peer.features})
    command.add_argument(
        "--execution-provider", choices=tuple(DEFAULT_PEERS), default="cpu", help="of edgedsl (default: cpu)"
    )
    command.add_argument(
        "--peers",
        default=None,
        help="with commas; PEER:QUANTIZATION+FEATURE is one setting of a peer, features: "
        f"flat (any name of the catalogue anywhere), {', '.join(features)} (default: {DEFAULT_PEERS['cpu']}; on CUDA "
        f"{DEFAULT_PEERS['cuda']})",
    )
    command.add_argument(
        "--num", type=at_least(1), default=100, help="questions, evenly spaced over the pairs (default: 100)"
    )
    command.add_argument("--quick", action="store_true", help=f"{QUICK} questions, or what fits into {QUICK_S:g} s")
    command.add_argument("--streams", type=at_least(1), default=1, help="that ask at a time (default: 1)")
    command.add_argument("--num-warmup", type=at_least(0), default=3, help="answers of each that are not counted")
    command.add_argument("--max-tokens", type=at_least(1), default=256, help="budget of an answer")
    command.add_argument("--num-threads", type=at_least(0), default=0, help="of each contestant; 0 takes every core")
    command.add_argument("--timeout-s", type=float, default=120.0, help="longest wait for an answer")
    command.add_argument("--output", type=Path, default=None, help="JSON file to write")


def _setup(options: argparse.Namespace) -> None:
    environments.setup(options.peer, options.folder.absolute(), say)


def _weights(options: argparse.Namespace) -> None:
    write_weights(load_config(options.project / PROJECT_FILE), options.output)


def _all(options: argparse.Namespace) -> None:
    """A peer that cannot be set up is left out, and the result says so."""
    config = load_config(options.project / PROJECT_FILE)
    specs, left_out = [], []
    folder = options.folder.absolute()
    for spec in parse_specs(_peers(options)):
        try:
            environments.setup(spec.peer, folder, say)
            specs.append(spec)
        except ConfigError as exc:
            say(f"{spec.peer}: {exc.message}")
            left_out.append(f"{PEERS[spec.peer].label} was left out: its environment could not be made.")
    if not specs:
        raise ConfigError("no peer could be set up", hint=f"see {folder}/*/setup.log")
    options.merged = folder / "weights"
    write_weights(config, options.merged)
    options.bundle = [config.path(config.export.output)]
    options.pairs = config.path(config.data.dev)
    options.output = options.output or _default_output(options, config)
    found = _measured(options, _plan(options, specs, left_out))
    with_slots = [spec for spec in specs if PEERS[spec.peer].has_slots]
    if with_slots and options.streams == 1:
        options.streams = STREAMS
        options.output = options.output.with_name(options.output.name.replace("peers-", f"peers-{STREAMS}-streams-", 1))
        found = {**found, f"{STREAMS} streams": _measured(options, _plan(options, with_slots, left_out))}
    _say_last(found)


def _default_output(options: argparse.Namespace, config: Config) -> Path:
    """Where bench/table.py looks, unless only a few questions were asked."""
    if options.quick:
        return Path(options.folder) / "peers-quick.json"
    facts = machine.fingerprint()
    on_cpu = f"{facts['cpu_model']} {facts['cores']['usable']}c"
    hardware = facts["gpus"][0] if options.execution_provider == "cuda" and facts["gpus"] else on_cpu
    hardware = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    name = re.sub(r"[^a-z0-9]+", "-", config.project.name.lower()).strip("-") or "project"
    return Path("bench/results") / f"peers-{name}_{hardware}_{datetime.now(UTC):%Y%m}.json"


def _plan(options: argparse.Namespace, specs: list[Spec] | None = None, left_out: list[str] | None = None) -> Plan:
    return Plan(
        bundles=options.bundle,
        merged=options.merged,
        pairs=options.pairs,
        specs=specs or parse_specs(_peers(options)),
        folder=options.folder.absolute(),
        num=QUICK if options.quick else options.num,
        num_warmup=options.num_warmup,
        max_tokens=options.max_tokens,
        num_threads=options.num_threads,
        timeout_s=options.timeout_s,
        max_seconds=QUICK_S / (1 + (options.streams > 1)) if options.quick else math.inf,
        num_streams=options.streams,
        execution_provider=options.execution_provider,
        left_out=left_out or [],
    )


def _peers(options: argparse.Namespace) -> str:
    peers: str = options.peers or DEFAULT_PEERS[options.execution_provider]
    return peers


def _say_last(ratios: dict[str, Any]) -> None:
    print(json.dumps(ratios), flush=True)


def _measured(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    if options.output is None:
        raise ConfigError("--output is missing", hint="name the JSON file to write")
    record = measure(plan, _command(options, plan), say)
    write_result(record, options.output)
    found: dict[str, Any] = record["ratios"]
    return found


def _command(options: argparse.Namespace, plan: Plan) -> str:
    words = [f"python -m edgedsl.bench.peers run --pairs {plan.pairs.name} --num {plan.num}"]
    words.append(f"--peers {_peers(options)} --num-threads {plan.num_threads}")
    if plan.execution_provider != "cpu":
        words.append(f"--execution-provider {plan.execution_provider}")
    if plan.num_streams > 1:
        words.append(f"--streams {plan.num_streams}")
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
