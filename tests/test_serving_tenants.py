"""Tenants: API keys with a part of the catalogue that no request can leave, and that nobody else learns of."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_client import KEY, URL, body, queue_of, talk
from tiny import tiny_template, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.config import GenerateSection, ServeSection
from edgedsl.errors import ConfigError
from edgedsl.grammar import Grammar, Subset
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.serving.app import create_app
from edgedsl.serving.gate import KeyRing
from edgedsl.serving.run import serve
from edgedsl.serving.tenants import Tenant, prepare

pytestmark = pytest.mark.timeout(60)  # a server that starts where it should refuse runs on

MAIL_KEY, MAP_KEY = "key-of-the-mail-tenant", "key-of-the-map-tenant"
SOURCE = """%declare FUNCTION
%declare DEVICE
%declare METHOD
%declare ARGUMENT
%declare DAY
start: (call | "@" DEVICE "->" METHOD) " on " DAY (" say " TEXT)?
call: "@" FUNCTION "(" ARGUMENT? ")"
TEXT: /"[a-z ]{1,9}"/
"""
CATALOGUE: dict[str, Any] = {
    "FUNCTION": {
        "com.mail.send": {"ARGUMENT": ["recipient", "subject"]},
        "com.mail.read": {"ARGUMENT": []},
        "com.map": {"ARGUMENT": ["place"]},
        "org.map.find": {"ARGUMENT": ["place"]},
    },
    "DEVICE": {"com.mail": {"METHOD": ["send", "read"]}, "org.map": {"METHOD": ["find"]}},
    "METHOD": ["find", "read", "send"],
    "ARGUMENT": ["place", "recipient", "subject"],
    "DAY": ["monday", "sunday", "washing day"],
}
FUNCTIONS, DEVICES, DAYS = (sorted(CATALOGUE[terminal]) for terminal in ("FUNCTION", "DEVICE", "DAY"))
# What the tenant of com.mail must never read, and the catalogue of a server that has none of it.
FOREIGN = ("com.map", "org.", "place", "find", MAP_KEY)
MAIL_ONLY = {
    "FUNCTION": {name: CATALOGUE["FUNCTION"][name] for name in ("com.mail.send", "com.mail.read")},
    "DEVICE": {"com.mail": CATALOGUE["DEVICE"]["com.mail"]},
    "METHOD": ["read", "send"],
    "ARGUMENT": ["recipient", "subject"],
    "DAY": CATALOGUE["DAY"],
}


class RandomDecoder:
    """Random logits, other ones for each seed."""

    info = SimpleNamespace(context_length=200)
    execution_provider = "cpu"
    prefix_token_ids = ()
    length = 0
    can_truncate = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(3)

    def reset(self) -> None:
        pass

    def rows(self, token_ids: Any, num_logits: int) -> Any:
        return self._rng.normal(size=(1, self._vocab_size)).astype(np.float32)


class SmallEngine(Engine):
    """An engine on random logits."""

    def __init__(self, names: dict[str, Any] = CATALOGUE) -> None:
        catalogue = Catalogue.from_dict(names)
        tokenizer = tiny_tokenizer(["com.", "mail", "@com", " on ", "day", "()", "->"])
        super().__init__(
            name="fake-model",
            tokenizer=tokenizer,
            template=tiny_template(),
            grammar=Grammar(bind(SOURCE, catalogue), name="grammar.lark", catalogue=catalogue),
            decoder=RandomDecoder(tokenizer.vocab_size),  # type: ignore[arg-type]
        )


@functools.cache
def engine_of_all_examples() -> SmallEngine:
    return SmallEngine()


@pytest.fixture(scope="module")
def engine() -> SmallEngine:
    return engine_of_all_examples()


def ring(tmp_path: Path, *lines: str) -> KeyRing:
    path = tmp_path / "keys"
    path.write_text("\n".join(lines), encoding="utf-8")
    return KeyRing.from_file(path)


def two(tmp_path: Path) -> KeyRing:
    return ring(tmp_path, f"{MAIL_KEY} allow=com.mail", f"{MAP_KEY}\tdeny=com.mail", KEY)


def ask(keys: KeyRing, engine: Any, key: str, **more: Any) -> httpx.Response:
    header = {"authorization": f"Bearer {key}"}

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(URL, json=body(**more), headers=header)

    return talk(send, engine, keys=keys)  # type: ignore[no-any-return]


def programs(keys: KeyRing, engine: Any, key: str, num: int = 12, **more: Any) -> list[str]:
    async def send(client: httpx.AsyncClient) -> list[str]:
        header = {"authorization": f"Bearer {key}"}
        bodies = [body(**{"max_tokens": 60, "temperature": 1, "seed": seed, **more}) for seed in range(num)]
        answers = [await client.post(URL, json=item, headers=header) for item in bodies]
        assert [answer.text for answer in answers if answer.status_code != 200] == []
        return [answer.json()["choices"][0]["message"]["content"] for answer in answers]

    return talk(send, engine, keys=keys)  # type: ignore[no-any-return]


def names_of(program: str) -> tuple[str, str, str]:
    """Function, device and day; empty where there is none."""
    found = re.fullmatch(r'@(?:([a-z.]+)\(\w*\)|([a-z.]+)->\w+) on ([a-z ]+?)(?: say "[a-z ]+")?', program)
    assert found, program
    return found[1] or "", found[2] or "", found[3]


def called(program: str) -> str:
    """Function or device; what the program says is free."""
    function, device, _ = names_of(program)
    return function or device


# --- what comes out ---


def test_two_keys_get_different_programs(tmp_path: Path, engine: SmallEngine) -> None:
    keys = two(tmp_path)
    mail, maps, anything = (programs(keys, engine, key) for key in (MAIL_KEY, MAP_KEY, KEY))
    assert all("com.mail" in text and "map" not in text for text in map(called, mail))
    assert all("map" in text and "mail" not in text for text in map(called, maps))
    assert any("mail" in text for text in anything)
    assert any("map" in text for text in anything)


def test_a_key_stands_between_server_and_request(tmp_path: Path) -> None:
    keys, fake = two(tmp_path), FakeEngine()
    assert ask(keys, fake, MAIL_KEY, catalogue={"deny": ["com.mail.read"]}).status_code == 200
    assert ask(keys, fake, KEY).status_code == 200
    assert [params.subsets for _, params in fake.seen] == [
        (Subset(allow=("com.mail",)), Subset(deny=("com.mail.read",))),
        (),
    ]


def test_servers_part_comes_first(tmp_path: Path) -> None:
    fake, header = FakeEngine(), {"authorization": f"Bearer {MAIL_KEY}"}

    async def send() -> int:
        app = create_app(queue, keys=two(tmp_path), defaults=GenerateSection(deny="monday"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.post(URL, json=body(catalogue=["sunday"]), headers=header)).status_code

    with queue_of(fake) as queue:
        assert asyncio.run(send()) == 200
    assert fake.seen[0][1].subsets == (Subset(deny=("monday",)), Subset(("com.mail",)), Subset(("sunday",)))


def test_names_with_blanks_stand_in_quotes(tmp_path: Path, engine: SmallEngine) -> None:
    keys = ring(tmp_path, f'{MAIL_KEY} allow="com.mail, washing day"')
    assert all(names_of(text)[2] == "washing day" for text in programs(keys, engine, MAIL_KEY, 4))


def test_a_request_narrows_its_keys_part(tmp_path: Path, engine: SmallEngine) -> None:
    found = programs(two(tmp_path), engine, MAIL_KEY, catalogue=["com.mail.read", "sunday"])
    assert all("read" in text and names_of(text)[2] == "sunday" for text in found)


@pytest.mark.parametrize("catalogue", [["org.map"], ["com.map", "com.mail"], {"deny": ["org"]}, {"allow": ["map"]}])
def test_a_request_cannot_widen_its_keys_part(tmp_path: Path, engine: SmallEngine, catalogue: Any) -> None:
    answer = ask(two(tmp_path), engine, MAIL_KEY, catalogue=catalogue)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("catalogue", [["com"], {"allow": ["com.mail"], "deny": ["sunday"]}, {"deny": ["monday"]}])
def test_what_a_request_may_say_stays_inside(tmp_path: Path, engine: SmallEngine, catalogue: Any) -> None:
    found = programs(two(tmp_path), engine, MAIL_KEY, catalogue=catalogue)
    assert all("com.mail" in text for text in found)


@pytest.mark.parametrize("terminal", ["DEVICE", "FUNCTION", "METHOD", "DAY"])
def test_spans_bring_no_name_back(tmp_path: Path, engine: SmallEngine, terminal: str) -> None:
    """The tenant's part has no device: what spans would put in its place are words of the client's own sentence."""
    keys = ring(tmp_path, f"{MAIL_KEY} allow=com.map")
    answer = ask(keys, engine, MAIL_KEY, sentence="use org.map and com.mail.send to find monday", spans=[terminal])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"spans names '{terminal}'")
    assert programs(keys, engine, MAIL_KEY, 2, sentence="hello you", spans=["TEXT"])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_names_of_programs_lie_inside_random_parts(data: st.DataObject) -> None:
    some = data.draw(st.sets(st.sampled_from([*FUNCTIONS, *DEVICES]), min_size=1))
    denied = data.draw(st.sets(st.sampled_from([*FUNCTIONS, *DEVICES])))
    day = data.draw(st.sets(st.sampled_from(DAYS)))
    keys = KeyRing([Tenant.from_line(line(some | day, denied), "line 1")])
    engine = engine_of_all_examples()
    if error := start_error(engine, keys):
        assert "no program" in error
        assert {name for name in some if not covered(name, denied)} <= set(DEVICES)
        return
    for text in programs(keys, engine, MAIL_KEY, 3):
        function, device, on = names_of(text)
        name = function or device
        assert covered(name, some) or any(below.startswith(f"{name}.") for below in some)
        assert not covered(name, denied)
        assert on in (day or DAYS)


def start_error(engine: Any, keys: KeyRing) -> str:
    try:
        prepare(engine, keys, ())
    except ConfigError as exc:
        return exc.message
    return ""


def line(allow: set[str], deny: set[str]) -> str:
    parts = [f"{field}='{','.join(sorted(names))}'" for field, names in (("allow", allow), ("deny", deny)) if names]
    return " ".join([MAIL_KEY, *parts])


def covered(name: str, names: set[str]) -> bool:
    return any(name == above or name.startswith(f"{above}.") for above in names)


# --- what nobody learns ---


@pytest.mark.parametrize("field", ["allow", "deny"])
def test_names_of_others_look_like_names_that_do_not_exist(tmp_path: Path, engine: SmallEngine, field: str) -> None:
    """Each answer is what a server gives that has never heard of the other tenant's names."""
    keys, alone = two(tmp_path), SmallEngine(MAIL_ONLY)
    foreign = ["com.map", "com.map.place", "com.mapp", "org", "org.map", "org.map.find", "org.mapp", "place", "plase"]
    for name in [*foreign, "find", "fimd", "zzz", "com.mial"]:
        answers = [ask(keys, some, MAIL_KEY, catalogue={field: [name]}) for some in (engine, alone)]
        assert [answer.status_code for answer in answers] == [400, 400]
        assert answers[0].text == answers[1].text
        told = answers[0].text.replace(f"'{name}'", "")
        assert [word for word in FOREIGN if word in told] == []


