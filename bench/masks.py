"""Masks of edgedsl beside those of Outlines, llguidance and xgrammar: compile time, mask time, and what they get wrong.

Run ``python -m edgedsl.bench.masks --tokenizer FILE --xgrammar-python PYTHON --output FILE``. Each engine runs in a
process of its own with one thread, which is killed where it takes too long. Programs are the accept cases of each
grammar and samples of it, all of them programs for Lark; with ``--pairs FILE`` they are those that people wrote, and
every engine has walked the first of them before, as a bundle does while it loads.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.bench.command import at_least, run, say
from edgedsl.bench.gbnf import from_grammar
from edgedsl.bench.mask_engines import SPARE
from edgedsl.bench.mask_worker import MaskProcess, Run
from edgedsl.bench.process import Message
from edgedsl.data.pairs import read_pairs
from edgedsl.errors import ConfigError, GenerationError, GrammarError
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, head, load_average
from edgedsl.evaluation.statistics import summary
from edgedsl.grammar.authoring.language import Language, open_language, shipped
from edgedsl.grammar.authoring.sampling import Sampler
from edgedsl.grammar.authoring.token_set import TokenSet, open_tokens
from edgedsl.grammar.grammar import Grammar
from edgedsl.runtime.warm_up import AT_START
from edgedsl.tokenizer import Tokenizer

LABELS = {
    "edgedsl-greedy": "edgedsl, greedy hit",
    "edgedsl-full": "edgedsl, full mask",
    "outlines": "Outlines",
    "llguidance": "llguidance",
    "xgrammar": "xgrammar",
}


def programs(
    language: Language, tokenizer: Tokenizer, num_samples: int, seed: int, pairs: Path | None = None
) -> dict[str, list[int]]:
    """The accept cases of a language and samples of it, or a file's programs, each with the tokenizer's own tokens.

    Raises:
        GrammarError: none of them can be spelled with the tokens.
        DataError: a malformed file of pairs.
    """
    grammar = language.grammar()
    texts = [case.text for case in language.cases if case.kind == "accept"]
    texts = [pair.target for pair in read_pairs(pairs)] if pairs else texts
    texts = [text for text in texts if grammar.accepts(text)]
    texts += [] if pairs else Sampler(grammar, seed).samples(num_samples)
    found = {text: tokenizer.encode_plain(text) for text in texts}
    spelled = {text: token_ids for text, token_ids in found.items() if tokenizer.decode(token_ids) == text}
    if not spelled:
        raise GrammarError(f"no program of '{grammar.name}' can be spelled with the tokens")
    return spelled


class Judge:
    """Knows whether a text can still become a program as Lark reads it.

    The byte automaton of Lark's tables says so first. Where it says no, Lark itself is asked whether any end of the
    program that the text was taken from completes it: if one does, that counts.
    """

    def __init__(self, grammar: Grammar, tokens: TokenSet) -> None:
        self._grammar = grammar
        self._end_token_id = tokens.end_token_id
        self._planner = tokens.compile(grammar).planner

    def num_wrong(self, program: str, token_ids: Sequence[int], drawn: Sequence[int | None]) -> int:
        """Tokens after which there is no program any more.

        Args:
            program: a text.
            token_ids: of it.
            drawn: at each place of the program a token that an engine allowed, if it was asked there.
        """
        places = [(number, token_id) for number, token_id in enumerate(drawn) if token_id is not None]
        return sum(self._leads_nowhere(program, token_ids[:number], token_id) for number, token_id in places)

    def _leads_nowhere(self, program: str, before: Sequence[int], token_id: int) -> bool:
        token_bytes = self._planner.vocabulary.token_bytes
        text = b"".join(token_bytes[i] for i in before)
        if token_id == self._end_token_id:
            return not self._accepts(text)
        if not token_bytes[token_id]:  # a special token has no text
            return True
        text += token_bytes[token_id]
        position = self._planner.automaton.advance(self._planner.automaton.start(), text)
        if position is not None and not math.isinf(self._planner.rough_bound(position)):
            return False
        whole = program.encode()
        return not any(self._accepts(text + whole[number:]) for number in range(len(whole) + 1))

    def _accepts(self, text: bytes) -> bool:
        return self._grammar.accepts(text.decode(errors="replace"))


@dataclass
class Tally:
    """What one engine did with the programs of one grammar.

    Attributes:
        num_refused: programs with a token that it forbids, the end token included.
        num_drawn: tokens that random logits would have led to.
        num_wrong: those after which there is no program any more.
        errors: what kept it from walking a program, with their number.
    """

    grammar: str
    engine: str
    tokenizer_ms: float | None = None
    compile_ms: float | None = None
    step_us: list[float] = field(default_factory=list)
    num_programs: int = 0
    num_refused: int = 0
    num_drawn: int = 0
    num_wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, walked: Message, num_wrong: int) -> None:
        """Count a program that was walked."""
        self.step_us += walked["step_us"]
        self.num_refused += not walked["is_accepted"]
        self.num_drawn += sum(token_id is not None for token_id in walked["drawn"])
        self.num_wrong += num_wrong


def measure(name: str, engines: Sequence[str], tokens: TokenSet, options: argparse.Namespace) -> list[Tally]:
    """All engines on one grammar, taking turns program by program.

    Args:
        name: of a shipped grammar, or a path.
        engines: names of :data:`LABELS`.
        tokens: of ``options.tokenizer``.
        options: of the command line.

    Raises:
        GrammarError: no grammar, or one of which no program can be drawn.
        ConfigError: an engine cannot be started.
    """
    language = open_language(name)
    grammar = language.grammar()
    judge = Judge(grammar, tokens)
    walked = programs(language, tokens.tokenizer, options.num_programs, options.seed, options.pairs)
    num_warm_up = min(AT_START, len(walked) // 2) if options.pairs else 0
    started: list[tuple[Run, Tally]] = []
    try:
        for engine in engines:
            python = options.xgrammar_python if engine == "xgrammar" else None
            process = partial(MaskProcess, engine, python, options.tokenizer, tokens.end_token_id, options.timeout_s)
            run = Run(process, *_source(engine, name, grammar))
            label = f"{LABELS[engine]} {run.opened['version']}"
            started.append((run, Tally(language.name, label, run.opened["tokenizer_ms"], run.compile_ms)))
        for number, (text, token_ids) in enumerate(track(list(walked.items()), language.name)):
            for run, tally in started:
                if number < num_warm_up:
                    with contextlib.suppress(GenerationError):
                        run.walk(token_ids, options.seed + number)
                    continue
                tally.num_programs += 1
                try:
                    answer = run.walk(token_ids, options.seed + number)
                except GenerationError as exc:
                    tally.errors[exc.message] += 1
                else:
                    tally.add(answer, judge.num_wrong(text, token_ids, answer["drawn"]))
    finally:
        for run, _ in started:
            run.close()
    return [tally for _, tally in started]


def _source(engine: str, name: str, grammar: Grammar) -> tuple[str | None, str]:
    """What the engine reads, or why there is nothing."""
    if engine != "xgrammar":
        return name if engine.startswith("edgedsl") else grammar.scoped_source(), ""
    try:
        return from_grammar(grammar), ""
    except GrammarError as exc:
        return None, f"no GBNF: {exc.message}"


def rows(tallies: Sequence[Tally]) -> list[dict[str, Any]]:
    """One row for each engine, over all grammars."""
    found = []
    for engine in dict.fromkeys(tally.engine for tally in tallies):
        own = [tally for tally in tallies if tally.engine == engine]
        times = summary([tally.compile_ms for tally in own if tally.compile_ms is not None])
        compiled = {
            "compiled": f"{times['num']}/{len(own)}",
            "compile_ms": times["p50"],
            "compile_ms_max": times["max"],
        }
        found.append({"engine": engine, "tokenizer_ms": own[0].tokenizer_ms, **compiled, **_columns(own)})
    return found


def grammar_rows(tallies: Sequence[Tally]) -> list[dict[str, Any]]:
    """One row for each grammar and engine."""
    return [{"grammar": t.grammar, "engine": t.engine, "compile_ms": t.compile_ms, **_columns([t])} for t in tallies]


def _columns(tallies: Sequence[Tally]) -> dict[str, Any]:
    times = summary([us for tally in tallies for us in tally.step_us])
    num_drawn = sum(tally.num_drawn for tally in tallies)
    return {
        **{f"mask_us_{name}": times[name] for name in ("p50", "p99", "max")},
        "tokens": times["num"],
        "refused": f"{sum(tally.num_refused for tally in tallies)}/{sum(tally.num_programs for tally in tallies)}",
        "over_permissive": f"{sum(tally.num_wrong for tally in tallies)}/{num_drawn}" if num_drawn else None,
        "errors": sum(tally.errors.total() for tally in tallies),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure masks beside those of other engines.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a model")
    parser.add_argument("--grammar", action="append", help="name or file; may be repeated (default: all shipped)")
    parser.add_argument(
        "--num-programs", type=at_least(0), default=50, help="samples of each grammar beside its accept cases"
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        help=f"file of pairs whose programs are walked instead, the first {AT_START} of them without a clock",
    )
    parser.add_argument("--engine", action="append", choices=list(LABELS), help="only this one; may be repeated")
    parser.add_argument("--xgrammar-python", type=Path, help="interpreter that has edgedsl and xgrammar")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="longest wait for a compilation or a program")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of samples and logits")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    if options.tokenizer.is_dir():
        options.tokenizer /= "tokenizer.json"
    tokens = open_tokens(options.tokenizer)
    engines = _engines(options)
    names = options.grammar or shipped()
    if options.pairs and len(names) != 1:
        raise ConfigError("--pairs are programs of one grammar", hint="name it with --grammar, once")
    tallies: list[Tally] = []
    for name in names:
        tallies += measure(name, engines, tokens, options)
        say(f"{name}: measured")
    failures = [f"{t.engine} on {t.grammar}: {num} times {what}." for t in tallies for what, num in t.errors.items()]
    facts = machine.fingerprint()
    xgrammar = " --xgrammar-python PYTHON" if "xgrammar" in engines else ""
    return {
        **head(),
        "kind": "masks",
        "title": f"Masks beside those of other engines{', programs that people wrote' if options.pairs else ''}",
        "caption": {
            "model": f"none, a tokenizer of {tokens.tokenizer.vocab_size:,} tokens",
            "grammar": ", ".join(Path(name).stem for name in names) if options.grammar else f"{len(names)} shipped",
            "cpu": f"{facts['cpu_model']}, one thread",
            "command": "python -m edgedsl.bench.masks --tokenizer FILE"
            f"{_chosen(options)} --seed {options.seed}{xgrammar}",
        },
        "caveats": [*_caveats(engines, options), *failures, *busy_caveat(load)],
        "machine": facts,
        "tokenizer_sha256": hashlib.sha256(options.tokenizer.read_bytes()).hexdigest(),
        "load_average": load,
        "rows": rows(tallies),
        **({} if options.pairs else {"by_grammar": grammar_rows(tallies)}),
    }


def _engines(options: argparse.Namespace) -> list[str]:
    engines = [engine for engine in options.engine or LABELS if engine != "xgrammar" or options.xgrammar_python]
    if not engines:
        raise ConfigError("no engine is left to measure", hint="give --xgrammar-python, an interpreter with xgrammar")
    if "xgrammar" not in engines:
        say("xgrammar is left out: no --xgrammar-python was given")
    return engines


def _chosen(options: argparse.Namespace) -> str:
    if options.pairs:
        return f" --grammar {Path(options.grammar[0]).stem} --pairs {options.pairs.name}"
    return f" --num-programs {options.num_programs}"


def _caveats(engines: Sequence[str], options: argparse.Namespace) -> list[str]:
    caches = "caches are cold at the start of each grammar"
    walked = "accept cases and samples of the grammars"
    if options.pairs:
        caches = f"every engine has walked other programs before (at most {AT_START}), as a server does at its start"
        walked = "those of a file of pairs"
    xgrammar = (
        "xgrammar reads GBNF that bench/gbnf.py makes, which cannot say that keywords come before names and that the "
        "longest match wins; another GBNF may be quicker or slower. It compiles on one thread."
    )
    return [
        "Times are of one token. llguidance and xgrammar: computing the mask and consuming the token. Outlines also "
        f"applies the mask. edgedsl also chooses, and holds Lark's reading and a budget ({SPARE} tokens to spare). A "
        "program's first token has its new matcher in it, and what llguidance is told of known tokens late is in later "
        f"ones; {caches}.",
        "Greedy hit: the likeliest token is the program's and is only checked, the best case. Full mask: a token is "
        "chosen from random logits under the mask, and the program's consumed.",
        "Compile: from the grammar's text to its first mask (over all grammars: median and longest). edgedsl's has "
        "Lark's parser and the tokenizer in it; the others have made the tokenizer ready before.",
        f"Refused: programs ({walked}) with a token that the engine forbids. "
        "Over-permissive: of tokens that random logits choose under the mask, one a place, those after which there is "
        "no program any more: edgedsl's automaton of Lark's reading says so, and Lark takes no end of the program.",
        f"Errors: programs on which an engine failed, crashed or was silent for {options.timeout_s:g} s; no times of "
        "these.",
        xgrammar if "xgrammar" in engines else "xgrammar was left out: no interpreter that has it was given.",
    ]


if __name__ == "__main__":
    sys.exit(main())
