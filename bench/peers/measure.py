"""A bundle and its peers, measured: questions, contestants, and the record of a result."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.bench.gbnf import from_grammar, from_lark
from edgedsl.bench.peers import environments, models
from edgedsl.bench.peers.contest import PAUSE_S, ROUNDS, Entrant, Judge, Question, contest, contest_of_streams
from edgedsl.bench.peers.process import WorkerProcess
from edgedsl.bench.peers.specs import FLAT_ALLOWS, GBNF, PEERS, Spec, log_of, python_of
from edgedsl.bench.peers.table_rows import failures, ratios, rows
from edgedsl.bench.peers.weights import check_same, read_weights
from edgedsl.bundle.manifest import Bundle, open_bundle
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.errors import ConfigError, EdgeDSLError, GenerationError
from edgedsl.evaluation.record import busy_caveat, check_answered, head, load_average
from edgedsl.grammar import Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer

OWN = Path(__file__).with_name("edgedsl_peer.py")
Say = Callable[[str], None]
_GRAMMAR_KEYS = ("lark", "gbnf")
_PATH_KEYS = ("model", "merged")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        bundles: of the same weights; the peers are compared with the first.
        merged: folder of :mod:`weights`.
        folder: of the peers' environments and models.
        num: questions, evenly spaced over the pairs.
        max_seconds: no further question is asked after that.
        num_streams: that ask at a time.
        execution_provider: of edgedsl.
        left_out: why a peer that was asked for does not take part.
    """

    bundles: Sequence[Path]
    merged: Path
    pairs: Path
    specs: Sequence[Spec]
    folder: Path
    num: int = 100
    num_warmup: int = 3
    max_tokens: int = 256
    num_threads: int = 0
    timeout_s: float = 120.0
    max_seconds: float = math.inf
    num_streams: int = 1
    execution_provider: str = "cpu"
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Language:
    """What all contestants share beside the weights."""

    grammar: Grammar
    tokenizer: Tokenizer
    template: PromptTemplate

    @classmethod
    def of(cls, bundle: Bundle) -> Language:
        """Of a bundle."""
        catalogue = bundle.path / "catalogue.json"
        return cls(
            Grammar.from_files(bundle.path / "grammar.lark", catalogue if catalogue.exists() else None),
            Tokenizer.from_file(bundle.path / "tokenizer.json"),
            PromptTemplate.from_file(bundle.path / "prompt.json"),
        )

    def source(self, spec: Spec) -> str:
        """The grammar as a contestant reads it.

        Raises:
            GrammarError: it cannot be said in the contestant's notation.
        """
        if PEERS[spec.peer].notation == GBNF:
            return from_lark(self.grammar.lark) if spec.is_flat else from_grammar(self.grammar)
        return self.grammar.source if spec.is_flat else self.grammar.scoped_source()

    def questions(self, pairs: Sequence[Pair]) -> list[Question]:
        """The pairs as questions."""
        encode = self.tokenizer.encode_prompt
        return [Question(p.prompt, tuple(encode(self.template, p.prompt)), p.target) for p in pairs]


def measure(plan: Plan, command: str, say: Say = lambda _: None) -> dict[str, Any]:
    """Build what is missing, let all answer, and make the record.

    Raises:
        ConfigError: an environment or the merged weights are missing, or the bundle is of other weights.
        GenerationError: edgedsl answered nothing.
    """
    load = load_average()
    bundles = [open_bundle(path) for path in plan.bundles]
    weights = read_weights(plan.merged)
    for bundle in bundles:
        check_same(weights, bundle.manifest)
    for spec in plan.specs:
        environments.check(spec.peer, plan.folder)
    language = Language.of(bundles[0])
    questions = language.questions(spread(read_pairs(plan.pairs), plan.num))
    num_threads = plan.num_threads or machine.cores()["usable"]
    own = [_own_entrant(bundle, num_threads, plan) for bundle in bundles]
    judge = Judge(language.grammar, language.tokenizer)
    others = [_peer_entrant(spec, language, plan, num_threads, bundles[0], say) for spec in plan.specs]
    entrants = [*own, *others]
    try:
        for entrant in entrants:
            say(f"{entrant.label}: loading")
            entrant.open()
        differing = _tokenizer_notes(others, questions, language.tokenizer)
        compete = (
            partial(contest_of_streams, num_streams=plan.num_streams)
            if plan.num_streams > 1
            else partial(contest, num_warmup=plan.num_warmup)
        )
        compete(entrants, questions, judge, max_tokens=plan.max_tokens, max_seconds=plan.max_seconds)
    finally:
        for entrant in entrants:
            entrant.close()
    num_asked = len(own[0].answers)
    check_answered(num_asked, [answer.error for answer in own[0].answers if answer.error is not None])
    names = ["edgedsl"] * len(own) + [spec.peer for spec in plan.specs]
    facts = machine.fingerprint()
    return {
        **head(),
        "kind": "peers",
        "title": f"{bundles[0].manifest.name} beside its peers, {_streams(plan)}",
        "caption": {
            "model": f"{weights.base_model}, adapter {weights.adapter_sha256[:12]}",
            "grammar": language.grammar.name,
            "cpu": ", ".join([*gpus_of(plan, facts), facts["cpu_model"], f"{num_threads} threads"]),
            "command": command,
        },
        "caveats": [*_caveats(plan, num_asked, len(questions)), *differing, *failures(entrants), *busy_caveat(load)],
        "machine": facts,
        "load_average": load,
        "rows": rows(entrants),
        "ratios": ratios(entrants, names),
        "contestants": {entrant.label: _about(entrant) for entrant in entrants},
        "build": {name: environments.stamp(name, plan.folder) for name in {spec.peer for spec in plan.specs}},
    }


