"""Grammars from JSON Schema, tools, regular expressions, GBNF and EBNF, against readers that know no lexer."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from byte_walks import byte_matcher, random_walk, verdict
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgedsl.cli import group
from edgedsl.errors import GrammarError
from edgedsl.grammar import Grammar
from edgedsl.grammar.sources import ebnf, gbnf, importer, json_numbers, json_schema, regex_source, tools
from edgedsl.grammar.sources import expression as ex
from edgedsl.grammar.sources.imported import Imported
from edgedsl.grammar.sources.longest import first_is_longest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def accepts(imported: Imported, text: str) -> bool:
    """Lark's opinion, which the mask engine has to share."""
    grammar = Grammar(imported.source)
    is_program = grammar.accepts(text)
    assert (verdict(byte_matcher(grammar), text) == "accept") is is_program
    return is_program


def random_text(imported: Imported, rng: random.Random) -> str | None:
    return random_walk(byte_matcher(Grammar(imported.source)), rng, closing=b')]}"', max_bytes=300, stop=0.3)


# JSON Schema

TYPES: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}


def is_valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """A validator of the keywords that the importer reads."""
    if "$ref" in schema:
        return is_valid(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return any(is_valid(value, option, root) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return any(json.dumps(value) == json.dumps(e) for e in schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(has_type(value, kind) for kind in kinds):
        return False
    if isinstance(value, str):
        is_fit = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 999)
        return is_fit and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if isinstance(value, list):
        is_fit = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 999)
        return is_fit and all(is_valid(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(properties) and all(
            is_valid(item, properties[key], root) for key, item in value.items()
        )
    return True


def has_type(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return not isinstance(value, bool) and isinstance(value, int if kind == "integer" else int | float)
    return isinstance(value, TYPES[kind])


STRINGS = st.builds(
    lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
    st.integers(0, 3),
    st.integers(0, 3),
)
PATTERNS = st.sampled_from(["^a+$", "b", "^x|y$", '^"?[a-c]{2}', r"^\d+\.\d$", r"\\|/"]).map(
    lambda pattern: {"type": "string", "pattern": pattern}
)
ENUMS = st.lists(
    st.sampled_from(["a", "ab", 1, 12, -1, None, True, [1, 2], {"a": "b"}, 'q"\n']), min_size=1, max_size=4
).map(lambda values: {"enum": list({json.dumps(value): value for value in values}.values())})
SCALARS = STRINGS | PATTERNS | ENUMS | st.sampled_from([{"type": name} for name in ("integer", "number", "null")])
SCALARS |= st.just({"type": ["string", "integer", "boolean"]})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["a", "b", "ab", 'c"', "é"]), inner, min_size=1, max_size=4).flatmap(
        lambda properties: st.lists(st.sampled_from(list(properties)), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        )
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    bounds = st.sampled_from([{}, {"minItems": 1}, {"minItems": 2, "maxItems": 3}, {"maxItems": 0}, {"maxItems": 2}])
    return st.builds(lambda items, counts: {"type": "array", "items": items, **counts}, inner, bounds)


SCHEMAS = st.recursive(SCALARS, lambda inner: objects(inner) | arrays(inner), max_leaves=6)


@settings(max_examples=25, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32))
@example({"type": "array", "items": {"type": "number"}, "minItems": 1}, 51060)
def test_random_walks_of_a_schema_are_valid_and_canonical(schema: dict[str, Any], seed: int) -> None:
    imported = json_schema.to_lark(schema)
    grammar, rng = Grammar(imported.source), random.Random(seed)
    for _ in range(6):
        text = random_text(imported, rng)
        if text is None:
            continue
        assert grammar.accepts(text)
        value = json.loads(text)
        assert is_valid(value, schema, schema), (text, schema)
        if not re.search(r"\d[.e]", text):  # json.dumps may write a fraction in another way
            assert json.dumps(value, ensure_ascii=False) == text


RECURSIVE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["v"],
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            RECURSIVE,
            ['{"v": 1}', '{"v": 1, "kids": [{"v": 2, "kids": []}]}'],
            ["{}", '{"kids": [], "v": 1}', '{"v":1}'],
        ),
        ({}, ["1", '{"a": [1, {"b": null}]}', "[]"], ["", "[1,2]", "{a: 1}", "01"]),
        ({"type": "integer"}, ["0", "-7", "12"], ["-0", "1.0", "01", "+1"]),
        ({"type": "number"}, ["-0.5", "1e-07", "1.5e+20"], [".5", "1.", "1E5"]),
        ({"enum": ["on", "once", 1, 12]}, ['"on"', '"once"', "1", "12"], ['"onc"', "2"]),
        ({"type": "string", "pattern": "a/b"}, ['"a/b"', '"xa/by"', '"\\"a/b"'], ['"ab"', '"a/b']),
        ({"type": "string", "maxLength": 2}, ['""', '"\\n\\""', '"éé"'], ['"abc"', '"\\u000a"', '"\\/"']),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ["{}", '{"x": null, "y": null}'], ['{"x": 1}']),
        ({"type": "array", "items": {"const": "x"}, "minItems": 1, "maxItems": 2}, ['["x"]', '["x", "x"]'], ["[]"]),
        ({"anyOf": [{"type": "null"}, RECURSIVE["$defs"]["node"] | {"properties": {"v": {}}}]}, ["null"], ["[]"]),
        ({"type": ["integer", "number"]}, ["1", "1.5"], ['"1"']),
        ({"properties": {"a": {"type": "null"}}, "description": "x"}, ["{}", '{"a": null}'], ['{"b": null}']),
        ({"type": "array"}, ['[1, "a", {}]'], ["{}"]),
        ({"type": "string", "pattern": "^a{2,5}$", "minLength": 2, "maxLength": 7}, ['"aa"', '"aaaaa"'], ['"a"']),
        ({"type": "string", "maxLength": 65536}, ['"' + "é" * 500 + '"'], ['"\t"']),
        ({"type": "array", "items": {"const": 1}, "maxItems": 40}, ["[" + ", ".join("1" * 40) + "]"], ["[1, 2]"]),
    ],
)
def test_json_schema_examples(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    imported = json_schema.to_lark(schema)
    assert [text for text in good if not accepts(imported, text)] == []
    assert [text for text in bad if accepts(imported, text)] == []


BOUNDS = st.fixed_dictionaries(
    {},
    optional={key: st.integers(-1200, 1200) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")},
).filter(bool)


def lies_between(value: float, schema: dict[str, int]) -> bool:
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
    )  # fmt: skip


def bounded(schema: dict[str, int], name: str) -> re.Pattern[str] | None:
    """The expression for the numbers between these bounds; None where there are none."""
    try:
        node = json_numbers.between(schema, name, "#")
    except GrammarError:
        return None
    assert node is not None
    return re.compile(ex.terminal(node).strip('/"'))


@settings(max_examples=200)
@given(BOUNDS)
def test_integers_between_bounds(schema: dict[str, int]) -> None:
    pattern = bounded(schema, "integer")
    wanted = [n for n in range(-1300, 1301) if lies_between(n, schema)]
    assert [n for n in range(-1300, 1301) if pattern and pattern.fullmatch(str(n))] == wanted
    is_spelled = [t for t in ("-0", "00", "+1", "01", "1.0", "-01", "-") if pattern and pattern.fullmatch(t)]
    assert is_spelled == []


@settings(max_examples=200)
@given(BOUNDS, st.lists(st.floats(-1300, 1300, allow_nan=False).map(lambda x: round(x, 3)), max_size=20))
def test_numbers_between_bounds(schema: dict[str, int], values: list[float]) -> None:
    pattern = bounded(schema, "number")
    around = [bound + change for bound in schema.values() for change in (-1, -0.5, -0.001, 0, 0.001, 0.5, 1)]
    texts = {repr(n) for n in (*values, *around) if "e" not in repr(n) and repr(n) != "-0.0"}
    taken = {text for text in texts if pattern and pattern.fullmatch(text)}
    assert taken == {text for text in texts if lies_between(float(text), schema)}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "object", "properties": {"a/b": {"type": "integer", "multipleOf": 2}}},
            "#/properties/a~1b/multipleOf",
        ),
        ({"type": "number", "minimum": 0.5}, "#/minimum.*whole number"),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "no integer lies between"),
        ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, "no number lies between"),
        ({"type": "string", "minimum": 3}, "#/minimum.*for its type"),
        ({"type": "array", "items": {"not": {}}}, "#/items/not"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
        ({"type": "array", "prefixItems": []}, "#/prefixItems"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "#/maxLength.*beside a pattern that does not imply it"),
        ({"type": "string", "pattern": "^a{2,5}$", "minLength": 3}, "#/minLength.*beside a pattern"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern.*not supported"),
        ({"type": "string", "minLength": 5000}, "#/minLength.*5000"),
        ({"type": "string", "maxLength": 2**64 - 1}, "#/maxLength.*18446744073709551615"),
        ({"const": "a" * 300_000}, "#/const.*300002 characters"),
        ({"type": "string", "items": {}}, "#/items.*for its type"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "#/required.*'b'"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": {}}, "#/additionalProperties"),
        ({"type": "text"}, "#/type"),
        ({"$ref": "other.json"}, r"#/\$ref.*other.json"),
        ({"$ref": "#/$defs/x"}, "does not exist"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]}}}, "itself"),
        ({"enum": ["a"], "type": "integer"}, "#/enum.*not of type"),
        ({"enum": []}, "#/enum"),
        ({"allOf": [{}, {}]}, "#/allOf"),
        ({"anyOf": [{"type": "string"}], "type": "string"}, "#/type.*beside anyOf"),
        ({"properties": {"a": False}}, "#/properties/a"),
        ({"anyOf": [{"properties": {"a": {}}}, {"properties": {"a": {}, "b": {}}}]}, r"LALR\(1\)"),
    ],
)
def test_json_schema_refusals_are_named(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        json_schema.to_lark(schema)


def test_what_has_no_effect_is_in_the_report() -> None:
    imported = json_schema.to_lark(
        {"type": "object", "properties": {"a": {"type": "string", "title": "A", "format": "date"}}}
    )
    report = imported.report()
    assert "#/properties/a/title: ignored" in report
    assert "#/properties/a/format: ignored" in report
    assert "#/properties/a -> terminal STRING" in report
    assert "listed properties only" in report


# regular expressions


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\\", '"', "/", "ab"]),
        lambda inner: (
            st.tuples(inner, inner).map("".join)
            | st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})")
            | st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,2}", "*?"])).map(lambda p: f"({p[0]}){p[1]}")
        ),
        max_leaves=6,
    )
)
def test_regex_matches_as_re_does(pattern: str) -> None:
    grammar = Grammar(regex_source.to_lark(pattern).source)
    words = ["".join(word) for length in range(5) for word in itertools.product('ab\\"/', repeat=length)]
    assert [w for w in words[:400] if grammar.accepts(w) != bool(re.fullmatch(pattern, w))] == []


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d{3}-\w+$", ["123-a_B9"], ["12-a", "123-", "123-é"]),
        (r"on|once|one", ["on", "once", "one"], ["onc", "o"]),
        (r"[\s\S]{2}", ["a\n", "é漢"], ["a"]),
        (r"[-\]^&~\[|]+", ["-]^&~[|"], ["a", ""]),
        (r"\t[\x00-\x1f]\x7f\u2028", ["\t\x01\x7f\u2028"], ["\t\x20\x7f\u2028"]),
        (r"(a|ab)(c|bcd)?", ["ab", "abcd", "abc", "abbcd"], ["abb"]),
    ],
)
def test_regex_examples(pattern: str, good: list[str], bad: list[str]) -> None:
    imported = regex_source.to_lark(pattern)
    assert [text for text in good if not accepts(imported, text)] == []
    assert [text for text in bad if accepts(imported, text)] == []


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)b", "(?<!a)b", r"(a)\1", r"\bfoo", "a^b", "(?i)a", "(?i:a)", "", "a{2000}", "(", "[[a]", "(?>a)", "a++"],
)
def test_regex_refusals(pattern: str) -> None:
    with pytest.raises(GrammarError):
        regex_source.to_lark(pattern)


def test_the_first_match_is_the_longest() -> None:
    """Over random expressions; ``re.match`` is what Lark's lexer calls."""
    rng = random.Random(3)
    words = ["".join(word) for length in range(6) for word in itertools.product("abc", repeat=length)]
    for _ in range(60):
        pattern = random_pattern(rng, 3)
        node = ex.without_empty(regex_source.parse(pattern))
        if node == ex.NOTHING:
            continue
        lark_text = ex.terminal(first_is_longest(node))
        written = re.compile(lark_text[1:-1])
        for word in words:
            longest = max((n for n in range(1, len(word) + 1) if re.fullmatch(pattern, word[:n])), default=0)
            found = written.match(word)
            assert (found.end() if found else 0) == longest, (pattern, lark_text, word)


def random_pattern(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(["a", "b", "[ab]", "c", "[^a]"])
    one, other = random_pattern(rng, depth - 1), random_pattern(rng, depth - 1)
    if kind < 0.55:
        return one + other
    return f"({one}|{other})" if kind < 0.8 else f"({one})" + rng.choice(["?", "*", "+", "{2}", "{1,3}", "{0,2}"])


# GBNF and EBNF

JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws  # a comment
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
ISO = """
(* sums *)
expr = term, { ("+" | "-"), term } ;
term = number | "(", expr, ")" ;
number = [ "-" ], digit, { digit } ;
digit = "0" | "1" | "2" ;
"""
W3C = """
/* lists */
[1] list ::= '(' item (',' item)* ')'
[2] item ::= Name | list | [#x30-#x39]+ | #x21
Name ::= [A-Za-z_] [A-Za-z0-9_]*
"""


@pytest.mark.parametrize(
    ("reader", "text", "good", "bad"),
    [
        (gbnf, JSON_GBNF, ['{"a": [1, 12.5, "x\\n"], "b": {}}', '{"a":1}\n\t'], ["", "[]", " {}", '{"a"  :1}']),
        (gbnf, 'root ::= "a"{2,3} ("b" root)?', ["aa", "aaa", "aabaaa"], ["a", "aaaa", "aab"]),
        (gbnf, 'root ::= x ";" x\nx ::= "" | "(" x ")"', [";", "();", "(());()"], ["(;", ""]),
        (gbnf, 'root ::= num | "(" root ")"\nnum ::= [0-9] | [1-9] [0-9]{0,2}', ["7", "(120)"], ["01", "()"]),
        (gbnf, 'root ::= "\\x41" "\\u00e9" "\\U0001F600" .', ["Aé😀\n"], ["Aé😀"]),
        (gbnf, 'root ::=\n  "a" |\n  "b"\n# end', ["a", "b"], ["ab"]),
        (ebnf, ISO, ["1", "(1+-12)-0"], ["1+", "(1", "3", "1 + 1"]),
        (ebnf, W3C, ["(a,(b_1,42),!)"], ["()", "(a", "(1a)"]),
        (ebnf, 'a = "x" { "y" }- [ b ] .\nb = \'z\' .', ["xy", "xyyz"], ["x", "xz"]),
        (ebnf, "<a> ::= <b>+ ('c' | 'd')?\n<b> ::= \"x\"", ["x", "xxd"], ["", "c"]),
    ],
)
def test_gbnf_and_ebnf_examples(reader: Any, text: str, good: list[str], bad: list[str]) -> None:
    imported = reader.to_lark(text)
    assert [program for program in good if not accepts(imported, program)] == []
    assert [program for program in bad if accepts(imported, program)] == []


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (gbnf, 'root ::= "a" root "a" | ""', r"not LALR\(1\)"),
        (gbnf, 'root ::= root "+" root | "1"', r"not LALR\(1\)"),
        (gbnf, 'rot ::= "a"', "no rule 'root'"),
        (gbnf, "root ::= x", "no rule 'x'"),
        (gbnf, 'root ::= "a', "line 1"),
        (gbnf, 'root ::= "a"\nroot ::= "b"', "second rule"),
        (gbnf, "root ::= <think>", "tokens are not supported"),
        (gbnf, 'root ::= "a"{3,2}', "3 to 2"),
        (gbnf, "root ::= [z-a]", "empty"),
        (ebnf, 'a = "x" - "y" ;', "exceptions"),
        (ebnf, "a = ? any ? ;", "special sequences"),
        (ebnf, "a = b ;", "no rule 'b'"),
        (ebnf, "", "expected a rule"),
        (ebnf, "a = ( 'x' ;", "expected '\\\\?\\)'"),
    ],
)
def test_gbnf_and_ebnf_refusals(reader: Any, text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        reader.to_lark(text)


def test_regular_rules_become_terminals_and_others_rules() -> None:
    imported = gbnf.to_lark(JSON_GBNF)
    assert {"string -> terminal STRING", "number -> terminal NUMBER", "value -> rule value"} <= set(imported.translated)


def test_terminals_that_may_be_confused_are_noted() -> None:
    imported = gbnf.to_lark('root ::= word | "(" root ")" "x"\nword ::= [a-z]+ | key\nkey ::= "if"')
    assert imported.notes == ()
    imported = gbnf.to_lark('root ::= "(" root ")" | word "b" root\nword ::= [a-z]+')
    assert any("may end" in note for note in imported.notes)
    assert "nothing was ignored" not in imported.report()


def test_unused_rules_are_noted() -> None:
    assert any("'b'" in note for note in gbnf.to_lark('root ::= "a"\nb ::= "c"').notes)
    assert any("[b]" in note for note in ebnf.to_lark('a ::= [b] "c"\nb ::= "x"').notes)


# tools

OPENAI = {
    "type": "function",
    "function": {
        "name": "open_door",
        "parameters": {
            "type": "object",
            "properties": {"door": {"type": "string"}, "wide": {"type": "boolean"}},
            "required": ["door"],
        },
    },
}
NAMES_ONLY = {"name": "note", "parameters": ["title", "tags"]}
TYPED = {"name": "wait", "parameters": {"seconds": {"type": "float", "unit": "s"}}, "required": ["seconds"]}


def test_tools_take_their_own_parameters_only() -> None:
    imported = tools.to_lark([OPENAI, NAMES_ONLY, TYPED])
    for good in (
        {"name": "open_door", "arguments": {"door": "a", "wide": True}},
        {"name": "note", "arguments": {}},
        {"name": "note", "arguments": {"title": "a", "tags": ["b", 1]}},
        {"name": "wait", "arguments": {"seconds": 1.5}},
    ):
        assert accepts(imported, json.dumps(good))
    for bad in (
        {"name": "open_door", "arguments": {}},
        {"name": "open_door", "arguments": {"door": "a", "title": "b"}},
        {"name": "note", "arguments": {"tags": 1, "title": 2}},
        {"name": "wait", "arguments": {"seconds": "1"}},
        {"name": "shut_door", "arguments": {}},
        [{"name": "note", "arguments": {}}],
    ):
        assert not accepts(imported, json.dumps(bad))


def test_many_calls_and_any_order() -> None:
    imported = tools.to_lark([OPENAI, NAMES_ONLY], calls="many", order="any")
    calls = [{"name": "note", "arguments": {"tags": 1, "title": 2}}, {"name": "open_door", "arguments": {}}]
    assert accepts(imported, json.dumps(calls))
    assert not accepts(imported, "[]")
    assert not accepts(imported, json.dumps([{"name": "note", "arguments": {"door": "a"}}]))
    assert "not checked" in imported.report()


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ({"parameters": {}}, "expected an object with a name"),
        ({"name": "x", "parameters": "a"}, "'x'"),
        ({"name": "x", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}, "'x'.*not"),
        ({"name": "x", "parameters": {"a": {"type": "float", "maximum": 0.1}}}, "'x'.*maximum"),
        (NAMES_ONLY, "two tools"),
    ],
)
@pytest.mark.parametrize("order", ["schema", "any"])
def test_tool_refusals(tool: dict[str, Any], message: str, order: Any) -> None:
    with pytest.raises(GrammarError, match=message):
        tools.to_lark([NAMES_ONLY, tool], order=order)
    with pytest.raises(GrammarError, match="empty"):
        tools.to_lark([])


