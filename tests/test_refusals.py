"""Programs that say no: the production, the requests it is learnt from, and how it is measured."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted import ScriptedDecoder, fake_bundle, use_engine, write_rows
from tiny import CATALOGUE, GRAMMAR, tiny_template, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.cli import group
from edgedsl.data.pairs import Pair, read_pairs
from edgedsl.errors import DataError, GrammarError
from edgedsl.evaluation import refusals
from edgedsl.evaluation.misses import miss_class
from edgedsl.grammar import Grammar
from edgedsl.grammar.refusals import can_refuse, is_refusal
from edgedsl.grammar.sources import tools
from edgedsl.grammars import flow_pairs
from edgedsl.grammars.flow_refusal_phrases import KINDS, NEAR_MISS, POOLS
from edgedsl.grammars.flow_refusals import PHRASES, REFUSAL, SHARES, mixed, requests, split
from edgedsl.grammars.flow_signatures import ENUMERATIONS, FUNCTIONS
from edgedsl.runtime.engine import Engine

GRAMMARS = Path(str(resources.files("edgedsl.grammars")))
SHIPPED = ("flow", "thingtalk", "json-call", "sql-select", "vql", "bash-lite", "cypher-read", "cron", "promql")
SIZES = {"train": 300, "dev": 50, "test": 60, "refusals": 90}
TOOLS = [{"name": "refusal", "parameters": ["why"]}, {"name": "unsupported", "parameters": []}]


def shipped(name: str) -> Grammar:
    catalogue = GRAMMARS / f"{name}.catalogue.json"
    return Grammar.from_files(GRAMMARS / f"{name}.lark", catalogue if catalogue.exists() else None)


@pytest.fixture(scope="module")
def flow() -> Grammar:
    return shipped("flow")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Pair]]:
    folder = tmp_path_factory.mktemp("data")
    sizes = {f"num_{part}": size for part, size in SIZES.items()}
    flow_pairs.write_dataset(folder, **sizes, seed=3)
    return {part: read_pairs(folder / f"{part}.jsonl") for part in SIZES}


# The production


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ('start: "go" | refusal\nrefusal: "no"', "no", True),
        ('start: "go" | refusal\nrefusal: "no"', "go", False),
        ('start: "go" | refusal\nrefusal: "no"', "nope", False),
        ('start: "go" | refusal\nrefusal: NO\nNO: /no|never/', "never", True),
        ("?start: /g/ | refusal\nrefusal: /n/", "n", True),
        ("start: line\nline: /g/ | refusal\nrefusal: /n/", "n", True),
        ("start: line+\nline: /g/ | refusal\nrefusal: /n/", "ng", False),
        ('start: "go"', "go", False),
        ('start: "go"\nrefusal: "no"', "no", False),
    ],
)
def test_a_refusal_is_a_program_that_consists_of_one(source: str, text: str, expected: bool) -> None:
    assert is_refusal(Grammar(source), text) is expected


def test_a_rule_that_nothing_reaches_is_no_refusal() -> None:
    assert not can_refuse(Grammar('start: "go"\nrefusal: "no"'))
    assert can_refuse(Grammar('start: "go" | refusal\nrefusal: "no"'))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grammars_have_one_refusal_and_no_other_case_is_one(name: str) -> None:
    cases = [json.loads(line) for line in (GRAMMARS / f"{name}.cases.jsonl").read_text("utf-8").splitlines()]
    grammar = shipped(name)
    (case,) = [case for case in cases if is_refusal(grammar, case["text"])]
    assert case["kind"] == "accept"
    assert "unsupported" in case["text"]
    assert "refusal" in (GRAMMARS / f"{name}.README.md").read_text("utf-8")


def test_every_word_is_a_regular_expression_so_that_none_is_left_to_refuse_with() -> None:
    grammar = shipped("regex")
    assert grammar.accepts("unsupported")
    assert not can_refuse(grammar)


@pytest.mark.parametrize(("calls", "text"), [("one", tools.REFUSAL), ("many", f"[{tools.REFUSAL}]")])
@pytest.mark.parametrize("order", ["schema", "any"])
def test_tools_with_a_refusal(calls: Any, order: Any, text: str) -> None:
    imported = tools.to_lark(TOOLS, calls=calls, order=order, refusal=True)
    grammar = Grammar(imported.source)
    call = json.dumps({"name": "unsupported", "arguments": {}})
    assert is_refusal(grammar, text)
    assert grammar.accepts(call if calls == "one" else f"[{call}]")
    assert not is_refusal(grammar, call if calls == "one" else f"[{call}]")
    assert not grammar.accepts(f"[{tools.REFUSAL}, {call}]")
    assert not any("overlap" in note or "confuse" in note for note in imported.notes)


def test_a_tool_called_refusal_is_none() -> None:
    assert not can_refuse(Grammar(tools.to_lark(TOOLS).source))


def test_only_tools_can_be_given_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "a.regex").write_text("a", encoding="utf-8")
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    result = CliRunner().invoke(group, ["grammar", "import", str(tmp_path / "a.regex"), "--refusal"])
    assert isinstance(result.exception, GrammarError)
    assert "not to regex" in result.exception.message
    result = CliRunner().invoke(group, ["grammar", "import", str(tmp_path / "tools.json"), "--refusal"])
    assert is_refusal(Grammar(result.stdout), tools.REFUSAL)


# The requests of flow


@pytest.mark.parametrize("kind", KINDS)
def test_every_phrase_is_in_one_part(kind: str) -> None:
    parts = split(kind, seed=5)
    every = [item for part in parts.values() for item in part]
    assert sorted(every) == sorted((topic, phrase) for topic, all_ in PHRASES[kind].items() for phrase in all_)
    phrases = [phrase for _, phrase in every]
    assert len(set(phrases)) == len(phrases) >= 60
    assert len(parts["test"]) >= 18 and len(parts["dev"]) >= 5
    assert split(kind, seed=6)["test"] != parts["test"]


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_seeded_distinct_and_even(kind: str) -> None:
    found = requests(kind, "train", 130, seed=0)
    assert found == requests(kind, "train", 130, seed=0) != requests(kind, "train", 130, seed=1)
    assert len({request.prompt for request in found}) == 130
    assert not [request.prompt for request in found if re.search(r"[{}<>|*!]", request.prompt)]
    used = [request.phrase for request in found]
    assert set(used) == {phrase for _, phrase in split(kind, 0)["train"]}
    assert max(map(used.count, used)) <= 8


def test_more_requests_than_the_phrases_give_are_refused() -> None:
    with pytest.raises(DataError, match="'unrelated' give"):
        requests("unrelated", "train", 5000, 0, frozenset({"games"}))


def test_a_topic_can_be_chosen() -> None:
    found = requests("unrelated", "train", 12, 0, frozenset({"coding"}))
    assert {request.topic for request in found} == {"coding"}


def test_the_kinds_have_their_shares() -> None:
    kinds = [request.kind for request in mixed("train", 200, seed=0)]
    assert {kind: kinds.count(kind) / 2 for kind in KINDS} == SHARES


def signature_words() -> set[str]:
    """Everything that a program of flow can name, but for free words."""
    fields = [field for function in FUNCTIONS for field in (*function.parameters, *function.outputs)]
    functions = {name for function in FUNCTIONS for name in (function.connector, function.name)}
    return functions | {field.name for field in fields} | {name for names in ENUMERATIONS.values() for name in names}


@pytest.mark.parametrize("topic", NEAR_MISS)
def test_near_misses_mark_something_that_flow_does_not_have(topic: str) -> None:
    known = signature_words()
    assert "dishwasher" in known and "deploy" in known
    for phrase in NEAR_MISS[topic]:
        (missing,) = re.findall(r"\*(.+?)\*", phrase)
        slot = re.fullmatch(r"\{(\w+)\}", missing)
        for name in POOLS[slot[1]] if slot else [missing]:
            assert not known & set(re.findall(r"\w+", name)), f"{phrase}: flow has {name}"


def test_files_hold_their_shares_and_test_is_programs_only(data: dict[str, list[Pair]], flow: Grammar) -> None:
    assert {part: len(pairs) for part, pairs in data.items()} == SIZES
    refused = {part: [pair for pair in pairs if is_refusal(flow, pair.target)] for part, pairs in data.items()}
    assert {part: len(pairs) for part, pairs in refused.items()} == {"train": 18, "dev": 3, "test": 0, "refusals": 90}
    assert {pair.target for pairs in refused.values() for pair in pairs} == {REFUSAL}
    groups = [pair.group for pair in data["refusals"]]
    assert {kind: groups.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 30)
    assert len({pair.id for pairs in data.values() for pair in pairs}) == sum(SIZES.values())


def test_the_ordinary_test_part_does_not_depend_on_refusals(
    data: dict[str, list[Pair]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_pairs, "REFUSAL_SHARE", 0.0)
    flow_pairs.write_dataset(tmp_path, 300, 50, 60, seed=3, num_refusals=0)
    rows = [(pair.id, pair.prompt, pair.target) for pair in read_pairs(tmp_path / "test.jsonl")]
    assert rows == [(pair.id, pair.prompt, pair.target) for pair in data["test"]]


def test_no_sentence_and_no_phrase_of_the_measured_refusals_is_in_train(data: dict[str, list[Pair]]) -> None:
    prompts = {part: {pair.prompt for pair in pairs} for part, pairs in data.items()}
    assert not prompts["refusals"] & (prompts["train"] | prompts["dev"] | prompts["test"])
    assert not prompts["train"] & prompts["dev"]
    held_out = {phrase for kind in KINDS for _, phrase in split(kind, 3)["test"]}
    learnt = {pair.group.split(": ", 1)[1] for pair in data["train"] if pair.target == REFUSAL}
    assert len(learnt) >= 15
    assert not held_out & learnt


def test_no_ordinary_program_is_a_refusal(flow: Grammar) -> None:
    assert [pair.target for pair in flow_pairs.generate(400, seed=0) if is_refusal(flow, pair.target)] == []


# Measured


def pair(target: str, kind: str = "") -> Pair:
    return Pair("1", "p", target, kind, "f:1")


def test_rates_by_kind() -> None:
    grammar = Grammar('start: /[a-c]/ | refusal\nrefusal: "no"')
    pairs = [pair("no", "x: 1"), pair("no", "x: 2"), pair("no", "y"), pair("a"), pair("b"), pair("c"), pair("a")]
    measured = refusals.measure(grammar, pairs, ["no", "a", "no", "no", "b", "a", ""])
    assert measured == {
        "num_rows": 3,
        "refusal_rate": pytest.approx(2 / 3, abs=1e-6),
        "kinds": [
            {"kind": "x", "num_rows": 2, "refusal_rate": 0.5},
            {"kind": "y", "num_rows": 1, "refusal_rate": 1.0},
        ],
        "num_programs": 4,
        "wrong_refusal_rate": 0.25,
    }
    columns = refusals.columns(measured)
    assert list(columns) == ["refusal_rate", "x_refusal_rate", "y_refusal_rate", "wrong_refusal_rate"]


def test_nothing_is_measured_where_there_is_nothing() -> None:
    assert refusals.measure(Grammar('start: "a"'), [pair("a")], ["a"]) is None
    assert refusals.columns(None) == {}
    measured = refusals.measure(Grammar('start: "a" | refusal\nrefusal: "no"'), [pair("a")], ["a"])
    assert measured is not None
    assert (measured["refusal_rate"], measured["kinds"], measured["wrong_refusal_rate"]) == (None, [], 0.0)


def test_groups_of_single_rows_are_no_kinds() -> None:
    grammar = Grammar('start: "a" | refusal\nrefusal: "no"')
    measured = refusals.measure(grammar, [pair("no", f"g{n}") for n in range(40)], ["no"] * 40)
    assert measured is not None
    assert (measured["refusal_rate"], measured["kinds"]) == (1.0, [])


def test_misses_say_which_way() -> None:
    grammar = Grammar('start: /[a-c]/ | refusal\nrefusal: "no"')
    assert miss_class(grammar, "a", "no", finish_reason="stop") == "refused"
    assert miss_class(grammar, "no", "a", finish_reason="stop") == "not refused"


ANSWERS = {  # sentence -> target, answer
    "kitchen to 20": ("set kitchen 20", "set kitchen 20"),
    "hall off": ("off hall", "no"),
    "tell a joke": ("no", "no"),
    "open the gate": ("no", "off hall"),
    "pick the lock": ("no", "no"),
}


def engine(source: str) -> Engine:
    catalogue = Catalogue.from_lists(CATALOGUE)
    decoder: Any = ScriptedDecoder({prompt: said for prompt, (_, said) in ANSWERS.items()}, {})
    grammar = Grammar(bind(source, catalogue), name="grammar.lark")
    parts = {"tokenizer": tiny_tokenizer(), "template": tiny_template(), "grammar": grammar, "decoder": decoder}
    return Engine(name="tiny", **parts)  # type: ignore[arg-type]


def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, *flags: str) -> Result:
    use_engine(monkeypatch, engine(source))
    fake_bundle(tmp_path / "bundle", [])
    rows = [{"prompt": prompt, "target": target} for prompt, (target, _) in ANSWERS.items()]
    write_rows(tmp_path / "data" / "test.jsonl", rows[:3])
    write_rows(tmp_path / "data" / "refusals.jsonl", [{**row, "group": row["prompt"].split()[0]} for row in rows[3:]])
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(group, ["eval", "--max-tokens", "30", *flags])


REFUSING = re.sub(r"^start: (.*)$", r'start: \1 | refusal\nrefusal: "no"', GRAMMAR, flags=re.MULTILINE)


def test_eval_counts_refusals_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate(tmp_path, monkeypatch, REFUSING, "--refusals", "data/refusals.jsonl", "--json", "--output", "out")
    record = json.loads(result.stdout)
    measured = record["summary"]
    assert (measured["num_rows"], measured["exact_match"]) == (3, pytest.approx(2 / 3, abs=1e-6))
    assert measured["refusals"] == {
        "num_rows": 3,
        "refusal_rate": pytest.approx(2 / 3, abs=1e-6),
        "kinds": [
            {"kind": "open", "num_rows": 1, "refusal_rate": 0.0},
            {"kind": "pick", "num_rows": 1, "refusal_rate": 1.0},
        ],
        "num_programs": 2,
        "wrong_refusal_rate": 0.5,
    }
    assert measured["misses"] == [{"class": "refused", "count": 1}]
    assert record["rows"][0]["wrong_refusal_rate"] == 0.5
    assert record["refusal_pairs"]["name"] == "refusals.jsonl"
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [line["miss"] for line in lines] == [None, "refused", None, "not refused", None]
    assert "refused, of 3 that should be" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_eval_prints_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = evaluate(tmp_path, monkeypatch, REFUSING, "--refusals", "data/refusals.jsonl").stdout
    assert re.search(r"^refused, of 3 that should be +66\.7%", text, re.MULTILINE)
    assert re.search(r"^ +pick \(1\) +100\.0%", text, re.MULTILINE)
    assert re.search(r"^refused, of 2 others +50\.0%", text, re.MULTILINE)


def test_eval_of_a_grammar_without_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert GRAMMAR != REFUSING
    plain = evaluate(tmp_path, monkeypatch, GRAMMAR, "--json")
    record = json.loads(plain.stdout)
    assert record["summary"]["refusals"] is None
    assert not any("refus" in name for name in record["rows"][0])
    result = CliRunner().invoke(group, ["eval", "--refusals", "data/refusals.jsonl"])
    assert isinstance(result.exception, GrammarError)
    assert "no rule 'refusal'" in result.exception.message
