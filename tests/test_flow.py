import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random

import llguidance
import numpy as np
import pytest

from edgedsl.errors import DataError
from edgedsl.grammar import Grammar
from edgedsl.grammars import flow_phrases, flow_signatures
from edgedsl.grammars.flow_pairs import SHAPES, Pair, generate, split, write_dataset
from edgedsl.grammars.flow_signatures import FUNCTIONS

FOLDER = files("edgedsl.grammars")
CASES = [json.loads(line) for line in (FOLDER / "flow.cases.jsonl").read_text(encoding="utf-8").splitlines()]
TABLES = ("CLAUSES", "NOUNS", "SCHEDULES", "QUERIES", "ACTIONS")
REFERENCE = re.compile(r"=(it|s1|s2)\.(\w+)")


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.from_files(Path(str(FOLDER / "flow.lark")), Path(str(FOLDER / "flow.catalogue.json")))


@pytest.fixture(scope="module")
def first_matcher(grammar: Grammar) -> llguidance.LLMatcher:
    compiled = llguidance.grammar_from("lark", grammar.source)
    return llguidance.LLMatcher(llguidance.LLTokenizer("byte"), compiled, log_level=0)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return generate(2900, seed=0)


def walk(first: llguidance.LLMatcher, text: str) -> str:
    """Accept, reject or incomplete, byte by byte."""
    matcher = first.deep_copy()
    for byte in text.encode():
        if not matcher.validate_tokens([byte]):
            return "reject"
        assert matcher.consume_token(byte)
    return "accept" if matcher.is_accepting() else "incomplete"


def wander(first: llguidance.LLMatcher, rng: Random) -> str | None:
    """A random program: bytes that end names and literals are preferred, or most walks would be one long word."""
    matcher, text = first.deep_copy(), bytearray()
    hurry = rng.choice((0.1, 0.5, 0.8))
    while len(text) < 300:
        if matcher.is_accepting() and rng.random() < 0.3:
            break
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[:256]).tolist()
        if not allowed:
            break
        closing = [i for i in allowed if chr(i) in '),"=;: .do']
        byte = rng.choice(closing if closing and rng.random() < hurry else allowed)
        assert matcher.consume_token(byte)
        text.append(byte)
    return text.decode() if matcher.is_accepting() else None


def test_generated_files_are_current() -> None:
    assert (FOLDER / "flow.lark").read_text(encoding="utf-8") == flow_signatures.lark_source()
    assert json.loads((FOLDER / "flow.catalogue.json").read_text(encoding="utf-8")) == flow_signatures.catalogue()


def test_language_is_as_large_as_promised() -> None:
    assert len(FUNCTIONS) >= 60
    assert len({function.connector for function in FUNCTIONS}) >= 12
    assert len({function.full_name for function in FUNCTIONS}) == len(FUNCTIONS)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{i}" for i, case in enumerate(CASES)])
def test_case(case: dict[str, str], grammar: Grammar, first_matcher: llguidance.LLMatcher) -> None:
    assert walk(first_matcher, case["text"]) == case["kind"]
    assert grammar.accepts(case["text"]) == (case["kind"] == "accept")


def test_cases_cover_each_kind() -> None:
    kinds = Counter(case["kind"] for case in CASES)
    assert set(kinds) == {"accept", "reject", "incomplete"}
    assert len(CASES) >= 30


def test_whatever_the_mask_allows_parses(grammar: Grammar, first_matcher: llguidance.LLMatcher) -> None:
    rng = Random(0)
    programs = [text for text in (wander(first_matcher, rng) for _ in range(550)) if text is not None]
    assert len(programs) >= 500
    assert [text for text in programs if not grammar.accepts(text)] == []


def test_targets_parse_in_both_engines(
    pairs: list[Pair], grammar: Grammar, first_matcher: llguidance.LLMatcher
) -> None:
    assert [pair.target for pair in pairs if not grammar.accepts(pair.target)] == []
    assert [pair.target for pair in pairs[:400] if walk(first_matcher, pair.target) != "accept"] == []


