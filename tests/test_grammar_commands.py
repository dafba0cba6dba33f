"""`edgedsl grammar`: each command as a user calls it, and each finding provoked by a small bad grammar."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from interpreter import python
from tiny import CATALOGUE, EOS_TOKEN, GRAMMAR, byte_alphabet, tiny_backend, write_language, write_tokenizer
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from edgedsl.catalogue import Catalogue, bind
from edgedsl.cli import group
from edgedsl.errors import GenerationError, GrammarError, ModelError
from edgedsl.grammar import BudgetGuard, Grammar
from edgedsl.grammar.authoring.byte_tokenizer import END_TOKEN, byte_tokenizer
from edgedsl.grammar.authoring.check import Report, check
from edgedsl.grammar.authoring.findings import Finding
from edgedsl.grammar.authoring.fuzz import Fuzzer, FuzzResult
from edgedsl.grammar.authoring.generation import Generated, Generation, Request
from edgedsl.grammar.authoring.language import Language, open_language, read_cases
from edgedsl.grammar.authoring.sampling import Sampler
from edgedsl.grammar.authoring.token_set import open_tokens
from edgedsl.grammar.authoring.walks import Walker

KEYS = ["n", "parsed", "over_budget", "invented_names", "min_budget", "errors", "tokens", "distinct"]
KEYS += ["mask_us_p50", "mask_us_p99", "mask_us_max"]
SUM = 'start: sum\nsum: sum "+" term | term\nterm: "x" | "[" sum "]"\n'


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["grammar", *map(str, arguments)], prog_name="edgedsl")


def lark(folder: Path, text: str, name: str = "g.lark") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def look(text: str, num_samples: int = 8, **rest: Any) -> Report:
    return check(Language("g", text, None, ()), open_tokens(None), num_samples=num_samples, **rest)


def found(report: Report, what: str) -> Finding:
    assert what in [finding.what for finding in report.findings], report.findings
    return next(finding for finding in report.findings if finding.what == what)


# --- sample


def test_samples_are_programs_and_the_seed_makes_them() -> None:
    first = run("sample", "flow", "--n", 30)
    assert first.exit_code == 0
    grammar = open_language("flow").grammar()
    programs = first.stdout.splitlines()
    assert len(programs) == 30
    assert len(set(programs)) > 20
    assert all(grammar.accepts(program) for program in programs)
    assert run("sample", "flow", "--n", 30).stdout == first.stdout
    assert run("sample", "flow", "--n", 30, "--seed", 1).stdout != first.stdout


def test_samples_do_not_depend_on_the_order_of_sets(tmp_path: Path) -> None:
    path = lark(write_language(tmp_path), GRAMMAR, "grammar.lark")
    command = ("-m", "edgedsl", "grammar", "sample", path, "--n", 20)
    outputs = {python(*command, env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in "12"}
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "source",
    [
        SUM,
        'start: "{" start* "}" | start start | "a"',  # most random derivations of it would never end
        'start: NAME NAME ";"\nNAME: /[ab]+/\n%ignore " "',
        'start: "if" NAME | NAME\nNAME: /[a-z]{2,3}/\n%ignore " "',
        'start: /[^"\\\\]{3}/ "é" "\\"" /(ab?)+c{2,40}/',
        'start: ("a" "b")*',
    ],
)
def test_every_sample_parses_and_is_short(source: str) -> None:
    grammar = Grammar(source)
    samples = Sampler(grammar, 3).samples(60)
    assert all(grammar.accepts(text) for text in samples)
    assert max(map(len, samples)) < 2000
    assert len(set(samples)) >= 5


def test_samples_keep_to_the_names_of_the_place() -> None:
    catalogue = Catalogue({"CALL": {"mail": {"SLOT": {"to": {}, "text": {}}}, "lamp": {"SLOT": {"room": {}}}}})
    source = bind('start: call (";" call)*\ncall: CALL "(" SLOT ")"\n%declare CALL SLOT\n', catalogue)
    grammar = Grammar(source, catalogue=catalogue)
    calls = {call for text in Sampler(grammar).samples(40) for call in text.split(";")}
    assert calls == {"mail(to)", "mail(text)", "lamp(room)"}


def test_a_line_break_in_a_program_does_not_break_the_line(tmp_path: Path) -> None:
    path = lark(tmp_path, 'start: "a\\nb"')
    assert run("sample", path, "--n", 2).stdout == "a\\nb\na\\nb\n"
    assert run("sample", path, "--n", 1, "--json").stdout == '"a\\nb"\n'


def test_a_grammar_whose_programs_are_all_read_otherwise_cannot_be_sampled() -> None:
    with pytest.raises(GrammarError, match="no program of 'grammar' could be sampled in 100 tries") as info:
        Sampler(Grammar('start: A B\nA: /a+/\nB: "a"\n')).sample()
    assert "grammar check" in info.value.hint


# --- check


def test_a_shipped_grammar_is_clean() -> None:
    result = run("check", "flow", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["findings"] == []
    assert (report["errors"], report["warnings"]) == (0, 0)
    assert "bytes were the tokens" in report["tokens"]
    facts = report["facts"]
    assert facts["cases"] == facts["cases_passed"] > 50
    assert facts["samples"] == 40
    assert facts["states"] > 500
    assert 100 < facts["reachable_tokens"] <= facts["reachable_tokens_at_most"] < facts["vocabulary"] == 257
    assert 0.3 < facts["forced_bytes"] < 1
    assert facts["forced_bytes_of"] == "samples"
    assert min(facts[k] for k in ("grammar_ms", "compile_ms", "planner_ms", "mask_us_p50", "mask_us_p99")) > 0


BAD: dict[str, tuple[str, str, str, str]] = {
    "not Lark": ("start: (", "not a grammar", "error", "does not compile"),
    "no start": ('begin: "a"', "no start rule", "error", "'start'"),
    "undefined": ('start: "a" other', "not a grammar", "error", "other"),
    "reduce": (
        'start: a | b\na: "x"\nb: "x"',
        "reduce/reduce conflict",
        "error",
        "after 'x', before the end: it may be 'a: \"x\"' or 'b: \"x\"'",
    ),
    "shift": (
        'start: "if" start ("else" start)? | "y"\n%ignore " "',
        "shift/reduce conflict",
        "warning",
        "after 'if y', before \"else\"",
    ),
    "ambiguous": ('start: start "+" start | "a"', "ambiguous", "warning", "'a+a+a' has more than one reading"),
    "unreachable": ('start: "a"\nu: v\nv: u | "b"', "unreachable rule", "warning", "rule 'v' is used by no program"),
    "unproductive": ('start: "a" | u\nu: "b" u', "unproductive rule", "error", "rule 'u' derives no text"),
    "unused": ('start: "a" B\nB: C\nC: "c"\nD: "d" E\nE: "e"', "unused terminal", "warning", "'D'"),
    "ignored": ('start: "a" "b"\n%ignore " "', "unbounded white space", "warning", '" " is ignored'),
    "white": ('start: "a" WS "b"\nWS: /\\s+/', "unbounded white space", "warning", "terminal WS matches"),
    "white rule": ('start: "a" _gap "b"\n_gap: " " _gap?', "unbounded white space", "warning", "rule '_gap' repeats"),
    "white star": ('start: "a" (" " | "\\n")* "b"', "unbounded white space", "warning", "rule 'start' repeats"),
    "begins": (
        'start: "(" (SHORT | LONG) ")"\nSHORT: "a"\nLONG: "abc"',
        "terminals overlap",
        "warning",
        "after '(': \"a\" matches 'a', and \"abc\" goes on behind it",
    ),
    "same": (
        'start: "if" | NAME "!"\nNAME: /[a-z]+/',
        "terminals overlap",
        "warning",
        "at the start: \"if\" matches 'if', and NAME also matches it",
    ),
    "ranked": (
        'start: PAIR "?" | WORD "!"\nPAIR: /[a-z]{2}/\nWORD: /[a-z]+/',
        "terminals overlap",
        "warning",
        "at the start: PAIR matches 'aa', and WORD also matches it",
    ),
    "disagree": ('start: "if" | NAME "!"\nNAME: /[a-z]+/', "engines disagree", "warning", "allows 'if!'"),
    "look-around": ('start: /a(?=b)/ "b"', "no examples", "error", "not supported"),
    "no decoding": ('start: a\na.2: "x"', "does not compile", "error", "for decoding: at 2(6): priority not supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_found(name: str) -> None:
    text, what, level, detail = BAD[name]
    findings = [finding for finding in look(text).findings if finding.what == what]
    assert detail in "\n".join(finding.detail for finding in findings)
    assert {finding.level for finding in findings} == {level}


CLEAN = {
    "sum": SUM,
    "white space once": 'start: "a" " " "b" ("," "c")*',
    "string": 'start: /"[^"]*"/',
    "text of spaces": 'start: "<" /[^<>]+/ ">"',
    "bounded": 'start: "a" / {1,4}/ "b"',
    "used inside a terminal": 'start: B\nB: "b" C\nC: "c"',
    "keyword": 'start: "[" NAME "]" | "<" "if" ">"\nNAME: /[a-z]+/',
}


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_right_is_left_alone(name: str) -> None:
    assert look(CLEAN[name]).findings == []


def test_findings_of_both_engines_are_told() -> None:
    report = look('start: a | b\na: "x"\nb: "x"')
    assert found(report, "does not compile").detail.startswith("grammar 'g' does not compile: Reduce/Reduce")


def test_many_overlaps_of_one_terminal_are_one_finding() -> None:
    report = look('start: WORD "!" | "aa" | "bb" | "cc" | "dd"\nWORD: /[a-z]{2}/')
    (finding,) = [finding for finding in report.findings if finding.what == "terminals overlap"]
    assert 'WORD overlaps so with "' in finding.detail
    assert all(f'"{letter * 2}"' in finding.detail for letter in "abcd")


def test_engines_that_disagree_about_whole_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    accepts = Grammar.accepts
    monkeypatch.setattr(Grammar, "accepts", lambda self, text: "[" not in text and accepts(self, text))
    finding = found(look(SUM, num_samples=20), "engines disagree")
    assert finding.level == "error"
    assert finding.detail == "the decoding engine takes '[x]', Lark does not parse it: it would be generated"
    monkeypatch.undo()
    monkeypatch.setattr(Walker, "_follow", lambda *_: False)
    finding = found(look(SUM), "engines disagree")
    assert finding.level == "error"
    assert finding.detail.startswith("Lark parses ")


def test_errors_fail_and_warnings_do_not(tmp_path: Path) -> None:
    warned = run("check", lark(tmp_path, 'start: "a"\nu: "b"'))
    assert warned.exit_code == 0
    assert "warning: unreachable rule: rule 'u' is used by no program\n  hint: remove it" in warned.stdout
    assert "0 errors, 1 warnings" in warned.stdout
    failed = run("check", lark(tmp_path, 'start: "a" | u\nu: "b" u'))
    assert isinstance(failed.exception, GrammarError)
    assert failed.exception.exit_code == 4
    assert re.search("grammar 'g' has [1-9] errors?$", failed.exception.message)
    assert "error: unproductive rule" in failed.stdout


def test_cases_are_run_in_both_engines(tmp_path: Path) -> None:
    cases = [
        ("accept", "x+x"),
        ("reject", "x+]"),
        ("incomplete", "[x"),
        ("accept", "x+"),
        ("reject", "x"),
        ("reject", ""),
    ]
    rows = "".join(json.dumps({"kind": kind, "text": text}) + "\n" for kind, text in cases)
    (tmp_path / "g.cases.jsonl").write_text(rows, encoding="utf-8")
    result = run("check", lark(tmp_path, SUM), "--json")
    report = json.loads(result.stdout)
    assert [f["detail"] for f in report["findings"]] == [
        "g.cases.jsonl:4: expected accept of 'x+': Lark says incomplete, decoding says incomplete",
        "g.cases.jsonl:5: expected reject of 'x': Lark says accept, decoding says accept",
        "g.cases.jsonl:6: expected reject of '': Lark says incomplete, decoding says incomplete",
    ]
    assert (report["facts"]["cases"], report["facts"]["cases_passed"]) == (6, 3)
    assert isinstance(result.exception, GrammarError)


def test_the_first_difference_of_a_target_has_a_place(tmp_path: Path) -> None:
    targets = ["x+x", "[x\n+x]", "[x\n+y]", "x+", "x"]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": "p", "target": t}) + "\n" for t in targets), encoding="utf-8")
    path = lark(tmp_path, SUM + '%ignore "\\n"\n')
    result = run("check", path, "--pairs", pairs, "--json")
    report = json.loads(result.stdout)
    (finding,) = [f for f in report["findings"] if f["what"] == "target"]
    assert finding["detail"].splitlines() == [
        "3 of 5 targets are accepted; the first that are not:",
        f"{pairs}:3: line 2, column 2: not allowed here",
        "+y]",
        " ^",
        'expected "[", "x", "\\n"',
        f"{pairs}:4: line 1, column 3: the program is not finished",
        "x+",
        "  ^",
        'expected "[", "x", "\\n"',
    ]
    assert report["facts"]["targets_accepted"] == 3
    assert report["facts"]["forced_bytes_of"] == "targets"


def without(characters: str) -> Backend:
    """A byte-level tokenizer that lacks some characters."""
    spelled = [c for c in byte_alphabet() if c not in characters]
    backend = Backend(models.BPE(vocab={c: n for n, c in enumerate(spelled)}, merges=[]))
    tiny = tiny_backend()
    backend.pre_tokenizer, backend.decoder = tiny.pre_tokenizer, tiny.decoder
    backend.add_special_tokens([AddedToken(EOS_TOKEN, special=True)])
    return backend


def test_dead_ends_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(without("z").to_str(), encoding="utf-8")
    result = run("check", lark(tmp_path, 'start: "a" Z | "b"+\nZ: /z+/'), "--tokenizer", tokenizer, "--json")
    details = [f["detail"] for f in json.loads(result.stdout)["findings"] if f["what"] == "dead end"]
    assert "no row of tokens spells Z" in details
    assert "after 'a' no token is legal" in details
    assert isinstance(result.exception, GrammarError)
    result = run("check", lark(tmp_path, 'start: "z"'), "--tokenizer", tokenizer, "--json")
    assert json.loads(result.stdout)["findings"][-1]["what"] == "does not compile with these tokens"


def test_reachable_tokens_and_forced_bytes_are_counted() -> None:
    facts = look('start: "abc" ("d" | "e")', num_samples=30).facts
    assert (facts["reachable_tokens"], facts["reachable_tokens_at_most"]) == (5, 5)
    assert facts["forced_bytes"] == 0.75
    assert facts["min_tokens"] == 4


# --- why


def test_why_a_text_is_refused(tmp_path: Path) -> None:
    path = write_language(tmp_path) / "grammar.lark"
    result = run("why", path, "set hall x")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("note: bytes were the tokens")
    assert lines[1].startswith("    1 's'            of 2 allowed: ")
    assert lines[1].endswith("as 'o' 's'")
    assert lines[10].startswith("x  10 'x'")
    assert lines[11:14] == ["refused: line 1, column 10: not allowed here", "set hall x", "         ^"]
    assert lines[14].startswith("expected ")
    assert "LEVEL" in lines[14]


def test_why_with_a_models_tokens(tmp_path: Path) -> None:
    path = write_language(tmp_path) / "grammar.lark"
    result = run("why", path, "off hall", "--tokenizer", write_tokenizer(tmp_path))
    assert "note: " in result.stdout
    assert "1 'off'" in result.stdout or "1 'o'" in result.stdout
    assert result.stdout.splitlines()[-1] == "accepted: a whole program"


def test_why_a_text_is_not_finished_or_read_otherwise(tmp_path: Path) -> None:
    assert (
        "incomplete: line 1, column 3: the program is not finished\nx+\n  ^\nexpected "
        in run("why", lark(tmp_path, SUM), "x+").stdout
    )
    result = run("why", lark(tmp_path, 'start: "if" | NAME "!"\nNAME: /[a-z]+/'), "if!")
    assert "the decoding engine allows it, Lark refuses it: line 1, column 3" in result.stdout
    assert run("why", lark(tmp_path, 'start: "a"?'), "").stdout.endswith("accepted: a whole program\n")


def test_a_caret_stands_under_wide_characters_and_in_long_lines(tmp_path: Path) -> None:
    result = run("why", lark(tmp_path, 'start: "漢字" "a"*'), "漢字x")
    assert "column 3: not allowed here\n漢字x\n    ^\n" in result.stdout
    result = run("why", lark(tmp_path, 'start: "a"*'), "a" * 300 + "x" + "a" * 300)
    excerpt, caret = result.stdout.splitlines()[-3:-1]
    assert len(excerpt) <= 80
    assert excerpt[len(caret) - 1] == "x"


def test_half_a_surrogate_pair_is_told(tmp_path: Path) -> None:
    error = run("why", lark(tmp_path, SUM), "x\udc80").exception
    assert isinstance(error, GrammarError)
    assert "not valid Unicode" in error.message


# --- fuzz


def test_fuzz_ends_with_a_line_of_json(tmp_path: Path) -> None:
    path = write_language(tmp_path) / "grammar.lark"
    result = run("fuzz", path, "--n", 44, "--tokenizer", write_tokenizer(tmp_path))
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert list(line) == KEYS
    assert (line["n"], line["parsed"]) == (44, 44)
    assert (line["over_budget"], line["invented_names"], line["errors"]) == (0, 0, 0)
    assert line["min_budget"] > 1
    assert 0 < line["mask_us_p50"] <= line["mask_us_p99"]
    assert list(json.loads(run("fuzz", path, "--n", 2, "--json").stdout)) == KEYS


def test_fuzz_of_a_shipped_grammar() -> None:
    line = json.loads(run("fuzz", "flow", "--n", 66, "--json").stdout)
    assert (line["parsed"], line["over_budget"], line["invented_names"]) == (66, 0, 0)


def test_fuzz_fails_when_a_program_does_not_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grammar, "accepts", lambda _, text: len(text) > 1)
    result = run("fuzz", lark(tmp_path, SUM), "--n", 4)
    assert isinstance(result.exception, GrammarError)
    assert result.exception.exit_code == 4
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["parsed"] < line["n"] == 4
    assert "failed: number 0, normal logits, greedy, budget 1: does not parse: 'x'" in result.stdout


def test_fuzz_counts_names_that_the_catalogue_does_not_have() -> None:
    grammar = Grammar(bind(GRAMMAR, Catalogue.from_lists(CATALOGUE)))
    fuzzer = Fuzzer(grammar, open_tokens(None), Catalogue.from_lists({"ROOM": ["kitchen"]}))
    result = fuzzer.run(20)
    assert result.parsed == 20
    assert result.invented_names > 5
    assert any("does not have hall" in failure or "does not have café" in failure for failure in fuzzer.failures)
    with pytest.raises(GrammarError, match="names are invented"):
        result.refuse()


def test_fuzz_counts_errors_of_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise GenerationError("a limit was met")

    monkeypatch.setattr(BudgetGuard, "choose", fail)
    fuzzer = Fuzzer(Grammar('start: "ab"'), open_tokens(None))
    result = fuzzer.run(3)
    assert (result.n, result.errors, result.parsed) == (3, 3, 0)
    assert fuzzer.failures[0] == "number 0, normal logits, greedy, budget 2: a limit was met"
    with pytest.raises(GrammarError, match=r"3 of 3 programs do not parse \(3 errors\)"):
        result.refuse()


def test_fuzz_counts_what_is_over_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(_: Generation, requests: Iterable[Request], size: int) -> Iterator[Generated]:
        return (Generated(request, list(b"[[x]]")) for request in requests)

    monkeypatch.setattr(Generation, "batch", long)
    result = Fuzzer(Grammar(SUM), open_tokens(None)).run(6)
    assert (result.parsed, result.over_budget) == (6, 6)  # budgets 1, 1, 2, 2, 3, 3
    with pytest.raises(GrammarError, match="6 are over budget"):
        result.refuse()
    FuzzResult(n=1, parsed=1).refuse()


# --- railroad

HOSTILE = r"""
start: a+ ("x" | b)~2..3 [C] | sep{b, ","}
a: "</text><script>alert(1)</script>" | /<z+>&/ | "a".."f" | C* | (C b?)~3
b: D "漢"? "\""
sep{x, s}: x (s x)*
C: "c" D
D: /d/ | "q"
empty:
%declare NAME
n: NAME
%ignore " "
"""


@pytest.mark.parametrize("suffix", ["html", "svg"])
def test_a_railroad_file_is_well_formed_and_loads_nothing(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"g.{suffix}"
    catalogue = tmp_path / "g.catalogue.json"
    catalogue.write_text(json.dumps({"NAME": [f"<name {n}>" for n in range(30)]}), encoding="utf-8")
    result = run("railroad", lark(tmp_path, HOSTILE), "--output", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    text = output.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    tags = {element.tag.split("}")[-1] for element in root.iter()}
    assert not tags & {"script", "img", "image", "link", "iframe", "use", "foreignObject", "object"}
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    ids = {element.get("id") for element in root.iter()} - {None}
    links = {element.get("href") for element in root.iter() if element.get("href")}
    assert {"g-start", "g-sep", "g-C", "g-NAME"} <= ids
    assert {"#g-a", "#g-D", "#g-sep"} <= links
    shown = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {'"</text><script>alert(1)</script>"', "/<z+>&/", "2 to 3 times", "<name 3>"} <= shown
    assert "18 more names of the catalogue" in shown


def test_a_drawing_stays_inside_its_frame(tmp_path: Path) -> None:
    """Every corner of every box and track, in a page of all kinds of pieces."""
    output = tmp_path / "g.html"
    run("railroad", lark(tmp_path, HOSTILE.replace("%declare NAME\nn: NAME", "")), "--output", output)
    drawings = list(ET.fromstring(output.read_text(encoding="utf-8")).iter("svg"))
    assert len(drawings) > 6
    for drawing in drawings:
        width, height = float(drawing.attrib["width"]), float(drawing.attrib["height"])
        points = [point for path in drawing.iter("path") for point in corners(path.attrib["d"])]
        for box in drawing.iter("rect"):
            x, y, wide, high = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            points += [(x, y), (x + wide, y + high)]
        xs, ys = np.array(points).T
        assert xs.min() >= 0 and ys.min() >= 0 and xs.max() <= width and ys.max() <= height


def corners(data: str) -> list[tuple[float, float]]:
    """The points of an SVG path of the commands that diagrams use."""
    points, x, y = [], 0.0, 0.0
    for command, arguments in re.findall(r"([a-zA-Z])([^a-zA-Z]*)", data):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", arguments)]
        if command == "M":
            x, y = numbers
        else:
            dx, dy = {"h": (numbers[0], 0.0), "v": (0.0, numbers[0])}.get(command, tuple(numbers[-2:]))
            x, y = x + dx, y + dy
        points.append((x, y))
    return points


# --- what a grammar is called and what belongs to it


def test_a_grammar_that_is_not_there_names_the_shipped_ones() -> None:
    error = run("sample", "nothing").exception
    assert isinstance(error, GrammarError)
    assert "flow, " in error.hint


def test_catalogue_and_cases_are_found_beside_a_grammar(tmp_path: Path) -> None:
    write_language(tmp_path)
    (tmp_path / "grammar.cases.jsonl").write_text('{"kind": "accept", "text": "off hall"}\n\n', encoding="utf-8")
    language = open_language(str(tmp_path / "grammar.lark"))
    assert language.catalogue is not None
    assert set(language.catalogue.terminals) == {"ROOM"}
    assert [case.text for case in language.cases] == ["off hall"]
    other = tmp_path / "other.json"
    other.write_text('{"ROOM": ["attic"]}', encoding="utf-8")
    assert run("sample", tmp_path / "grammar.lark", "--catalogue", other, "--n", 1).stdout.count("attic") >= 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no object with a string 'text'"),
        ('{"kind": "accept", "text": "\\ud800"}', "no object with a string 'text'"),
        ('{"kind": "maybe", "text": "x"}', "kind is 'maybe', expected one of accept, reject, incomplete"),
    ],
)
def test_a_bad_line_of_cases_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = lark(tmp_path, f"\n{line}\n", "bad.jsonl")
    with pytest.raises(GrammarError, match=r"bad\.jsonl:2") as info:
        list(read_cases(path))
    assert message in info.value.message


# --- tokens


def test_a_byte_is_a_token() -> None:
    tokenizer = byte_tokenizer()
    text = "aé漢\x00\n don't  'x"
    assert tokenizer.encode_plain(text) == list(text.encode())
    assert tokenizer.decode(text.encode()) == text
    assert tokenizer.token_id(END_TOKEN) == tokenizer.vocab_size - 1 == 256
    assert tokenizer.encode_plain(END_TOKEN) == list(END_TOKEN.encode())


def test_the_end_token_of_a_tokenizer(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "with")
    tokens = open_tokens(folder)
    assert tokens.end_token_id == tokens.tokenizer.token_id(EOS_TOKEN)
    assert str(tokens.tokenizer.vocab_size) in tokens.description
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_start|>"}}', encoding="utf-8")
    assert open_tokens(folder).end_token_id == tokens.tokenizer.token_id("<|im_start|>")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "a"}', encoding="utf-8")  # spells text: no end
    assert open_tokens(folder).end_token_id == tokens.end_token_id
    (folder / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    assert open_tokens(folder / "tokenizer.json").end_token_id == tokens.end_token_id
    plain = Backend(models.BPE(vocab={"a": 0}, merges=[]))
    (tmp_path / "tokenizer.json").write_text(plain.to_str(), encoding="utf-8")
    with pytest.raises(ModelError, match="none of the usual end tokens"):
        open_tokens(tmp_path)