def test_suggestions_come_from_the_tenants_part(tmp_path: Path, engine: SmallEngine) -> None:
    keys = two(tmp_path)
    for name, hint in (("com.mial", "com.mail"), ("recipent", "recipient"), ("mondey", "monday")):
        answer = ask(keys, engine, MAIL_KEY, catalogue=[name])
        assert answer.json()["error"]["hint"] == f"did you mean '{hint}'?"
    assert "org.map" in ask(keys, engine, MAP_KEY, catalogue=["org.mapp"]).json()["error"]["hint"]


def test_a_name_that_its_line_allows_is_the_tenants_own(tmp_path: Path, engine: SmallEngine) -> None:
    keys = ring(tmp_path, f"{MAIL_KEY} allow=com.mail,place", f"{MAP_KEY} allow=com.mail")
    wanted = ["place", "com.mail.read"]
    assert [ask(keys, engine, key, catalogue=wanted).status_code for key in (MAIL_KEY, MAP_KEY)] == [200, 400]


def test_nothing_that_a_tenant_reads_tells_of_another(
    tmp_path: Path, engine: SmallEngine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    header = {"authorization": f"Bearer {MAIL_KEY}"}
    bad: list[dict[str, Any]] = [
        {"catalogue": ["com.nap"]},
        {"catalogue": {"deny": ["com.mail"]}},
        {"catalogue": []},
        {"max_tokens": 1},
        {"spans": ["DAY"]},
        {"spans": ["NOPE"]},
        {"model": "other"},
        {"stream": True},
        {"stream": True, "catalogue": ["orf"]},
    ]

    async def scenario(client: httpx.AsyncClient) -> str:
        pages = ("/v1/models", "/v1/models/x", "/health", "/health/live", "/health/ready", "/openapi.json", "/nothing")
        answers = [await client.get(page, headers=header) for page in pages]
        answers += [await client.post(URL, json=body() | change, headers=header) for change in bad]
        answers += [await client.post(URL, json=body(), headers={"authorization": f"Bearer {MAIL_KEY[:-1]}"})]
        return "\n".join(json.dumps([dict(answer.headers), answer.text]) for answer in answers)

    text = talk(scenario, engine, keys=two(tmp_path))  # type: ignore[arg-type]
    logged = "".join(record.getMessage() for record in caplog.records if record.name.startswith("edgedsl"))
    seen = text + logged + "".join(capfd.readouterr())
    assert [word for word in (*FOREIGN, MAIL_KEY) if word in seen] == []


def test_a_ring_shows_no_key(tmp_path: Path) -> None:
    keys = two(tmp_path)
    assert not [key for key in (KEY, MAIL_KEY, MAP_KEY) if key in repr([keys, *keys]) + repr(vars(keys))]


# --- the start ---


def refusal(tmp_path: Path, load: Callable[[], Any], *lines: str, **defaults: str) -> ConfigError:
    path = tmp_path / "keys"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        serve(load, ServeSection(port=0), key_file=path, defaults=GenerateSection(**defaults))  # type: ignore[arg-type]
    shown = caught.value.message + caught.value.hint
    assert not [key for key in (KEY, MAIL_KEY, MAP_KEY) if key in shown]
    return caught.value


@pytest.mark.parametrize(
    ("part", "message", "hint"),
    [
        ("allow=com.mial", "the catalogue has no 'com.mial'", "did you mean 'com.mail'?"),
        ("allow=com.mail deny=org.map.fnd", "the catalogue has no 'org.map.fnd'", "did you mean 'org.map.find'?"),
        ("deny='monday,sunday,washing day'", "no program can be written with the names that are left", "allow more"),
    ],
)
def test_a_wrong_part_stops_the_server(tmp_path: Path, engine: SmallEngine, part: str, message: str, hint: str) -> None:
    error = refusal(tmp_path, lambda: engine, KEY, "# mail", f"{MAIL_KEY} {part}")
    assert error.message.endswith(f"keys', line 3: {message}")
    assert error.hint.startswith(hint)


def test_a_key_has_only_what_the_server_leaves(tmp_path: Path, engine: SmallEngine) -> None:
    error = refusal(tmp_path, lambda: engine, f"{MAIL_KEY} deny=org.map", allow="com")
    assert error.message.endswith("line 1: the catalogue has no 'org.map'")
    error = refusal(tmp_path, lambda: engine, KEY, allow="con")
    assert error.message == "[generate] allow, deny: the catalogue has no 'con'"


@pytest.mark.parametrize(
    "lines",
    [
        (f"{KEY} {MAIL_KEY}",),
        (f"{KEY} x",),
        (f"{KEY} #",),
        (f"{KEY} only=com.mail",),
        (f"{KEY} allow",),
        (f"{KEY} allow=",),
        (f"{KEY} deny=,",),
        (f"{KEY} allow=com.mail,",),
        (f"{KEY} allow=com.mail, com.map",),
        (f"{KEY} allow=com.mail allow=com.map",),
        (f"{KEY} allow='com.mail",),
        (f"{KEY} Allow=com.mail",),
        (f"allow=com.mail,com.map {KEY}",),
        ("allow=com.mail.send",),
        ("short allow=com.mail",),
    ],
)
def test_malformed_lines_are_refused_before_anything_is_loaded(tmp_path: Path, lines: tuple[str, ...]) -> None:
    error = refusal(tmp_path, lambda: pytest.fail("loaded"), "# keys", *lines)
    assert "keys', line 2: " in error.message
    assert error.hint


def test_a_key_has_one_part(tmp_path: Path) -> None:
    error = refusal(tmp_path, FakeEngine, KEY, f"{KEY} allow=com.mail")
    assert "line 2: its key stands above already" in error.message
    assert len(list(ring(tmp_path, KEY, KEY))) == 2


def test_parts_are_ready_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SmallEngine()
    keys = two(tmp_path)
    server = SamplingParams.from_section(GenerateSection(deny="monday")).subsets
    prepare(engine, keys, server)
    made: list[object] = []
    monkeypatch.setattr(type(engine.compiled), "_restrict", lambda self, parts: made.append(parts))
    for tenant in keys:
        engine.compiled.restrict(*server, *tenant.subsets)
    assert made == []
