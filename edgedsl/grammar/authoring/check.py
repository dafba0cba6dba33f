"""Everything that can be found out about a grammar before it decodes anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import llguidance
import numpy as np
from lark.exceptions import LarkError

from edgedsl.errors import GenerationError, GrammarError
from edgedsl.grammar.authoring import conflicts, overlaps, white_space
from edgedsl.grammar.authoring.byte_tokenizer import byte_tokenizer
from edgedsl.grammar.authoring.findings import ERROR, WARNING, Finding
from edgedsl.grammar.authoring.language import Language
from edgedsl.grammar.authoring.prefixes import Prefixes
from edgedsl.grammar.authoring.refusal import find_refusal, is_unicode
from edgedsl.grammar.authoring.sampling import Sampler
from edgedsl.grammar.authoring.structure import Structure
from edgedsl.grammar.authoring.token_set import TokenSet
from edgedsl.grammar.authoring.walks import Walker, forced_bytes, possible_tokens, unspellable
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.grammar import Grammar

NUM_SAMPLES = 40
_MAX_FORCED = 200  # programs whose bytes are looked at one by one
_MAX_LISTED = 5  # findings of one kind that come from walks, cases and targets
Target = tuple[str, str]  # where it stands, and the program


@dataclass
class Report:
    """What a check found and measured."""

    grammar: str
    tokens: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        """Findings that must be mended."""
        return sum(finding.level == ERROR for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "grammar": self.grammar,
            "tokens": self.tokens,
            "errors": self.num_errors,
            "warnings": len(self.findings) - self.num_errors,
            "findings": [finding.to_dict() for finding in self.findings],
            "facts": self.facts,
        }

    def refuse(self) -> None:
        """Raise where anything is an error.

        Raises:
            GrammarError: with their number.
        """
        if self.num_errors:
            errors = "1 error" if self.num_errors == 1 else f"{self.num_errors} errors"
            raise GrammarError(f"grammar '{self.grammar}' has {errors}", hint="mend what is listed as an error")


def check(
    language: Language,
    tokens: TokenSet,
    targets: Sequence[Target] = (),
    num_samples: int = NUM_SAMPLES,
    after_compiling: Callable[[], None] = lambda: None,
) -> Report:
    """Look at a grammar from all sides.

    Args:
        language: grammar, catalogue and cases.
        tokens: what it will be decoded with.
        targets: training targets, with where they stand.
        num_samples: random programs that are walked.
        after_compiling: called once the grammar has been compiled; what follows takes time that depends on the targets.

    Raises:
        GrammarError: grammar and catalogue do not fit together. All else is a finding.
    """
    return _Check(language, tokens, targets, num_samples, after_compiling).report()


class _Check:
    def __init__(
        self,
        language: Language,
        tokens: TokenSet,
        targets: Sequence[Target],
        num_samples: int,
        after_compiling: Callable[[], None],
    ) -> None:
        self._language = language
        self._tokens = tokens
        self._targets = targets
        self._num_samples = num_samples
        self._after_compiling = after_compiling
        self._report = Report(language.name, tokens.description)
        self._facts = self._report.facts
        self._refused: list[str] = []  # samples that Lark does not parse

    def report(self) -> Report:
        """All findings; a grammar that does not compile is looked at as far as that goes."""
        source = self._language.source
        structure = self._attempt("not a grammar", lambda: Structure(source, self._language.name))
        if structure is None:
            return self._report
        self._facts |= {"rules": len(structure.alternatives), "terminals": len(structure.terminals)}
        self._add(structure.findings())
        prefixes = self._attempt("no examples", lambda: Prefixes(structure))
        if prefixes is not None:
            self._add(self._static(structure, prefixes))
        grammar = self._compile(source)
        if grammar is not None and prefixes is not None:
            self._dynamic(grammar, structure, prefixes)
        return self._report

    def _static(self, structure: Structure, prefixes: Prefixes) -> Iterator[Finding]:
        try:
            yield from conflicts.findings(structure, prefixes)
        except LarkError as exc:
            yield Finding(ERROR, "not LALR(1)", str(exc).splitlines()[0])
        yield from white_space.unbounded(structure, prefixes.lexicon)

    def _compile(self, source: str) -> Grammar | None:
        """In both engines, each by itself, so that both errors are told."""
        started = time.perf_counter()
        try:
            grammar = self._language.grammar()
        except GrammarError as exc:
            self._report.findings.append(Finding(ERROR, "does not compile", exc.message, exc.hint))
            grammar = None
        self._facts["grammar_ms"] = _ms(started)
        error = None if grammar else _decoding_error(source)
        if error and not any(error in finding.detail for finding in self._report.findings):
            self._report.findings.append(Finding(ERROR, "does not compile for decoding", error))
        return grammar

    def _dynamic(self, grammar: Grammar, structure: Structure, prefixes: Prefixes) -> None:
        started = time.perf_counter()
        written = grammar.with_written_scopes()  # what the walks meet is then what may come
        compiled = self._attempt("does not compile with these tokens", lambda: self._tokens.compile(written))
        if compiled is None:
            return
        self._facts["compile_ms"] = _ms(started)
        started = time.perf_counter()
        planner = self._attempt("no program can be spelled", lambda: compiled.planner)
        if planner is None:
            return
        self._facts |= {"planner_ms": _ms(started), "min_tokens": planner.min_tokens}
        self._after_compiling()
        self._add(overlaps.findings(structure, planner.automaton, prefixes))
        for name in unspellable(planner.automaton, planner.vocabulary):
            self._add([Finding(ERROR, "dead end", f"no row of tokens spells {structure.label(name)}", _OTHER_TOKENS)])
        walker, samples = self._walk(compiled, self._samples(grammar))
        self._facts |= {
            "reachable_tokens": len(walker.reached),
            "reachable_tokens_at_most": possible_tokens(planner.vocabulary, grammar.lark.terminals, walker.reached),
            "vocabulary": compiled.vocab_size,
        }
        self._cases(grammar, compiled)
        accepted = self._accepted(grammar, compiled, structure)
        self._forced(grammar, accepted or samples, "targets" if accepted else "samples")

    def _samples(self, grammar: Grammar) -> list[str]:
        sampler = Sampler(grammar)
        samples = self._attempt("nothing could be sampled", lambda: sampler.samples(self._num_samples)) or []
        self._facts |= {"samples": len(samples), "samples_read_otherwise": sampler.num_refused}
        self._refused = sampler.refused
        return samples

    def _walk(self, compiled: CompiledGrammar, samples: Sequence[str]) -> tuple[Walker, list[str]]:
        """What was met on the way, and the samples that the decoding engine takes."""
        walker = Walker(compiled)
        taken = [text for text in samples if walker.walk(self._tokens.tokenizer.encode_plain(text))]
        for text in [text for text in samples if text not in taken][:_MAX_LISTED]:
            self._add(
                [Finding(ERROR, "engines disagree", f"Lark parses {text!r}, the decoding engine does not", _OVERLAP)]
            )
        self._read_otherwise(compiled)
        for text in _some(walker.dead_ends):
            self._add([Finding(ERROR, "dead end", f"after {text!r} no token is legal", _OTHER_TOKENS)])
        for text in _some(walker.disagreements):
            detail = f"the decoding engine allows {text!r} as the beginning of a program, Lark does not"
            self._add([Finding(WARNING, "engines disagree", detail, _OVERLAP)])
        self._facts |= {
            "states": walker.num_states,
            "mask_us_p50": percentile(walker.mask_us, 50),
            "mask_us_p99": percentile(walker.mask_us, 99),
        }
        return walker, taken

    def _read_otherwise(self, compiled: CompiledGrammar) -> None:
        """Texts that the rules derive, that Lark does not parse, and that the decoding engine would let pass."""
        automaton = compiled.planner.automaton
        passed = [text for text in self._refused if self._decoding(compiled, text) == "accept"]
        for text in [text for text in _some(passed) if find_refusal(automaton, text, str) is None]:
            detail = f"the decoding engine takes {text!r}, Lark does not parse it: it would be generated"
            self._add([Finding(ERROR, "engines disagree", detail, _OVERLAP)])

    def _cases(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        failed = []
        for case in self._language.cases:
            verdicts = {"Lark": _lark(grammar, compiled, case.text), "decoding": self._decoding(compiled, case.text)}
            wrong = ", ".join(
                f"{engine} says {verdict}" for engine, verdict in verdicts.items() if verdict != case.kind
            )
            if wrong:
                failed.append(f"{case.source}: expected {case.kind} of {case.text!r}: {wrong}")
        for detail in failed:
            self._add([Finding(ERROR, "case", detail, "mend the grammar, or the case")])
        self._facts |= {"cases": len(self._language.cases), "cases_passed": len(self._language.cases) - len(failed)}

    def _accepted(self, grammar: Grammar, compiled: CompiledGrammar, structure: Structure) -> list[str]:
        """Targets that both engines accept; the others are findings."""
        refused: list[str] = []
        accepted = []
        for source, text in self._targets:
            if not is_unicode(text):
                refused.append(f"{source}: not valid Unicode")
                continue
            refusal = find_refusal(compiled.planner.automaton, text, structure.label)
            if not grammar.accepts(text):
                refused.append(f"{source}: {refusal or 'Lark does not parse it'}")
            elif self._decoding(compiled, text) != "accept":
                refused.append(f"{source}: Lark parses it, the decoding engine does not")
            else:
                accepted.append(text)
        if refused:
            share = f"{len(accepted)} of {len(self._targets)} targets are accepted"
            listed = "\n".join(refused[:_MAX_LISTED])
            self._add([Finding(ERROR, "target", f"{share}; the first that are not:\n{listed}", "mend grammar or data")])
        if self._targets:
            self._facts |= {"targets": len(self._targets), "targets_accepted": len(accepted)}
        return accepted

    def _forced(self, grammar: Grammar, texts: Sequence[str], of: str) -> None:
        tokenizer = byte_tokenizer()
        compiled = grammar.compile(tokenizer, [tokenizer.vocab_size - 1])
        forced, total = forced_bytes(compiled, texts[:: max(1, len(texts) // _MAX_FORCED)])
        self._facts |= {"forced_bytes": round(forced / total, 4) if total else None, "forced_bytes_of": of}

    def _decoding(self, compiled: CompiledGrammar, text: str) -> str:
        matcher = compiled.matcher()
        try:
            for token_id in self._tokens.tokenizer.encode_plain(text):
                matcher.consume(token_id)
        except GenerationError:
            return "reject"
        return "accept" if matcher.is_accepting() else "incomplete"

    def _add(self, findings: Iterator[Finding] | list[Finding]) -> None:
        self._report.findings += findings

    def _attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives; its error becomes a finding."""
        try:
            return make()
        except (GrammarError, GenerationError) as exc:
            self._add([Finding(ERROR, what, exc.message, exc.hint)])
            return None


_OVERLAP = "terminals overlap: write them so that one text has one reading"
_OTHER_TOKENS = "the tokenizer lacks the bytes of these characters; keep to those it has"


def percentile(values: Sequence[float], q: int) -> float | None:
    """The ``q``-th percentile to a tenth; None of nothing."""
    return round(float(np.percentile(values, q)), 1) if values else None


def _some(texts: Sequence[str]) -> list[str]:
    return sorted(set(texts), key=lambda text: (len(text), text))[:_MAX_LISTED]


def _lark(grammar: Grammar, compiled: CompiledGrammar, text: str) -> str:
    if grammar.accepts(text):
        return "accept"
    refusal = find_refusal(compiled.planner.automaton, text, str)
    return "incomplete" if refusal and refusal.is_incomplete else "reject"


def _decoding_error(source: str) -> str | None:
    try:
        error = llguidance.LLMatcher.validate_grammar(llguidance.grammar_from("lark", source), None)
    except ValueError as exc:
        error = str(exc)
    return error.splitlines()[0] if error else None


def _ms(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 1)
