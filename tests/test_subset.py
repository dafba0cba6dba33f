"""Parts of a catalogue, for one tenant or one request, and literals that stand in the sentence."""

import numpy as np
import pytest
from tiny import EOS_TOKEN, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import RequestError
from edgedsl.grammar import CompiledGrammar, Grammar, Spans, Subset
from edgedsl.grammar.authoring.generation import Generation
from edgedsl.grammar.authoring.language import open_language

SOURCE = """%declare FUNCTION
%declare DEVICE
%declare METHOD
%declare ARGUMENT
%declare DAY
start: (call | member) " on " DAY (" say " TEXT)?
call: "@" FUNCTION "(" (ARGUMENT ("," ARGUMENT)*)? ")"
member: "@" DEVICE "->" METHOD "()"
TEXT: /"[a-z ]+"/
"""
CATALOGUE = {
    "FUNCTION": {
        "com.mail.send": {"ARGUMENT": ["to", "text"]},
        "com.mail.read": {"ARGUMENT": []},
        "com.map": {"ARGUMENT": ["place"]},
        "org.map.find": {"ARGUMENT": ["place"]},
    },
    "DEVICE": {"com.mail": {"METHOD": ["send", "read"]}, "org.map": {"METHOD": ["find"]}},
    "METHOD": ["find", "read", "send"],
    "ARGUMENT": ["place", "text", "to"],
    "DAY": ["monday", "sunday"],
}


def grammar() -> Grammar:
    catalogue = Catalogue.from_dict(CATALOGUE)
    return Grammar(bind(SOURCE, catalogue), catalogue=catalogue)


@pytest.fixture(scope="module")
def compiled() -> CompiledGrammar:
    tokenizer = tiny_tokenizer(["com.", "mail", "@com", " on ", "day", "()", ") on", "->"])
    return grammar().compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])


def programs(compiled: CompiledGrammar, num: int = 200) -> list[str]:
    """Random programs at budgets from the shortest up."""
    generation = Generation(compiled, np.random.default_rng(5))
    token_bytes = compiled.planner.vocabulary.token_bytes
    found = []
    for number in range(num):
        token_ids = generation.program(compiled.planner.min_tokens + number % 30, is_greedy=number % 2 == 0)
        found.append(b"".join(token_bytes[i] for i in token_ids).decode())
    return found


ALL = {"com.mail.send", "com.mail.read", "com.map", "org.map.find"}


@pytest.mark.parametrize(
    ("subset", "functions", "devices"),
    [
        (Subset(allow=("com",)), {"com.mail.send", "com.mail.read", "com.map"}, {"com.mail": {"send", "read"}}),
        (Subset(allow=("com.mail",)), {"com.mail.send", "com.mail.read"}, {"com.mail": {"send", "read"}}),
        (Subset(allow=("com.mail.send",)), {"com.mail.send"}, {"com.mail": {"send"}}),
        (
            Subset(deny=("com.mail.send",)),
            ALL - {"com.mail.send"},
            {"com.mail": {"read"}, "org.map": {"find"}},
        ),
        (Subset(deny=("org.map",)), ALL - {"org.map.find"}, {"com.mail": {"send", "read"}}),
        (Subset(deny=("org.map.find",)), ALL - {"org.map.find"}, {"com.mail": {"send", "read"}}),
        (Subset(allow=("com",), deny=("com.mail",)), {"com.map"}, {}),
        (Subset(allow=("com.map",)), {"com.map"}, {}),
        (Subset(allow=("monday",)), set(), {}),
    ],
)
def test_what_is_left_of_a_catalogue(subset: Subset, functions: set[str], devices: dict[str, set[str]]) -> None:
    whole = Catalogue.from_dict(CATALOGUE)
    names = subset.of(whole, grammar().lark).names
    assert set(names["FUNCTION"]) == functions
    assert {name: set(bound["METHOD"]) for name, bound in names["DEVICE"].items()} == devices
    assert set(names["DAY"]) == ({"monday"} if subset.allow == ("monday",) else {"monday", "sunday"})