def gpus_of(plan: Plan, facts: Mapping[str, Any]) -> list[str]:
    """Names of the GPUs, where one takes part."""
    is_used = "cuda" in {plan.execution_provider, *(PEERS[spec.peer].device for spec in plan.specs)}
    return list(facts["gpus"]) if is_used else []


def _own_entrant(bundle: Bundle, num_threads: int, plan: Plan) -> Entrant:
    start = partial(WorkerProcess, Path(sys.executable), OWN, num_threads)
    settings = {
        "model": str(bundle.path),
        "execution_provider": plan.execution_provider,
        "num_threads": num_threads,
        "num_streams": plan.num_streams,
    }
    return Entrant(f"edgedsl {bundle.manifest.model.quantization}", start, settings, plan.timeout_s)


def _peer_entrant(spec: Spec, language: Language, plan: Plan, num_threads: int, bundle: Bundle, say: Say) -> Entrant:
    python, log = python_of(spec.peer, plan.folder), log_of(spec.peer, plan.folder)
    log.unlink(missing_ok=True)
    start = partial(WorkerProcess, python, models.module_of(spec.peer), num_threads, log)
    settings: dict[str, Any] = {
        "merged": str(plan.merged.absolute()),
        "quantization": spec.quantization,
        "device": PEERS[spec.peer].device,
        "num_threads": num_threads,
        "end_token_ids": language.tokenizer.end_token_ids(language.template),
        "context_length": bundle.manifest.model.context_length,
        "num_streams": plan.num_streams,
        **spec.settings(),
    }
    entrant = Entrant(spec.label, start, settings, plan.timeout_s)
    try:
        settings[PEERS[spec.peer].notation] = language.source(spec)
        weights = read_weights(plan.merged)
        settings["model"] = str(models.build(spec, plan.folder.absolute(), plan.merged, weights, num_threads, say))
    except EdgeDSLError as exc:  # counted as errors of its own: the others are measured all the same
        entrant.failure = exc.message
    return entrant


def _tokenizer_notes(entrants: Sequence[Entrant], questions: Sequence[Question], tokenizer: Tokenizer) -> list[str]:
    """Where a peer's own tokenizer would have split the sentences otherwise."""
    notes = []
    for entrant in entrants:
        try:
            num = sum(
                entrant.ask({"tokens": question.prompt})["token_ids"] != tokenizer.encode_plain(question.prompt)
                for question in questions
            )
        except GenerationError:
            continue  # counted with its answers
        if num:
            notes.append(f"{entrant.label}: its tokenizer splits {num} of {len(questions)} sentences otherwise.")
    return notes


def _about(entrant: Entrant) -> dict[str, Any]:
    """What a contestant ran with: versions, settings without paths, the size of its grammar."""
    settings = {k: v for k, v in entrant.settings.items() if k not in (*_GRAMMAR_KEYS, *_PATH_KEYS)}
    grammar = {f"{k}_chars": len(entrant.settings[k]) for k in _GRAMMAR_KEYS if k in entrant.settings}
    versions: Mapping[str, str] = entrant.opened["versions"] if entrant.opened else {}
    return {"versions": dict(versions), "settings": settings | grammar, "failure": entrant.failure or None}


def _streams(plan: Plan) -> str:
    return f"{plan.num_streams} streams" if plan.num_streams > 1 else "one stream"


def _turns(plan: Plan, num: int) -> str:
    asked = f"{num} sentences, greedy, at most {plan.max_tokens} tokens"
    own = f"each in a process of its own, {1e3 * PAUSE_S:.0f} ms apart"
    if plan.num_streams == 1:
        return (
            f"One stream of {asked}: the contestants take turns sentence by sentence, {own}; {plan.num_warmup} warm-up "
            "answers each are not counted."
        )
    return (
        f"{plan.num_streams} streams share {asked}; each asks as soon as it has its answer: the contestants take "
        f"turns with rounds of {ROUNDS * plan.num_streams} sentences, {own}; a round to warm up is not counted. "
        "edgedsl (from a fused graph) and llama.cpp have a slot for each stream; who has none answers one after the "
        "other, and waiting is in the times."
    )


def _caveats(plan: Plan, num: int, num_planned: int) -> list[str]:
    peers = {spec.peer: PEERS[spec.peer] for spec in plan.specs}
    lines = [
        _turns(plan, num),
        "All get the same weights and the tokens of the same prompt; edgedsl gets the sentence, and encoding it and "
        "parsing the answer again are in its times. Each answer is decoded by one tokenizer and parsed by Lark.",
        "Unparsed: no program; of these, misplaced names: only a name of the catalogue stands where its owner has "
        "none. Wrong: a program, but not the target. Further token: whole answer less first token, by the number of "
        "further tokens. Ratios are how often edgedsl's first row does it in the time of one.",
        f"Same exact match: at most half a point below that of the first row; one of {num} answers is "
        f"{100 / max(num, 1):.2g} points.",
    ]
    if num < num_planned:
        lines.append(
            f"{num_planned} sentences were to be asked; after {plan.max_seconds:g} s there was no further one."
        )
    lines += [f"{peer.label}: {peer.allows}." for peer in peers.values()]
    if any(spec.is_flat for spec in plan.specs):
        lines.append(f"{FLAT_ALLOWS[0].upper()}{FLAT_ALLOWS[1:]}.")
    return [*lines, *plan.left_out]


def parse_specs(text: str) -> list[Spec]:
    """Contestants from a list with commas.

    Raises:
        ConfigError: none, or one that is not known.
    """
    specs = [Spec.parse(item.strip()) for item in text.split(",") if item.strip()]
    if not specs:
        raise ConfigError("no peer is named", hint=f"name some of {', '.join(PEERS)}")
    return list(dict.fromkeys(specs))
