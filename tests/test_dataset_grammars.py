"""The grammars of SQL, VQL, Cypher and Bash: their cases in both engines, and how they fit the shared data."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from byte_walks import byte_matcher, random_walk, verdict
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.bench import dataset_grammars
from edgedsl.bench.dataset_grammars import LANGUAGES, Corpus, Row
from edgedsl.errors import DataError, GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.position import Automaton

GRAMMARS = Path(str(resources.files("edgedsl.grammars")))
SHARED = Path(__file__).parents[2] / "shared" / "data"
CLOSING = {"sql-select": b' );"', "vql": b" )\"'", "cypher-read": b")]}\"'", "bash-lite": b" )}\"'`;"}
SHORTEST = {  # a token a byte
    "sql-select": "unsupported",
    "vql": "unsupported",
    "cypher-read": "unsupported",
    "bash-lite": "w",
}
MAX_GROUPS = {"vql": 4, "cypher-read": 2}  # databases whose rows are sampled: a grammar is compiled for each


def cases(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (GRAMMARS / f"{name}.cases.jsonl").read_text("utf-8").splitlines()]


CASES = [pytest.param(name, case, id=f"{name}: {case['why']}") for name in LANGUAGES for case in cases(name)]


@cache
def grammar(name: str) -> Grammar:
    catalogue = GRAMMARS / f"{name}.catalogue.json"
    return Grammar.from_files(GRAMMARS / f"{name}.lark", catalogue if catalogue.exists() else None)


@cache
def first(name: str) -> Any:
    return byte_matcher(grammar(name))


def random_program(name: str, rng: random.Random) -> str | None:
    """A random walk from the beginning of a case."""
    case = rng.choice([case["text"] for case in cases(name) if case["kind"] == "accept"]).encode()
    begin = case[: rng.randrange(len(case))]
    return random_walk(first(name), rng, closing=CLOSING[name], max_bytes=80, begin=begin)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_cases_agree_in_both_engines(name: str, case: dict[str, str]) -> None:
    assert verdict(first(name), case["text"]) == case["kind"]
    assert grammar(name).accepts(case["text"]) is (case["kind"] == "accept")


@pytest.mark.parametrize("name", LANGUAGES)
def test_there_are_cases_of_every_kind(name: str) -> None:
    kinds = [case["kind"] for case in cases(name)]
    assert len(kinds) >= 25
    assert min(kinds.count(kind) for kind in ("accept", "reject", "incomplete")) >= 5


@pytest.mark.parametrize("name", LANGUAGES)
def test_case_prefixes_are_never_refused(name: str) -> None:
    automaton = Automaton(grammar(name).lark, "start")
    for case in cases(name):
        if case["kind"] == "accept":
            content = case["text"].encode()
            state, position = first(name).deep_copy(), automaton.start()
            for byte in content:
                assert state.consume_token(byte), case["text"]
                following = automaton.advance(position, bytes([byte]))
                assert following is not None, case["text"]
                position = following
            assert automaton.is_complete(position)


@pytest.mark.parametrize("name", LANGUAGES)
def test_random_walks_parse(name: str) -> None:
    rng = random.Random(0)
    programs = [program for _ in range(200) if (program := random_program(name, rng))]
    assert len(programs) >= 50
    assert [program for program in programs if not grammar(name).accepts(program)] == []


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_shortest_program_is_known(name: str) -> None:
    tokenizer = tiny_tokenizer(())
    planner = grammar(name).compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)]).planner
    assert grammar(name).accepts(SHORTEST[name])
    assert planner.min_tokens == len(SHORTEST[name])


@pytest.mark.parametrize("name", LANGUAGES)
def test_shared_sample_in_both_engines(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data is not on this machine")
    corpus = Corpus(name, SHARED)
    groups = sorted({row.group for row in corpus.rows})
    groups = random.Random(1).sample(groups, MAX_GROUPS.get(name, len(groups)))
    rows = random.Random(1).sample([row for row in corpus.rows if row.group in set(groups)], 200)
    failed = [row for row, _ in corpus.failures(rows)]
    num_valid = sum(map(corpus.is_valid, rows)) if failed else len(rows)
    assert len([row for row in failed if corpus.is_valid(row)]) <= 0.03 * num_valid
    starts = {row.group: byte_matcher(corpus.grammar(row.group)) for row in {row.group: row for row in rows}.values()}
    for row in rows:
        assert (verdict(starts[row.group], row.target) == "accept") is (row not in failed)


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"target": target, "group": group}) + "\n" for target, group in rows)
    path.write_bytes(gzip.compress("".join(lines).encode()))


def write_vql(folder: Path) -> Path:
    (folder / "nvbench").mkdir()
    good = "Visualize BAR SELECT Title , pages FROM Books"
    bad = "Visualize BAR SELECT price , pages FROM Books"
    write_rows(folder / "nvbench" / "train.jsonl.gz", [(good, "library"), (bad, "library")])
    write_rows(folder / "nvbench" / "dev.jsonl.gz", [("Visualize PIE SELECT a , b FROM t", "other")])
    schemas = {"library": {"books": {"title": "", "pages": ""}}, "other": {"t": {"a": "", "b": ""}}}
    (folder / "nvbench" / "schemas.json.gz").write_bytes(gzip.compress(json.dumps(schemas).encode()))
    return folder


def test_names_come_from_the_schema_and_their_spelling_from_the_programs(tmp_path: Path) -> None:
    corpus = Corpus("vql", write_vql(tmp_path))
    ((row, reason),) = corpus.failures(corpus.rows)
    assert "price" in row.target
    assert "unexpected 'price" in reason
    assert corpus.grammar("other").accepts("Visualize PIE SELECT a , b FROM t")
    with pytest.raises(GrammarError):
        corpus.grammar("other").parse("Visualize PIE SELECT Title , b FROM t")


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vql(tmp_path)
    assert dataset_grammars.main([str(tmp_path), "--language", "vql"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "vql: 3 rows, 3 valid, 2 parse (66.67%)"
    assert output[1].startswith("  library: line 1, column 22")
    assert dataset_grammars.main([str(tmp_path), "--language", "sql-select"]) == DataError.exit_code
    assert "advising" in capsys.readouterr().err


def test_graph_terminals() -> None:
    description = (
        'Node properties:\n- **Plant**\n  - `name`: STRING Example: "[:EATS]"\n  - `height`: INTEGER \n'
        "Relationship properties:\n- **TENDS**\n  - `since: DATE` Example\n"
        "The relationships:\n(:Gardener)-[:TENDS]->(:Plant)"
    )
    terminals = dataset_grammars.graph_terminals(description)
    assert terminals == {"LABEL": ["Plant"], "RELATIONSHIP": ["TENDS"], "PROPERTY": ["height", "name", "since"]}


def test_what_bash_rejects_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "nl2bash").mkdir()
    write_rows(tmp_path / "nl2bash" / "train.jsonl.gz", [("ls | wc -l", ""), ("-v", "")])
    write_rows(tmp_path / "nl2bash" / "dev.jsonl.gz", [("ls (", "")])
    corpus = Corpus("bash-lite", tmp_path)
    assert [corpus.is_valid(row) for row in corpus.rows] == [True, True, False]
    assert [row for row, _ in corpus.failures(corpus.rows)] == [Row("ls (", "")]