def test_a_denied_parameter_leaves_its_function() -> None:
    names = Subset(deny=("com.mail.send.text",)).of(Catalogue.from_dict(CATALOGUE), grammar().lark).names
    assert list(names["FUNCTION"]["com.mail.send"]["ARGUMENT"]) == ["to"]
    assert list(names["FUNCTION"]["com.mail.read"]["ARGUMENT"]) == []


def test_a_denied_parameter_is_not_written(compiled: CompiledGrammar) -> None:
    part = compiled.restrict(Subset(deny=("com.mail.send.text",)))
    position = part.planner.automaton.advance(part.planner.automaton.start(), b"@com.mail.send(t")
    assert position is not None
    assert part.planner.automaton.advance(position, b"o") is not None
    assert part.planner.automaton.advance(position, b"e") is None
    assert compiled.grammar.accepts("@com.mail.send(text) on sunday")
    assert not part.grammar.accepts("@com.mail.send(text) on sunday")


@pytest.mark.parametrize(
    ("subset", "message", "hint"),
    [
        (Subset(allow=("com.mial",)), "the catalogue has no 'com.mial'", "did you mean 'com.mail'?"),
        (Subset(deny=("com.mail.sned",)), "the catalogue has no 'com.mail.sned'", "did you mean 'com.mail.send'?"),
        (Subset(allow=("com.mai",)), "the catalogue has no 'com.mai'", "did you mean 'com.mail'?"),
        (Subset(allow=("zzz",)), "the catalogue has no 'zzz'", "name an entry, such as 'com.mail'"),
        (Subset(allow=()), "no name is allowed", "leave the list out to allow the whole catalogue"),
    ],
)
def test_names_that_cannot_be_chosen(compiled: CompiledGrammar, subset: Subset, message: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        compiled.restrict(subset)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_part_without_any_program(compiled: CompiledGrammar) -> None:
    with pytest.raises(RequestError, match="no program can be written"):
        compiled.restrict(Subset(deny=("monday", "sunday")))


def test_no_catalogue_no_part() -> None:
    tokenizer = tiny_tokenizer([])
    plain = Grammar('start: "a"').compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])
    with pytest.raises(RequestError, match="the catalogue has no 'x'"):
        plain.restrict(Subset(allow=("x",)))


@pytest.mark.parametrize(
    ("subset", "banned", "wanted"),
    [
        (Subset(allow=("com.mail",)), ("map",), "mail"),
        (Subset(deny=("com.mail",)), ("mail",), "map"),
        (Subset(deny=("monday",)), ("monday",), "sunday"),
        (Subset(allow=("com.map",)), ("mail",), "map"),
    ],
)
def test_only_programs_of_the_part_come_out(
    compiled: CompiledGrammar, subset: Subset, banned: tuple[str, ...], wanted: str
) -> None:
    part = compiled.restrict(subset)
    found = programs(part)
    assert [text for text in found if not part.grammar.accepts(text)] == []
    calls = [text.split(" say ")[0] for text in found]
    assert [text for text in calls if any(name in text for name in banned)] == []
    assert any(wanted in text for text in calls)
    assert any(name in text for text in programs(compiled) for name in banned), "the whole catalogue has them"


def test_the_reparse_knows_the_part(compiled: CompiledGrammar) -> None:
    part = compiled.restrict(Subset(deny=("com.mail.send",)))
    for text in ("@com.mail.send() on sunday", "@com.mail->send() on sunday"):
        assert compiled.grammar.accepts(text)
        assert not part.grammar.accepts(text)
    assert part.grammar.accepts("@com.mail.read() on sunday")


def test_parts_of_parts_and_their_order(compiled: CompiledGrammar) -> None:
    tenant = Subset(allow=("com",))
    assert compiled.restrict(tenant, Subset(deny=("com.map",))).grammar.accepts("@com.mail.read() on sunday")
    with pytest.raises(RequestError, match=r"the catalogue has no 'org\.map'"):
        compiled.restrict(tenant, Subset(allow=("org.map",)))


