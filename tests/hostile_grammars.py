"""Grammars made, or happening, to take all time, all memory or the whole process of who reads them.

Most have brought down other engines: nested groups, patterns that do not compile, references to themselves, counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

STOPPED = r"was stopped|MiB of memory"  # a limit was met; which one first depends on the machine
_MANY = [f"prefix_shared_{n}" for n in range(100_000)]
_LONG = "a" * 1_000_000
_NUM_RULES = 5000


@dataclass(frozen=True)
class Hostile:
    """A grammar, and what has to become of it.

    Attributes:
        name: for the test's name.
        notation: "lark", or as the importer calls it.
        text: of the grammar.
        refusal: pattern of the message that refuses it; "" where it has to compile.
        program: one of its programs, where it compiles.
        is_endless: it is refused by a limit of the child only.
        is_slow: it takes seconds, or is like another one in another notation.
    """

    name: str
    notation: str
    text: str
    refusal: str = ""
    program: str = ""
    is_endless: bool = False
    is_slow: bool = False


def _schema(value: Any) -> str:
    return json.dumps(value)


def _string(**keywords: Any) -> str:
    return _schema({"type": "string", **keywords})


def _options(level: int, *, are_alike: bool) -> Any:
    """``oneOf`` and ``anyOf`` in each other, around texts that differ or do not."""
    below = _options(level - 1, are_alike=are_alike) if level else {"type": "integer"}
    text = {"type": "string"} if are_alike else {"type": "string", "maxLength": level + 1}
    return {"oneOf": [{"anyOf": [below, {"type": "null"}]}, text]}


def _doubled(level: int) -> Any:
    """Each level holds the next one twice."""
    inner = _doubled(level - 1) if level else {"type": "integer"}
    members = {"type": "object", "properties": {"a": inner, "b": inner}, "required": ["a"]}
    return {"oneOf": [members | {"additionalProperties": False}, {"type": "null"}]}


def _ambiguous(level: int) -> Any:
    """Alternatives that nothing tells apart."""
    inner = _ambiguous(level - 1) if level else {"type": "integer"}
    return {"anyOf": [{"type": "object", "properties": {f"{key}{level}": inner}} for key in "ab"]}


def _arrays(depth: int) -> str:
    """Written by hand: ``json.dumps`` would end in a RecursionError itself."""
    return '{"type":"array","items":' * depth + '{"type":"null"}' + "}" * depth


def _chain(first: str, number: int, rule: Callable[[str, str], str], last: str = '"x"', times: int = 1) -> str:
    """``first`` leads to r1, each rule to the next one, and the last to ``last``."""
    names = [first, *(f"{'R' if first.isupper() else 'r'}{n}" for n in range(1, number + 1))]
    steps = [rule(name, " ".join([after] * times)) for name, after in pairwise(names)]
    return "\n".join([*steps, rule(names[-1], last)])


def _lark(name: str, right: str) -> str:
    return f"{name}: {right}"


def _gbnf(name: str, right: str) -> str:
    return f"{name} ::= {right}"


def _ebnf(name: str, right: str) -> str:
    return f"{name} = {right};"


def _quoted(texts: list[str]) -> str:
    return " | ".join(f'"{text}"' for text in texts)


def _mark(rows: list[Hostile], **marks: bool) -> list[Hostile]:
    return [Hostile(**{**vars(row), **marks}) for row in rows]


_NESTED = [
    Hostile("lark-parentheses-open", "lark", "start: " + "(" * 60_000, "Expecting a value"),
    Hostile("lark-parentheses", "lark", 'start: {}"a"{}'.format("(" * 3000, ")" * 3000), "recursion"),
    Hostile("gbnf-parentheses-open", "gbnf", "root ::= " + "(" * 60_000, "nested more deeply"),
    Hostile("regex-parentheses-open", "regex", "(" * 60_000, r"\(\(.* nested more deeply", is_slow=True),
    Hostile("schema-arrays", "json-schema", _arrays(300), "nested more deeply"),
    Hostile("schema-arrays-5000", "json-schema", _arrays(5000), "nested too deeply"),
    Hostile("schema-options", "json-schema", _schema(_options(30, are_alike=True)), program="7"),
    Hostile("schema-doubled", "json-schema", _schema(_doubled(8)), program='{"a": null}'),
    Hostile("schema-ambiguous", "json-schema", _schema(_ambiguous(4)), r"not LALR\(1\)"),
    *_mark(
        [
            Hostile("lark-parentheses-60000", "lark", 'start: {}"a"{}'.format("(" * 60_000, ")" * 60_000), "recursion"),
            Hostile("gbnf-parentheses", "gbnf", 'root ::= {}"a"{}'.format("(" * 60_000, ")" * 60_000), "nested more"),
            Hostile("ebnf-parentheses-open", "ebnf", "root = " + "(" * 60_000 + ";", "nested more deeply"),
            Hostile("regex-parentheses", "regex", "(" * 60_000 + "a" + ")" * 60_000, r"\(\(.* nested more deeply"),
            Hostile("schema-lengths", "json-schema", _schema(_options(30, are_alike=False)), program="7"),
            Hostile("schema-arrays-900", "json-schema", _arrays(900), "nested more deeply"),
        ],
        is_slow=True,
    ),
]

_SELF = '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}'
_MUTUAL = '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}'
_REQUIRED = '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"], "additionalProperties": false}'
_TURNS = 'a ::= b "y"\nb ::= a "z" | root "w"'
_CIRCULAR = [
    Hostile("lark-self", "lark", "start: start", "has no program"),
    Hostile("gbnf-self", "gbnf", "root ::= root", "Reduce/Reduce collision"),
    Hostile("ebnf-self", "ebnf", "root = root;", "Reduce/Reduce collision", is_slow=True),
    Hostile("lark-mutual-endless", "lark", 'start: a "x"\na: b "y"\nb: a "z" | start "w"', "has no program"),
    Hostile("gbnf-mutual-endless", "gbnf", f"root ::= a\n{_TURNS}", "has no program", is_slow=True),
    Hostile("lark-mutual", "lark", 'start: a\na: b "y" | "q"\nb: a "z" | "w"', program="wyzy"),
    Hostile("gbnf-mutual", "gbnf", 'root ::= a "x"\na ::= b "y" | "r"\nb ::= a "z" | root "w" | "q"', program="rxwyx"),
    Hostile("lark-endless", "lark", 'start: "a" start', "no program"),
    Hostile(
        "lark-ambiguous", "lark", 'start: e\ne: e e | e "+" e | "a" | "b"?', "Reduce/Reduce collision", is_slow=True
    ),
    Hostile("schema-ref-self", "json-schema", '{"$ref": "#"}', "refers to itself"),
    Hostile("schema-ref-self-by-name", "json-schema", _SELF, "refers to itself", is_slow=True),
    Hostile("schema-ref-mutual", "json-schema", f'{_MUTUAL}, "$ref": "#/$defs/a"}}', "refers to itself", is_slow=True),
    Hostile("schema-ref-required", "json-schema", _REQUIRED, "no program"),
]

_CHAINS = [
    Hostile(  # which a fast machine gets to the end of in the full time, and then it is nested too deeply
        "lark-rules", "lark", _chain("start", _NUM_RULES, _lark), rf"{STOPPED}|recursion depth", is_endless=True
    ),
    Hostile(
        "lark-terminals", "lark", "start: A\n" + _chain("A", _NUM_RULES, _lark), STOPPED, is_endless=True, is_slow=True
    ),
    Hostile("gbnf-rules", "gbnf", _chain("root", _NUM_RULES, _gbnf), "nested more deeply", is_slow=True),
    Hostile("ebnf-rules", "ebnf", _chain("root", _NUM_RULES, _ebnf), "nested more deeply", is_slow=True),
    Hostile(
        "gbnf-recursive-rules",
        "gbnf",
        _chain("root", _NUM_RULES, _gbnf, '"x" | "(" root ")"'),
        STOPPED,
        is_endless=True,
        is_slow=True,
    ),
    Hostile("lark-doubling", "lark", _chain("start", 60, _lark, times=2), STOPPED, is_endless=True, is_slow=True),
    Hostile("gbnf-doubling", "gbnf", _chain("root", 60, _gbnf, times=2), STOPPED, is_endless=True),
]

_HUGE = 2**64 - 1
_NULLS = {"type": "array", "items": {"type": "null"}}
_THOUSANDS = "((((a{1000}){1000}){1000}){1000}){1000}"
_REPEATS = [
    Hostile("lark-star-star", "lark", 'start: ("a"*)*', "Reduce/Reduce collision"),
    Hostile("lark-terminal-star-star", "lark", "start: A\nA: /(a*)*b/", program="aab"),
    Hostile("gbnf-star-star", "gbnf", 'root ::= ("a"*)*', program="aa", is_slow=True),
    Hostile("regex-star-star", "regex", "(a*)*", program="aa", is_slow=True),
    Hostile("lark-empty-star", "lark", 'start: (""|"a")*', "Empty terminals"),
    Hostile("gbnf-empty-star", "gbnf", 'root ::= (""|"a")*', program="aa", is_slow=True),
    Hostile("regex-empty-star", "regex", "(|a)*", program="aa"),
    Hostile("lark-2-31", "lark", "start: A\nA: /[a-z]{1,2147483647}/", program="abc"),
    Hostile("lark-rule-2-31", "lark", 'start: "a"~1..2147483647', program="aaa"),
    Hostile("gbnf-2-31", "gbnf", "root ::= [a-z]{1,2147483647}", program="abc", is_slow=True),
    Hostile("regex-2-31", "regex", "[a-z]{1,2147483647}", program="abc"),
    Hostile("lark-thousands", "lark", f"start: A\nA: /{_THOUSANDS}/", STOPPED, is_endless=True),
    Hostile("gbnf-thousands", "gbnf", "root ::= " + _THOUSANDS.replace("a", '"a"'), "1000000000000000 characters"),
    Hostile("schema-max-items", "json-schema", _schema(_NULLS | {"maxItems": _HUGE}), "/maxItems: 184467"),
    Hostile(
        "schema-min-items", "json-schema", _schema(_NULLS | {"minItems": _HUGE}), "/minItems: 184467", is_slow=True
    ),
    Hostile("schema-max-length", "json-schema", _string(maxLength=_HUGE), "/maxLength: 184467"),
    Hostile("schema-min-length", "json-schema", _string(minLength=_HUGE), "/minLength: 184467", is_slow=True),
]

_SIZES = [
    Hostile("lark-alternatives", "lark", f"start: {_quoted(_MANY)}", STOPPED, is_endless=True),
    Hostile("gbnf-alternatives", "gbnf", f"root ::= {_quoted(_MANY)}", "2388896 characters"),
    Hostile("regex-alternatives", "regex", "|".join(_MANY), "1988889 characters", is_slow=True),
    Hostile("schema-enum", "json-schema", _schema({"enum": _MANY}), "2088890 characters"),
    Hostile("lark-literal", "lark", f'start: "{_LONG}"', STOPPED, is_endless=True),
    Hostile("gbnf-literal", "gbnf", f'root ::= "{_LONG}"', "1000011 characters"),
    Hostile("regex-literal", "regex", _LONG, "1000000 characters", is_slow=True),
    Hostile("schema-literal", "json-schema", _schema({"const": _LONG}), "1000002 characters", is_slow=True),
    *_mark(
        [
            Hostile("lark-3000", "lark", f"start: {_quoted(_MANY[:3000])}", program=_MANY[2999]),
            Hostile("ebnf-alternatives", "ebnf", f"root = {_quoted(_MANY)};", "2388895 characters"),
            Hostile("ebnf-literal", "ebnf", f'root = "{_LONG}";', "1000010 characters"),
        ],
        is_slow=True,
    ),
]

_PATTERNS = [
    Hostile("lark-plus", "lark", "start: /^+[a-z]$/", "Cannot compile token"),
    Hostile("regex-plus", "regex", "^+[a-z]$", "nothing to repeat"),
    Hostile("schema-plus", "json-schema", _string(pattern="^+[a-z]$"), "nothing to repeat", is_slow=True),
    Hostile("lark-backtracking", "lark", "start: /(a+)+b/", program="aab"),
    Hostile("regex-backtracking", "regex", "(a+)+b", program="aab"),
    Hostile("schema-backtracking", "json-schema", _string(pattern="(a+)+b"), program='"xaab"', is_slow=True),
    # Lark matches each text with the patterns that could take it.
    Hostile("lark-backtracks", "lark", f'start: A | "{"a" * 40}c"\nA: /(a+)+b/', STOPPED, is_endless=True),
    Hostile("lark-anchors", "lark", "start: /^(|.*)$/", "zero-width terminals"),
    Hostile("regex-anchors", "regex", "^(|.*)$", program="x"),
    Hostile("schema-anchors", "json-schema", _string(pattern="^(|.*)$"), program='"x"', is_slow=True),
    Hostile("lark-class", "lark", r"start: /[\x00-\u2e7f]+/", program="aé"),
    Hostile("gbnf-class", "gbnf", r"root ::= [\x00-\u2e7f]+", program="aé", is_slow=True),
    Hostile("regex-class", "regex", r"[\x00-\u2e7f]+", program="aé"),
    Hostile("schema-class", "json-schema", _string(pattern=r"[\x00-\u2e7f]+"), program='"aé"', is_slow=True),
    Hostile("lark-unclosed", "lark", "start: /[/", "Cannot compile token"),
    Hostile("gbnf-unclosed", "gbnf", "root ::= [", "line 1: expected a text"),
    Hostile("ebnf-unclosed", "ebnf", "root ::= [", "line 1: expected ']'", is_slow=True),
    Hostile("regex-unclosed", "regex", "[", "unterminated character set"),
    Hostile("lark-look-ahead", "lark", 'start: /a(?=b)/ "b"', "invalid regex", is_slow=True),
    Hostile("lark-back-reference", "lark", r"start: /(a)\1/", "invalid regex"),
]

_MISSING = [
    Hostile("lark-empty", "lark", "", "undefined rule"),
    Hostile("gbnf-empty", "gbnf", "", "no rule 'root'"),
    Hostile("ebnf-empty", "ebnf", "", "expected a rule", is_slow=True),
    Hostile("regex-empty", "regex", "", "no text but the empty one"),
    Hostile("schema-no-text", "json-schema", "", "is not JSON"),
    Hostile("lark-undefined", "lark", "start: nope", "Rule 'nope' used but not defined"),
    Hostile("gbnf-undefined", "gbnf", "root ::= nope", "no rule 'nope'"),
    Hostile("ebnf-undefined", "ebnf", "root = nope;", "no rule 'nope'", is_slow=True),
    Hostile("lark-no-start", "lark", 'begin: "a"', r"undefined rule: NonTerminal\('start'\)", is_slow=True),
    Hostile("gbnf-no-start", "gbnf", 'begin ::= "a"', "no rule 'root'", is_slow=True),
    Hostile("lark-import-of-a-file", "lark", "start: x\n%import .secret.x\n", "'secret.lark' cannot be read"),
    Hostile(
        "lark-import-with-look-around",
        "lark",
        "start: S\n%import common.ESCAPED_STRING -> S\n",
        "not supported",
        is_slow=True,
    ),
    Hostile(
        "lark-import-of-no-rule", "lark", "start: x\n%import python.x\n", "Rule 'x' used but not defined", is_slow=True
    ),
    Hostile("lark-nul", "lark", 'start: "\x00"', "null bytes"),
]

_SPACES = [
    Hostile("lark-spaces", "lark", 'start: "a" (" "|"\\n")* "b"', program="a \n b"),
    Hostile("lark-spaces-ignored", "lark", 'start: "a" "b"\n%ignore /\\s+/', program="a \n b"),
    Hostile("gbnf-spaces", "gbnf", 'root ::= "a" ws "b"\nws ::= [ \\t\\n]*', program="a \n b", is_slow=True),
    Hostile(
        "gbnf-spaces-nested", "gbnf", 'root ::= "a" ws "b"\nws ::= ([ \\t\\n]* ws)?', r"not LALR\(1\)", is_slow=True
    ),
]

_LENGTH = {"type": "string", "maxLength": 65_536}
_OBJECTS = [
    Hostile("schema-any", "json-schema", "{}", program='{"a": [1, {}]}'),
    Hostile("schema-any-object", "json-schema", '{"type": "object"}', program="{}", is_slow=True),
    Hostile("schema-no-properties", "json-schema", '{"type": "object", "properties": {}}', program="{}", is_slow=True),
    Hostile(
        "schema-closed",
        "json-schema",
        '{"type": "object", "properties": {}, "additionalProperties": false}',
        program="{}",
    ),
    Hostile(
        "schema-ten-lengths",
        "json-schema",
        _schema({"type": "object", "properties": {f"f{n}": _LENGTH for n in range(10)}}),
        program='{"f9": "a"}',
    ),
]

ALL = [*_NESTED, *_CIRCULAR, *_CHAINS, *_REPEATS, *_SIZES, *_PATTERNS, *_MISSING, *_SPACES, *_OBJECTS]
HUGE_TERMINAL = Hostile("lark-huge-terminal", "lark", f"start: A\nA: {_quoted(_MANY)}", program=_MANY[-1])
LONG_STRING = Hostile("schema-length", "json-schema", _schema(_LENGTH), program='""')
