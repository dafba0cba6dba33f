"""The signatures of flow: what each connector offers, and the Lark grammar and catalogue that follow from them.

``python -m edgedsl.grammars.flow_signatures`` writes ``flow.lark`` and ``flow.catalogue.json`` next to this file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

# One line per function: kind connector.name(parameter: type, optional?: type) -> output: type. The order of the
# parameters is the only one a program may use. An event starts a workflow, a query asks, an action acts.
_TABLE = """
event mail.received(from?: person) -> sender: person, subject: text, body: text, attachment: flag
query mail.latest(from?: person) -> subject: text, body: text
action mail.send(to: person, text: text)
action mail.forward(to: person)

event chat.posted(channel: channel) -> user: person, message: text, link: text
event chat.mention(channel?: channel) -> user: person, message: text, link: text
action chat.post(channel: channel, text: text) -> link: text
action chat.invite(user: person, channel: channel)

event calendar.starts() -> title: text, host: person, place: text
event calendar.added(day?: day) -> title: text, host: person
query calendar.next() -> title: text, host: person, place: text
action calendar.add(title: text, day: day, at?: time) -> link: text

event sheets.added(sheet: sheet) -> row: text, author: person
action sheets.append(sheet: sheet, row: text)

event crm.lead() -> lead: person, company: company, value: amount
event crm.won() -> company: company, value: amount
query crm.contact(name: person) -> company: company, address: text
action crm.add(name: person, company?: company)
action crm.move(company: company, stage: stage)

event tickets.opened(project?: project) -> title: text, author: person, priority: priority, link: text
event tickets.closed() -> title: text, agent: person, hours: hours
query tickets.count(project?: project) -> total: count
action tickets.create(title: text, priority?: priority) -> link: text
action tickets.assign(ticket: ticket, to: person)
action tickets.close(ticket: ticket)

event git.push(repo: repo) -> author: person, message: text, branch: text
event git.merge(repo: repo) -> author: person, title: text
event git.failed(repo: repo) -> author: person, branch: text, link: text
query git.build(repo: repo) -> passed: flag, minutes: minutes, branch: text
action git.issue(repo: repo, title: text) -> link: text
action git.deploy(repo: repo, target: target)

event weather.rain(city: city) -> summary: text
query weather.now(city: city) -> temperature: degrees, wind: wind, summary: text, raining: flag
query weather.forecast(city: city, day: day) -> high: degrees, low: degrees, summary: text

event payments.received() -> amount: amount, payer: person, currency: currency
event payments.failed() -> amount: amount, payer: person, reason: text
query payments.balance() -> balance: amount
action payments.invoice(to: person, amount: amount, currency: currency) -> link: text

event files.added(folder: folder) -> file: file, owner: person, size: size, shared: flag
query files.find(file: file) -> link: text, owner: person, size: size
action files.move(file: file, folder: folder)
action files.delete(file: file)

event sms.received(from?: person) -> sender: person, text: text
action sms.send(to: person, text: text)
event phone.missed() -> caller: person
action phone.call(to: person)

event timer.daily(at: time)
event timer.weekly(day: day, at: time)
event timer.every(count: number, unit: unit)

event sensor.motion(room: room)
event sensor.door(room: room)
query sensor.read(room: room) -> temperature: degrees, humidity: percent
action lights.on(room: room)
action lights.off(room: room)
action lights.color(room: room, color: color)
action device.on(device: device)
action device.off(device: device)

action music.play(playlist: playlist)
action music.pause()
query music.current() -> song: text, artist: text