def test_parts_are_kept_up_to_a_number(compiled: CompiledGrammar) -> None:
    part = compiled.restrict(Subset(allow=("com.map",)))
    assert compiled.restrict(Subset(allow=("com.map",))) is part
    names = [
        ("com.map",),
        ("com",),
        ("org",),
        ("com.mail",),
        ("org.map",),
        ("com.map", "org"),
        ("com", "org"),
        ("com", "monday"),
        ("org", "sunday"),
    ]
    for allow in names:
        for deny in (("com.mail.read",), ("text",)):
            compiled.restrict(Subset(allow=allow, deny=deny)) if allow != ("com.map",) else None
    assert len(compiled._restricted) <= 16
    compiled.restrict(Subset(deny=("find",)))
    compiled.restrict(Subset(deny=("read",)))
    assert compiled.restrict(Subset(allow=("com.map",))) is not part


def test_literals_are_spans_of_the_sentence(compiled: CompiledGrammar) -> None:
    sentence = "On Monday, send hello big world"
    part = compiled.restrict(Spans(("TEXT",), sentence))
    found = programs(part, 200)
    assert [text for text in found if not part.grammar.accepts(text)] == []
    said = [text.split('"')[1].strip() for text in found if '"' in text]
    assert len(set(said)) > 3
    assert [text for text in said if text not in sentence] == []
    assert any(text not in sentence for text in (t.split('"')[1].strip() for t in programs(compiled, 200) if '"' in t))
    assert part.grammar.accepts('@com.map() on sunday say "hello big"')
    assert not part.grammar.accepts('@com.map() on sunday say "big hello"')


def test_spans_and_a_subset_together(compiled: CompiledGrammar) -> None:
    part = compiled.restrict(Subset(allow=("com.map",)), Spans(("TEXT",), "see you"))
    found = programs(part)
    assert all(part.grammar.accepts(text) and "com.mail" not in text for text in found)


def test_a_sentence_of_which_no_literal_can_be_made(compiled: CompiledGrammar) -> None:
    part = compiled.restrict(Spans(("TEXT",), "123 456"))
    assert all('"' not in text for text in programs(part, 40))


@pytest.mark.parametrize("terminal", ["NOPE", "DAY"])
def test_spans_of_terminals_that_are_not_free(compiled: CompiledGrammar, terminal: str) -> None:
    with pytest.raises(RequestError, match=f"spans names '{terminal}'"):
        compiled.restrict(Spans((terminal,), "hello"))


@pytest.mark.parametrize("terminal", ["DEVICE", "PARAMETER"])
def test_spans_bring_back_no_name_that_a_part_leaves_out(terminal: str) -> None:
    """The part has no name of this terminal left; the sentence has."""
    names = Catalogue.from_dict({"CALL": {"a": {"PARAMETER": ["x"]}, "b": {}}, "DEVICE": {"lamp": {"SWITCH": ["on"]}}})
    source = 'start: "go " CALL ("(" PARAMETER ")")? (" at " DEVICE)?\n%declare CALL PARAMETER DEVICE SWITCH\n'
    tokenizer = tiny_tokenizer([])
    compiled = Grammar(bind(source, names), catalogue=names).compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])
    with pytest.raises(RequestError, match=f"spans names '{terminal}'"):
        compiled.restrict(Subset(allow=("b",)), Spans((terminal,), "lamp x"))


def test_the_parse_knows_names_that_only_entries_bind() -> None:
    names = Catalogue.from_dict({"CALL": {"a": {"PARAMETER": ["x"]}, "b": {"PARAMETER": ["y"]}}})
    grammar = Grammar(bind('start: CALL? "." PARAMETER\n%declare CALL PARAMETER\n', names), catalogue=names)
    part = grammar.restrict(Subset(allow=("b",)).of(names, grammar.lark))
    assert [text for text in (".x", ".y", "b.y", "b.x") if part.accepts(text)] == [".y", "b.y"]


def test_a_shipped_language_in_part() -> None:
    language = open_language("thingtalk")
    tokenizer = tiny_tokenizer([])
    compiled = language.grammar().compile(tokenizer, [tokenizer.token_id(EOS_TOKEN)])
    part = compiled.restrict(Subset(allow=("org.phone",)))
    found = programs(part, 30)
    assert [text for text in found if not part.grammar.accepts(text)] == []
    assert any("org.phone" in text for text in found)
    assert not any(name in text for text in found for name in ("com.bakery.", "org.home", "org.news"))
