"""Grammars from elsewhere are tried in a child process first: compiled, checked or imported under limits.

A grammar can be made so that it takes days or all memory to compile (``((a{1000}){1000}){1000}``), or that it ends the
process in native code. In a child that costs an error message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedsl.errors import GenerationError, GrammarError
from edgedsl.grammar import confinement
from edgedsl.grammar.confinement import Answer, Limits, check_size

if TYPE_CHECKING:
    from edgedsl.grammar.authoring.check import Report
    from edgedsl.grammar.grammar import Grammar
    from edgedsl.grammar.sources.imported import Imported
    from edgedsl.tokenizer import Tokenizer

COMPILE = Limits()
# What a check does beyond compiling grows with the targets that it is given.
CHECK = Limits(more_cpu_s=600, wall_s=1800)
_ENDLESS = "'edgedsl grammar check' looks for rules that never end"


@dataclass(frozen=True)
class TrialReport:
    """What compiling a grammar took.

    Attributes:
        min_tokens: of the shortest program.
        cpu_s: seconds of CPU, the start of the process included.
        peak_mib: memory of the process at its peak; None where the system does not tell.
        unlimited: limits that the system does not have: nothing kept the trial from exceeding them.
    """

    min_tokens: int
    cpu_s: float
    peak_mib: int | None
    unlimited: tuple[str, ...]

    def __str__(self) -> str:
        memory = "" if self.peak_mib is None else f", {self.peak_mib} MiB"
        free = f"; this system does not limit {', '.join(self.unlimited)}" if self.unlimited else ""
        return f"{self.cpu_s:.1f} s of CPU{memory}{free}"


def try_compile(
    lark_path: Path,
    catalogue_path: Path | None = None,
    tokenizer_path: Path | None = None,
    limits: Limits = COMPILE,
    *,
    end_token_ids: Sequence[int] = (),
) -> TrialReport:
    """Do in a child what loading a bundle does with its grammar: read, bind, compile, plan, make a mask.

    Args:
        lark_path: grammar.
        catalogue_path: what it declares.
        tokenizer_path: tokenizer.json; None for single bytes.
        limits: of the child.
        end_token_ids: tokens that end a program; empty for the usual one of the tokenizer.

    Raises:
        GrammarError: it does not compile, or not within the limits.
        ModelError: the tokenizer cannot be used.
    """
    answer = _ask(
        "compile", limits, f"compiling '{lark_path.name}'", lark=_text(lark_path), catalogue=_text(catalogue_path),
        tokenizer=_text(tokenizer_path), end_token_ids=list(end_token_ids),
    )  # fmt: skip
    return TrialReport(answer.result, answer.cpu_s, answer.peak_mib, answer.unlimited)


def try_check(
    grammar: str,
    catalogue: Path | None = None,
    cases: Path | None = None,
    tokenizer: Path | None = None,
    targets: Sequence[tuple[str, str]] = (),
    limits: Limits = CHECK,
) -> Report:
    """:func:`edgedsl.grammar.authoring.check.check` in a child; its facts tell what that took.

    Args:
        grammar: file, or name of a shipped grammar.
        catalogue: None for the one beside it.
        cases: None for those beside it.
        tokenizer: tokenizer.json; None for single bytes.
        targets: training targets, with where they stand.
        limits: of the child; ``more_cpu_s`` are for what comes after compiling.

    Raises:
        GrammarError: files that cannot be read or do not fit together, or a limit was met.
        ModelError: the tokenizer cannot be used.
    """
    from edgedsl.grammar.authoring.check import Report
    from edgedsl.grammar.authoring.findings import Finding

    answer = _ask(
        "check", limits, f"checking '{grammar}'", grammar=grammar, catalogue=_text(catalogue), cases=_text(cases),
        tokenizer=_text(tokenizer), targets=[list(target) for target in targets],
    )  # fmt: skip
    found = answer.result
    report = Report(found["grammar"], found["tokens"], [Finding(**f) for f in found["findings"]], found["facts"])
    report.facts |= {"cpu_s": answer.cpu_s, "peak_mib": answer.peak_mib}
    if answer.unlimited:
        report.facts["not_limited"] = ", ".join(answer.unlimited)
    return report


def try_import(path: Path, notation: str | None = None, limits: Limits = COMPILE, **options: Any) -> Imported:
    """:func:`edgedsl.grammar.sources.importer.import_grammar` in a child, and what it gives is compiled there too.

    Args:
        path: source in another notation.
        notation: None goes by the name.
        limits: of the child.
        options: as the importer takes them.

    Raises:
        GrammarError: what the importer refuses, a grammar without programs, or a limit was met.
    """
    from edgedsl.grammar.sources.imported import Imported

    answer = _ask("import", limits, f"importing '{path}'", path=str(path), notation=notation, options=options)
    source, translated, notes = answer.result
    return Imported(source, tuple(translated), tuple(notes))


def _ask(job: str, limits: Limits, doing: str, **request: Any) -> Answer:
    return confinement.ask(__name__, {"job": job, **request}, limits, doing)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


# The child's part


def _work(request: dict[str, Any], limits: Limits) -> Any:
    return {"compile": _compile, "check": _check, "import": _import}[request["job"]](request, limits)


def _compile(request: dict[str, Any], limits: Limits) -> int:
    from edgedsl.grammar.authoring.token_set import open_tokens
    from edgedsl.grammar.grammar import Grammar
    from edgedsl.tokenizer import Tokenizer

    lark_path, catalogue_path = Path(request["lark"]), _path(request["catalogue"])
    for path in (lark_path, catalogue_path):
        check_size(path, limits)
    grammar = Grammar.from_files(lark_path, catalogue_path)
    if request["end_token_ids"]:
        return _min_tokens(grammar, Tokenizer.from_file(Path(request["tokenizer"])), request["end_token_ids"])
    tokens = open_tokens(_path(request["tokenizer"]))
    return _min_tokens(grammar, tokens.tokenizer, [tokens.end_token_id])


def _min_tokens(grammar: Grammar, tokenizer: Tokenizer, end_token_ids: list[int]) -> int:
    grammar.build_lexers()
    try:
        return grammar.compile(tokenizer, end_token_ids).planner.min_tokens
    except GenerationError as exc:  # of the first mask
        raise GrammarError(
            f"grammar '{grammar.name}' does not compile for decoding: it has no program, or the engine met a limit",
            hint=_ENDLESS,
        ) from exc
    except GrammarError as exc:
        raise GrammarError(exc.message, hint=exc.hint or _ENDLESS) from exc


def _check(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    from edgedsl.grammar.authoring.check import check
    from edgedsl.grammar.authoring.language import find_files, grammar_path, open_language
    from edgedsl.grammar.authoring.token_set import open_tokens

    check_size(grammar_path(request["grammar"]), limits)
    asked = request["grammar"], _path(request["catalogue"]), _path(request["cases"])
    for path in find_files(*asked):
        check_size(path, limits)
    language, tokens = open_language(*asked), open_tokens(_path(request["tokenizer"]))
    targets = [(source, text) for source, text in request["targets"]]
    return check(language, tokens, targets, after_compiling=lambda: confinement.go_on(limits)).to_dict()


def _import(request: dict[str, Any], limits: Limits) -> list[Any]:
    from edgedsl.grammar.authoring.byte_tokenizer import END_TOKEN, byte_tokenizer
    from edgedsl.grammar.grammar import Grammar
    from edgedsl.grammar.sources.importer import import_grammar

    path = Path(request["path"])
    check_size(path, limits)
    found = import_grammar(path, request["notation"], **request["options"])
    tokenizer = byte_tokenizer()
    _min_tokens(Grammar(found.source, name=path.name), tokenizer, [tokenizer.token_id(END_TOKEN)])
    return [found.source, found.translated, found.notes]


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


if __name__ == "__main__":
    confinement.answer(_work)
