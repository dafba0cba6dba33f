"""Sentences for programs of flow: phrases are chosen, filled, put in an order, and roughened as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from edgedsl.grammars import flow_phrases as phrases
from edgedsl.grammars.flow_programs import Call, Condition, Literal, Program, Reference
from edgedsl.grammars.flow_signatures import NUMBERS, Field

# Literals travel between these marks, so that nothing below changes a letter of them.
_OPEN, _CLOSE = "\x02", "\x03"
_MARKED = re.compile(f"({_OPEN}.*?{_CLOSE})")
_OPTION = re.compile(r"\[([^\]]*)\]")
_CHOICE = re.compile(r"<([^<>|]+(?:\|[^<>|]+)+)>")
_SLOT = re.compile(r"\{(\w+)(!?)\}")
_PREPOSITION = re.compile(r"(?:^| )(?:in|to|of|into|on|from|under|for|join) $")
_NAMED = frozenset({"channel", "sheet", "repo", "folder", "project", "list"})
_QUESTION_WORDS = ("how ", "where ", "what ")
_LEAD_INS = ("saying ", "with ", "called ", "titled ")

_JOINS = (" and ", ", then ", " and then ", "; ", ", and ")


def sentence(program: Program, rng: Random) -> str:
    """A sentence that says the program. Each literal of the program stands in it as it is."""
    marked = roughen(_compose(program, rng), rng)
    return marked.replace(_OPEN, "").replace(_CLOSE, "")


def _compose(program: Program, rng: Random) -> str:
    if program.source is None:
        return _act(program, rng)
    if not program.steps:
        question = _phrase(phrases.QUERIES, program.source, rng)
        return _frame("ask how" if question.startswith(_QUESTION_WORDS) else "ask", rng).format(q=question)
    frame, event = _open(program.source, conditional=program.condition is not None, rng=rng)
    ending = frame.endswith("{a}")
    action = _steps(program, rng, last=ending, verbs=False)
    condition = _condition(program.condition, rng) if program.condition else ""
    return frame.format(e=event, a=action, c=condition)


def _act(program: Program, rng: Random) -> str:
    if rng.random() < 0.65:
        return _steps(program, rng, last=True, verbs=False)
    frame = _frame("polite", rng)
    return frame.format(a=_steps(program, rng, last=frame.endswith("{a}"), verbs=True))


def _open(source: Call, *, conditional: bool, rng: Random) -> tuple[str, str]:
    """A frame with the event or query that stands in it."""
    suffix = " if" if conditional else ""
    if source.function.kind == "query":
        return _frame("look" + suffix, rng), _query(source, rng)
    if source.function.full_name in phrases.SCHEDULES:
        return _frame("clock", rng), _phrase(phrases.SCHEDULES, source, rng)
    order = rng.choices(("on", "when", "after"), (30, 35, 35))[0]
    return _frame(order + suffix, rng), _phrase(phrases.NOUNS if order == "on" else phrases.CLAUSES, source, rng)


def _frame(name: str, rng: Random) -> str:
    return rng.choice(phrases.FRAMES[name])


def _steps(program: Program, rng: Random, *, last: bool, verbs: bool) -> str:
    final = len(program.steps) - 1
    texts = [_step(step, rng, last=last and i == final, verbs=verbs and i == 0) for i, step in enumerate(program.steps)]
    join = rng.choice(_JOINS)
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + join + texts[-1]


def _step(step: Call, rng: Random, *, last: bool, verbs: bool) -> str:
    if step.function.kind == "query":
        return rng.choice(("get ", "look up ", "check ", "fetch ")) + _query(step, rng)
    return _phrase(phrases.ACTIONS, step, rng, last=last, verbs=verbs)


def _query(call: Call, rng: Random) -> str:
    nouns = [text for text in phrases.QUERIES[call.function.full_name] if not text.startswith(_QUESTION_WORDS)]
    return _phrase({call.function.full_name: tuple(nouns)}, call, rng)


def _phrase(
    table: Mapping[str, tuple[str, ...]], call: Call, rng: Random, *, last: bool = False, verbs: bool = False
) -> str:
    fitting = [text for text in table[call.function.full_name] if _fits(text, call)]
    text = rng.choice([text for text in fitting if not (verbs and text.startswith("!"))]).lstrip("!")
    text = _OPTION.sub(lambda m: m[1] if set(dict(_SLOT.findall(m[1]))) <= set(call.arguments) else "", text)
    text = _CHOICE.sub(lambda m: rng.choice(m[1].split("|")), text)
    return _SLOT.sub(lambda m: _fill(m, call, rng, last=last and m.end() == len(text)), text)


def _fits(text: str, call: Call) -> bool:
    slots = dict(_SLOT.findall(text))
    required = {name for name, _ in _SLOT.findall(_OPTION.sub("", text))}
    literal_only = (name for name, mark in slots.items() if mark)
    if not required <= set(call.arguments) <= set(slots):
        return False
    return all(isinstance(call.arguments[name], Literal) for name in literal_only)


def _fill(slot: re.Match[str], call: Call, rng: Random, *, last: bool) -> str:
    before, after = slot.string[: slot.start()], slot.string[slot.end() :]
    value = call.arguments[slot[1]]
    parameter = next(p for p in call.function.parameters if p.name == slot[1])
    if isinstance(value, Reference):
        noun = rng.choice(phrases.OUTPUTS[value.output.name])
        is_its = value.source == "it" and parameter.type != "person" and " of " not in noun and rng.random() < 0.2
        return ("its " if is_its else "the ") + noun
    marked = f"{_OPEN}{value.text}{_CLOSE}"
    if parameter.type == "text":
        return _text(marked, parameter, before, rng, last=last)
    named = _PREPOSITION.search(before) and (not after or after.startswith((" to ", " with ", " as ")))
    return _decorated(marked, parameter.type, rng) if parameter.type in _NAMED and named else marked


def _decorated(marked: str, type_name: str, rng: Random) -> str:
    if type_name == "channel" and rng.random() < 0.45:
        return "#" + marked
    return f"the {marked} {type_name}" if rng.random() < 0.4 else marked


def _text(marked: str, parameter: Field, before: str, rng: Random, *, last: bool) -> str:
    style = rng.random()
    if style < 0.25 and last:
        return marked if before.endswith(_LEAD_INS) else f": {marked}"
    if style < 0.25 and parameter.name in {"task", "title"}:
        return marked
    return f"'{marked}'" if style > 0.93 else f'"{marked}"'


def _condition(condition: Condition, rng: Random) -> str:
    if condition.output.type == "flag":
        return rng.choice(phrases.FLAGS[condition.output.name][condition.operator == "no"])
    noun = rng.choice(phrases.OUTPUTS[condition.output.name])
    its = "the " if condition.output.type == "person" or " of " in noun else "its "
    noun = rng.choice(("the ", "the ", its, "")) + noun
    if condition.output.type in NUMBERS:
        test = rng.choice(phrases.COMPARISONS[condition.operator])
    else:
        test = rng.choice(phrases.CONTAINS if condition.operator == "has" else phrases.EQUALS)
    return f"{noun} {test} {_OPEN}{condition.value}{_CLOSE}"


def roughen(text: str, rng: Random) -> str:
    """Case, punctuation, articles and typos outside the literals."""
    text = text.replace(" : ", ": ").replace(" :", ":")
    parts = _MARKED.split(text)
    plain = range(0, len(parts), 2)
    terse = 0.6 if " ->" in text else 0.08
    if rng.random() < terse:
        parts = [re.sub(r"\b(?:the|an?) ", "", part) if i in plain else part for i, part in enumerate(parts)]
    if rng.random() < 0.2:
        parts = [part.replace(", ", " ") if i in plain else part for i, part in enumerate(parts)]
    if rng.random() < 0.08:
        _typo(parts, rng)
    if rng.random() < 0.3:
        parts[0] = parts[0][:1].upper() + parts[0][1:]
    ends_in_literal = not parts[-1]
    if rng.random() < 0.25 and not ends_in_literal and not parts[-1].endswith("?"):
        parts[-1] += "?" if text.startswith(("can ", "could ", "what is")) else "."
    return "".join(parts)


def _typo(parts: list[str], rng: Random) -> None:
    """Swap, drop or double one letter of one longer word that is not part of a literal."""
    words = [(i, match) for i in range(0, len(parts), 2) for match in re.finditer(r"[a-z]{5,}", parts[i])]
    if not words:
        return
    index, match = rng.choice(words)
    word, at = match[0], rng.randrange(1, len(match[0]) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    typo = rng.choice((swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))
    parts[index] = parts[index][: match.start()] + typo + parts[index][match.end() :]
