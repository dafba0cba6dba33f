"""Programs of flow as data: a source, a condition, one to three steps; sampled at random, printed canonically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from edgedsl.grammars.flow_literals import literal
from edgedsl.grammars.flow_signatures import ENUMERATIONS, FUNCTIONS, NUMBERS, Field, Function, can_bind

OPERATORS = (">", "<", ">=", "<=")
# What people say badly ("invoice Bob the amount euros"): the grammar takes these, the samples leave them out.
_LITERAL_ONLY = frozenset({"currency", "priority"})
_NEVER_NUMBERS = frozenset({"title", "task"})
_CONTAINED = {"artist": "person", "song": "playlist", "place": "city", "branch": "repo", "address": "city"}
_LITERAL_ONLY_IN = frozenset({("payments.invoice", "amount")})


@dataclass(frozen=True)
class Literal:
    """A value copied from the sentence, without the quotes of the program."""

    text: str


@dataclass(frozen=True)
class Reference:
    """An output of the source (``it``) or of an earlier step (``s1``, ``s2``)."""

    source: str
    output: Field


@dataclass(frozen=True)
class Call:
    """A function with the values of those parameters that are given, in the order of its signature."""

    function: Function
    arguments: Mapping[str, Literal | Reference]


@dataclass(frozen=True)
class Condition:
    """A test of an output of the source; ``operator`` is has, is, a comparison, or for flags yes or no."""

    output: Field
    operator: str
    value: str = ""


@dataclass(frozen=True)
class Program:
    """``shape`` names the form: act, ask, one, if or many."""

    shape: str
    source: Call | None
    condition: Condition | None
    steps: tuple[Call, ...]

    def spell(self, *, skeleton: bool = False) -> str:
        """The text of the program; as a skeleton each literal is ``_``."""
        steps = "; ".join(_spell_call(step, skeleton) for step in self.steps)
        if self.source is None:
            return steps
        head = ("when " if self.source.function.kind == "event" else "get ") + _spell_call(self.source, skeleton)
        if self.condition is not None:
            head += _spell_condition(self.condition, skeleton)
        return f"{head} do {steps}" if steps else head

    def functions(self) -> set[str]:
        """Full names of the functions it calls."""
        return {call.function.full_name for call in (self.source, *self.steps) if call is not None}

    def literals(self) -> list[str]:
        """Every value that the sentence must hold."""
        calls = [call for call in (self.source, *self.steps) if call is not None]
        values = [v.text for call in calls for v in call.arguments.values() if isinstance(v, Literal)]
        return [*values, self.condition.value] if self.condition and self.condition.value else values


def _spell_call(call: Call, skeleton: bool) -> str:
    given = (parameter for parameter in call.function.parameters if parameter.name in call.arguments)
    inside = ", ".join(_spell_argument(parameter, call.arguments[parameter.name], skeleton) for parameter in given)
    return f"{call.function.full_name}({inside})" if inside else call.function.full_name


def _spell_argument(parameter: Field, value: Literal | Reference, skeleton: bool) -> str:
    if isinstance(value, Reference):
        return f"{parameter.name}={value.source}.{value.output.name}"
    text = f'"{value.text}"' if parameter.type == "text" else value.text
    return f"{parameter.name}: {'_' if skeleton else text}"


def _spell_condition(condition: Condition, skeleton: bool) -> str:
    if condition.output.type == "flag":
        return f" if {'not ' if condition.operator == 'no' else ''}it.{condition.output.name}"
    return f" if it.{condition.output.name} {condition.operator} {'_' if skeleton else condition.value}"


def sample(shape: str, rng: Random) -> Program:
    """A random program of one of the shapes act, ask, one, if, many."""
    if shape == "act":
        return Program(shape, None, None, (_call(_pick("action", rng, ban=_banned(None)), {}, rng),))
    if shape == "ask":
        return Program(shape, _call(_pick("query", rng), {}, rng), None, ())
    if shape == "many":
        return _many(rng)
    source = _call(_pick("query" if rng.random() < 0.28 else "event", rng, outputs=shape == "if"), {}, rng)
    condition = _condition(source.function, rng) if shape == "if" else None
    return Program(shape, source, condition, (_follow_up(source.function, condition, rng),))


def _follow_up(source: Function, condition: Condition | None, rng: Random) -> Call:
    """The step after a source. A query that nothing refers to would be asked in vain."""
    while True:
        step = _call(_pick("action", rng, ban=_banned(source)), {"it": source}, rng)
        if source.kind == "event" or condition or any(isinstance(v, Reference) for v in step.arguments.values()):
            return step


def _banned(source: Function | None) -> tuple[str, ...]:
    """A mail can only be forwarded where something came in."""
    return () if source and source.outputs else ("mail.forward",)


def _many(rng: Random) -> Program:
    """Two steps, seldom three; a query or an action with an output comes first when a later step refers to it."""
    source = _call(_pick("event", rng), {}, rng) if rng.random() < 0.7 else None
    scope = {"it": source.function} if source else {}
    ban = _banned(source.function if source else None)
    first = _call(_pick("query" if source and rng.random() < 0.5 else "action", rng, ban=ban), scope, rng)
    steps = [first]
    while len(steps) < (3 if rng.random() < 0.15 else 2):
        scope[f"s{len(steps)}"] = steps[-1].function
        steps.append(_call(_pick("action", rng, ban=ban), scope, rng))
    program = Program("many", source, None, tuple(steps))
    return program if first.function.kind == "action" or "=s1." in program.spell() else _many(rng)


def _pick(kind: str, rng: Random, *, outputs: bool = False, ban: tuple[str, ...] = ()) -> Function:
    functions = [f for f in FUNCTIONS if f.kind == kind and f.full_name not in ban]
    return rng.choice([f for f in functions if f.outputs or not outputs])


def _call(function: Function, scope: Mapping[str, Function], rng: Random) -> Call:
    given = [p for p in function.parameters if p.required or rng.random() < 0.5]
    return Call(function, {p.name: _value(function, p, scope, rng) for p in given})


def _value(function: Function, parameter: Field, scope: Mapping[str, Function], rng: Random) -> Literal | Reference:
    references = _references(parameter, scope)
    latest = [r for r in references if r.source != "it"]
    likely = 0.8 if latest else 0.55 if parameter.type == "text" else 0.3
    if references and (function.full_name, parameter.name) not in _LITERAL_ONLY_IN and rng.random() < likely:
        return rng.choice(latest or references)
    return Literal(literal(parameter.type, parameter.name, rng))


def _references(parameter: Field, scope: Mapping[str, Function]) -> list[Reference]:
    """Outputs this parameter may take whose name only one source in scope has: "the link" must mean one thing."""
    if parameter.type in _LITERAL_ONLY:
        return []
    names = [output.name for function in scope.values() for output in function.outputs]
    return [
        Reference(source, output)
        for source, function in scope.items()
        for output in function.outputs
        if can_bind(parameter.type, output.type)
        and names.count(output.name) == 1
        and not (parameter.name in _NEVER_NUMBERS and output.type in NUMBERS)
    ]


def _condition(function: Function, rng: Random) -> Condition:
    output = rng.choice([o for o in function.outputs if o.name != "link"])
    if output.type == "flag":
        return Condition(output, rng.choice(("yes", "yes", "no")))
    if output.type in NUMBERS:
        return Condition(output, rng.choices(OPERATORS, (4, 4, 2, 2))[0], literal(output.type, output.name, rng))
    if output.type == "text":
        return Condition(output, "has", literal(_CONTAINED.get(output.name, "contains"), output.name, rng))
    assert output.type in ENUMERATIONS or output.type in {"person", "company", "file"}
    return Condition(output, "is", literal(output.type, output.name, rng))