event tasks.done(list: list) -> task: text
action tasks.add(list: list, task: text)
"""

ENUMERATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
        "unit": ("minutes", "hours", "days", "weeks"),
        "priority": ("low", "normal", "high", "urgent"),
        "currency": ("euros", "dollars", "pounds", "francs"),
        "color": ("red", "green", "blue", "white", "yellow", "purple", "orange"),
        "room": ("kitchen", "office", "garage", "hall", "bedroom", "lobby", "basement", "workshop"),
        "device": ("heater", "fan", "printer", "oven", "pump", "projector", "dishwasher", "dryer"),
        "stage": ("qualified", "demo", "proposal", "contract", "closed"),
        "target": ("staging", "production", "preview"),
    }
)
NUMBERS = frozenset(
    {"amount", "count", "degrees", "hours", "level", "minutes", "number", "percent", "size", "ticket", "wind"}
)
TERMINALS: Mapping[str, str] = MappingProxyType(
    {
        "WORD": r"/[A-Za-z0-9]+([._@-][A-Za-z0-9]+)*/",
        "TEXT": r'/"[^"\\\x00-\x1f\x7f]+"/',
        "NUMBER": r"/-?(0|[1-9][0-9]*)(\.[0-9]{1,2})?/",
        "TIME": r"/[0-9]{1,2}(:[0-9]{2}|am|pm)/",
    }
)
_LINE = re.compile(r"(event|query|action) (\w+)\.(\w+)\((.*?)\)(?: -> (.+))?")


@dataclass(frozen=True)
class Field:
    """A parameter or an output: ``type`` is one of the words after the colons of the table."""

    name: str
    type: str
    required: bool = True


@dataclass(frozen=True)
class Function:
    """One line of the table; ``kind`` is event, query or action."""

    kind: str
    connector: str
    name: str
    parameters: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def full_name(self) -> str:
        """As a program spells it, e.g. ``mail.send``."""
        return f"{self.connector}.{self.name}"

    @property
    def rule(self) -> str:
        """Name of its rule in the grammar."""
        return f"{self.connector}_{self.name}"


def _fields(text: str | None) -> tuple[Field, ...]:
    pairs = (part.split(": ") for part in (text or "").split(", ") if part)
    return tuple(Field(name.rstrip("?"), kind, not name.endswith("?")) for name, kind in pairs)


def _function(line: str) -> Function:
    match = _LINE.fullmatch(line)
    assert match, line
    kind, connector, name, parameters, outputs = match.groups()
    return Function(kind, connector, name, _fields(parameters), _fields(outputs))


FUNCTIONS: tuple[Function, ...] = tuple(_function(line) for line in _TABLE.split("\n") if line)


def terminal(type_name: str) -> str:
    """The terminal that a literal of this type is spelt with."""
    if type_name in ENUMERATIONS:
        return type_name.upper()
    if type_name in NUMBERS:
        return "NUMBER"
    return {"text": "TEXT", "time": "TIME"}.get(type_name, "WORD")


def can_bind(parameter: str, output: str) -> bool:
    """Whether a parameter of one type may take an output of another: text takes all but flags."""
    return output != "flag" if parameter == "text" else parameter == output


def catalogue() -> dict[str, list[str]]:
    """The closed lists of names, by terminal: the content of flow.catalogue.json."""
    return {name.upper(): list(entries) for name, entries in ENUMERATIONS.items()}


def lark_source() -> str:
    """The content of flow.lark: LALR(1), one rule per function, and only its own parameters in each."""
    types = dict.fromkeys(parameter.type for function in FUNCTIONS for parameter in function.parameters)
    parts = [
        _HEAD.replace("DECLARED", "\n".join(f"%declare {name}" for name in catalogue())),
        *_kinds(),
        "\n// One rule per function, then what may be asked of the outputs of each event and query.",
        *(_function_rule(function) for function in FUNCTIONS),
        *(_condition_rule(function) for function in _of_kind("event", "query") if function.outputs),
        'compare: " > " | " < " | " >= " | " <= "',
        "\n// A literal after the colon, or an output of the same type after the equals sign.",
        *(_value_rule(type_name) for type_name in types),
        "",
        *filter(None, (_field_terminal(type_name) for type_name in types)),
        *(f"{name}: {pattern}" for name, pattern in TERMINALS.items()),
    ]
    return "\n".join(parts) + "\n"


_HEAD = """// flow: trigger-action workflows. Written by `python -m edgedsl.grammars.flow_signatures`: change its table.
// One line, exactly the white space written here, parameters in one order: there is one way to write each program.
DECLARED

