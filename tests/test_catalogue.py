"""Names bound to the terminals that a grammar declares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "catalogue.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_read_and_written_alike(tmp_path: Path) -> None:
    document = {"CITY": ["Rome", "Øslo"], "DAY_2": ["one day"]}
    catalogue = Catalogue.from_file(write(tmp_path, json.dumps(document)))
    assert catalogue.terminals == {"CITY": ("Rome", "Øslo"), "DAY_2": ("one day",)}
    assert catalogue.to_dict() == document


def test_invented_names_are_those_of_bound_terminals_that_it_does_not_have() -> None:
    catalogue = Catalogue.from_lists({"CITY": ["Rome", "Oslo"]})
    tokens = [("CITY", "Rome"), ("CITY", "Roma"), ("WORD", "Roma"), ('"to"', "to"), ("CITY", "Roma")]
    assert catalogue.invented(tokens) == ["Roma", "Roma"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
        ("[]", "holds a list, expected an object"),
        ('"x"', "holds a str"),
        ('{"city": ["a"]}', "'city' is not a terminal name"),
        ('{"1A": ["a"]}', "'1A' is not a terminal name"),
        ('{"A-B": ["a"]}', "'A-B' is not a terminal name"),
        ('{"A": []}', "A must be a non-empty list of non-empty strings"),
        ('{"A": "abc"}', "A must be a non-empty list"),
        ('{"A": ["a", ""]}', "A must be a non-empty list"),
        ('{"A": ["a", 3]}', "A must be a non-empty list"),
        ('{"A": ["a", "b", "a"]}', "A holds 'a' twice"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(GrammarError) as info:
        Catalogue.from_file(path)
    assert message in info.value.message
    assert str(path) in info.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="does not exist"):
        Catalogue.from_file(tmp_path / "catalogue.json")


def test_bind_defines_each_declared_terminal() -> None:
    source = 'start: "go" CITY DAY\n  %declare CITY   DAY // names\nNUM: /[0-9]+/\n'
    bound = bind(source, Catalogue.from_lists({"CITY": ("Rome", 'a"b\\'), "DAY": ("mon",)}))
    assert bound == 'start: "go" CITY DAY\nCITY: "Rome" | "a\\"b\\\\"\nDAY: "mon"\nNUM: /[0-9]+/\n'


def test_a_grammar_without_declarations_needs_no_catalogue() -> None:
    source = 'start: "a"\n// %declare is only mentioned here\n'
    assert bind(source, None) == source
    assert bind(source, Catalogue.from_lists({})) == source


@pytest.mark.parametrize("catalogue", [None, Catalogue.from_lists({}), Catalogue.from_lists({"A": ("x",)})])
def test_a_declared_terminal_without_entries_is_an_error(catalogue: Catalogue | None) -> None:
    with pytest.raises(GrammarError, match="declares B, which the catalogue does not have") as info:
        bind("start: A B\n%declare A B\n" if catalogue and catalogue.terminals else "start: B\n%declare B\n", catalogue)
    assert '"B": [...]' in info.value.hint


def test_entries_bound_to_nothing_are_an_error() -> None:
    with pytest.raises(GrammarError, match="has EXTRA, which the grammar does not declare") as info:
        bind("start: A\n%declare A\n", Catalogue.from_lists({"A": ("x",), "EXTRA": ("y",)}))
    assert "%declare EXTRA" in info.value.hint


# Everything that JSON can spell and a terminal can hold, except what Lark itself cannot read in a string.
entries = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(str.strip)


@given(names=st.lists(entries, min_size=1, max_size=5, unique=True))
def test_a_bound_terminal_spells_exactly_its_entries(names: list[str]) -> None:
    grammar = Grammar(bind('start: "<" NAME ">"\n%declare NAME\n', Catalogue.from_lists({"NAME": tuple(names)})))
    for name in names:
        assert grammar.accepts(f"<{name}>")
    assert not grammar.accepts("<>")
    other = "".join(names) + "?"
    assert not grammar.accepts(f"<{other}>")