def read_targets(name: str, num: int) -> tuple[list[dict[str, Any]], list[str]]:
    folder = SHARED / name
    known = json.loads(gzip.decompress((folder / "tools.json.gz").read_bytes()))
    lines = gzip.decompress((folder / "dev.jsonl.gz").read_bytes()).decode().splitlines()[:num]
    return known, [json.loads(line)["target"] for line in lines]


# The command

TOOL = {"name": "play", "parameters": {"song": {"type": "str"}}}
FILES = {
    "schema.json": ('{"enum": ["on", "off"]}', '"on"'),
    "tools.json": (json.dumps([TOOL]), '{"name": "play", "arguments": {"song": "x"}}'),
    "word.regex": ("[a-c]{2}\n", "ab"),
    "root.gbnf": ('root ::= "a" [0-9]\n', "a7"),
    "rules.ebnf": ('start = "a" , { "b" } ;\n', "abb"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_command_knows_the_notation_by_the_name(name: str, tmp_path: Path) -> None:
    text, program = FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    output = tmp_path / "grammar.lark"
    result = CliRunner().invoke(group, ["grammar", "import", str(tmp_path / name), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert result.stdout == "" and "translated:" in result.stderr
    assert Grammar(output.read_text(encoding="utf-8")).accepts(program)
    printed = CliRunner().invoke(group, ["grammar", "import", str(tmp_path / name)])
    assert printed.stdout == output.read_text(encoding="utf-8")
    again = CliRunner().invoke(group, ["grammar", "import", str(tmp_path / name), "--output", str(output)])
    assert isinstance(again.exception, GrammarError)
    assert "exists" in str(again.exception)


def test_the_command_takes_the_options_of_tools(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(json.dumps([TOOL]), encoding="utf-8")
    options = ["--from", "tools", "--calls", "many", "--order", "any"]
    result = CliRunner().invoke(group, ["grammar", "import", str(path), *options])
    assert Grammar(result.stdout).accepts('[{"name": "play", "arguments": {}}, {"name": "play", "arguments": {}}]')
    assert "is not checked" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"a", "cannot be told from its name"),
        ("x.json", b"{", "is not JSON"),
        ("x.json", b"[" * 100_000, "is not JSON"),
        ("x.json", b"3", "expected an object"),
        ("x.gbnf", b"\xff", "is not UTF-8"),
        ("x.gbnf", None, "cannot be read"),
        ("x.regex", b"(", "not a portable regular expression"),
    ],
)
def test_bad_files_are_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GrammarError, match=message):
        importer.import_grammar(tmp_path / name)


def test_a_notation_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a", encoding="utf-8")
    with pytest.raises(GrammarError, match="no notation 'abnf'"):
        importer.import_grammar(tmp_path / "x", "abnf")


@pytest.mark.skipif(not (SHARED / "snips").is_dir(), reason="the shared SNIPS data is not on this machine")
def test_snips_targets_parse_under_their_tools() -> None:
    known, targets = read_targets("snips", 100)
    grammar = Grammar(tools.to_lark(known).source)
    assert sum(map(grammar.accepts, targets)) >= 0.99 * len(targets)


@pytest.mark.skipif(not (SHARED / "sealtools").is_dir(), reason="the shared Seal-Tools data is not on this machine")
def test_sealtools_targets_parse_under_the_names_of_their_tools() -> None:
    """With their types 92 % parse: numbers are often written as text, and arguments come in any order."""
    known, targets = read_targets("sealtools", 100)
    used = {call["name"] for target in targets for call in json.loads(target)}
    named = [tools.read(tool) for tool in known if tool["name"] in used]
    untyped = [{"name": tool.name, "parameters": list(tool.schema["properties"])} for tool in named]
    grammar = Grammar(tools.to_lark(untyped, calls="many", order="any").source)
    assert sum(map(grammar.accepts, targets)) >= 0.99 * len(targets)