// `it` is what the event or query gave; s1 and s2 are what the first and second step gave.
// A request that flow cannot express is refused, in a program of its own.
start: "when " event " do " steps
     | "get " answer
     | action ("; " step ("; " step)?)?
     | refusal
refusal: "unsupported"
steps: step ("; " step ("; " step)?)?
step: action | query
"""


def _alternatives(names: Iterable[str]) -> str:
    listed = list(names)
    return "\n    | ".join(" | ".join(listed[start : start + 6]) for start in range(0, len(listed), 6))


def _of_kind(*kinds: str) -> list[Function]:
    return [function for function in FUNCTIONS if function.kind in kinds]


def _kinds() -> list[str]:
    events = (f"{f.rule} if_{f.rule}?" if f.outputs else f.rule for f in _of_kind("event"))
    answers = (f'{f.rule} (if_{f.rule}? " do " steps)?' for f in _of_kind("query"))
    return [
        "event: " + _alternatives(events),
        "answer: " + _alternatives(answers),
        "query: " + _alternatives(f.rule for f in _of_kind("query")),
        "action: " + _alternatives(f.rule for f in _of_kind("action")),
    ]


def _function_rule(function: Function) -> str:
    optional = [p for p in function.parameters if not p.required]
    choices = itertools.product((True, False), repeat=len(optional))
    left_out = ({p.name for p, kept in zip(optional, choice, strict=True) if not kept} for choice in choices)
    return f"{function.rule}: " + " | ".join(_call(function, names) for names in left_out)


def _call(function: Function, dropped: set[str]) -> str:
    parameters = [p for p in function.parameters if p.name not in dropped]
    arguments = [f'"{"(" if i == 0 else ", "}{p.name}" {p.type}_value' for i, p in enumerate(parameters)]
    return " ".join([f'"{function.full_name}"', *arguments, '")"']) if arguments else f'"{function.full_name}"'


def _condition_rule(function: Function) -> str:
    flags = " | ".join(f'"{output.name}"' for output in function.outputs if output.type == "flag")
    tests = [f'"{output.name}" {_test(output.type)}' for output in function.outputs if output.type != "flag"]
    negated = f' | " if not it." ({flags})' if flags else ""
    return f'if_{function.rule}: " if it." ({" | ".join([*tests, *filter(None, [flags])])}){negated}'


def _test(type_name: str) -> str:
    if type_name in NUMBERS:
        return "compare NUMBER"
    return '" has " WORD' if type_name == "text" else f'" is " {terminal(type_name)}'


def _value_rule(type_name: str) -> str:
    # The sources are spelt out in each rule: a shared rule would merge parser states after which the names differ.
    fields = dict.fromkeys(o.name for f in FUNCTIONS for o in f.outputs if can_bind(type_name, o.type))
    literal = f'{type_name}_value: ": " {terminal(type_name)}'
    return literal + (f' | ("=it." | "=s1." | "=s2.") {type_name.upper()}_FIELD' if fields else "")


def _field_terminal(type_name: str) -> str:
    fields = dict.fromkeys(o.name for f in FUNCTIONS for o in f.outputs if can_bind(type_name, o.type))
    return f"{type_name.upper()}_FIELD: " + _alternatives(f'"{name}"' for name in fields) if fields else ""


if __name__ == "__main__":
    from edgedsl import atomic

    atomic.write_text(Path(__file__).with_name("flow.lark"), lark_source())
    atomic.write_json(Path(__file__).with_name("flow.catalogue.json"), catalogue())