def test_same_seed_gives_the_same_pairs() -> None:
    assert generate(50, seed=3) == generate(50, seed=3)
    assert generate(50, seed=3) != generate(50, seed=4)
    assert generate(50, seed=3) == generate(80, seed=3)[:50]


def test_literals_stand_in_the_sentence(pairs: list[Pair]) -> None:
    assert [pair for pair in pairs if any(literal not in pair.prompt for literal in pair.literals)] == []
    assert all(literal in pair.target for pair in pairs for literal in pair.literals)


def test_references_name_outputs_of_their_source(pairs: list[Pair]) -> None:
    outputs = {f.full_name: {output.name for output in f.outputs} for f in FUNCTIONS}
    for pair in pairs:
        head, _, tail = pair.group.rpartition(" do ")
        scope = {"it": head.split()[1].split("(")[0]} if head else {}
        for number, step in enumerate(tail.split("; "), start=1):
            for source, name in REFERENCE.findall(step):
                assert name in outputs[scope[source]], pair.target
                assert sum(name in outputs[function] for function in scope.values()) == 1, f"'the {name}' is unclear"
            scope[f"s{number}"] = step.split("(")[0]


def test_a_sentence_has_one_meaning() -> None:
    meanings: dict[str, set[str]] = {}
    for seed in range(4):
        for pair in generate(1500, seed):
            meanings.setdefault(pair.prompt, set()).add(pair.target)
    assert [prompt for prompt, targets in meanings.items() if len(targets) > 1] == []


def expand(template: str) -> set[str]:
    """Every wording of a phrase, its parameters as ``_``."""
    template = template.lstrip("!")
    if option := re.search(r"\[([^\]]*)\]", template):
        before, after = template[: option.start()], template[option.end() :]
        return expand(before + after) | expand(before + option[1] + after)
    if choice := re.search(r"<([^<>|]+\|[^<>]+)>", template):
        return set().union(*(expand(template.replace(choice[0], one, 1)) for one in choice[1].split("|")))
    return {re.sub(r"\{\w+!?\}", "_", template)}


@pytest.mark.parametrize("table", TABLES)
def test_phrases_belong_to_one_function(table: str) -> None:
    owners: dict[str, set[str]] = {}
    for function, templates in getattr(flow_phrases, table).items():
        for wording in set().union(*(expand(template) for template in templates)):
            owners.setdefault(wording, set()).add(function)
    assert {wording: names for wording, names in owners.items() if len(names) > 1} == {}


def test_each_function_has_six_phrasings() -> None:
    tables = (
        flow_phrases.CLAUSES,
        flow_phrases.NOUNS,
        flow_phrases.SCHEDULES,
        flow_phrases.QUERIES,
        flow_phrases.ACTIONS,
    )
    for function in FUNCTIONS:
        templates = [template for table in tables for template in table.get(function.full_name, ())]
        assert len(set().union(*(expand(template) for template in templates))) >= 6, function.full_name


def test_split_holds_out_groups_and_keeps_functions(pairs: list[Pair]) -> None:
    parts = split(pairs, seed=0, num_dev=100, num_test=200)
    assert [len(parts["dev"]), len(parts["test"])] == [100, 200]
    groups = {name: {pair.group for pair in part} for name, part in parts.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["dev"]
    assert not groups["dev"] & groups["test"]
    assert {name for pair in parts["train"][:2000] for name in pair.functions} == {f.full_name for f in FUNCTIONS}
    assert {pair.shape for pair in parts["test"]} == set(SHAPES)


def test_split_refuses_too_few_groups() -> None:
    with pytest.raises(DataError, match="expected 90"):
        split(generate(100, seed=0), seed=0, num_test=90)


def test_write_dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_train=400, num_dev=20, num_test=40, seed=1)
    sizes = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(tmp_path.iterdir())}
    assert sizes == {"dev": 20, "test": 40, "train": 400, "refusals": 120}
    row = json.loads((tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(row) == {"id", "prompt", "target", "group"}
