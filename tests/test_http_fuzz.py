"""Whatever is posted, the answer is a program or a well-formed 4xx error; never a 500, a traceback or a hang."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fake_engine import PROGRAM, FakeEngine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgedsl.serving.app import create_app
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.schemas import UNSUPPORTED, ChatRequest

Post = Callable[[bytes], httpx.Response]

TEXT = st.text(st.characters(), max_size=12)  # half surrogate pairs included
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
FIELDS = st.sampled_from(sorted({*ChatRequest.model_fields, *UNSUPPORTED}))
PARTS = st.dictionaries(
    st.sampled_from(["role", "content", "type", "text", "name"]), JSON | st.sampled_from(["user", "text", "system"])
)
MESSAGES = st.lists(PARTS | JSON, max_size=3)
VALID = {"model": "fake-model", "messages": [{"role": "user", "content": "turn on the light"}]}

fuzz = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    queue = EngineQueue(FakeEngine, max_queue=1)
    queue.start()
    assert queue.loaded.wait(5)
    transport = httpx.ASGITransport(create_app(queue), raise_app_exceptions=True)
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=transport, base_url="http://test")

        def send(content: bytes) -> httpx.Response:
            headers = {"content-type": "application/json"}
            return runner.run(client.post("/v1/chat/completions", content=content, headers=headers))

        yield send
        runner.run(client.aclose())
    assert queue.close(5)


def check(answer: httpx.Response) -> None:
    if answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
        return
    if answer.status_code == 200:
        assert PROGRAM.startswith(answer.json()["choices"][0]["message"]["content"])
        return
    assert answer.status_code in {400, 404, 413}, answer.text
    error = json.loads(answer.content)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["code"]
    assert "Traceback" not in answer.text
    assert "errors.pydantic.dev" not in answer.text


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzz
@given(JSON)
def test_random_json_is_refused(post: Post, value: Any) -> None:
    answer = post(dumps(value))
    check(answer)
    assert answer.status_code == 400


@fuzz
@given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
@example({"model": "\ud800"})
@example({"seed": 10**400})
@example({"temperature": 10**400})
def test_one_wrong_field(post: Post, change: dict[str, Any]) -> None:
    check(post(dumps(VALID | change)))


@fuzz
@given(MESSAGES)
def test_wrong_messages(post: Post, messages: Any) -> None:
    check(post(dumps(VALID | {"messages": messages})))


@fuzz
@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=2))
def test_unknown_fields_are_refused(post: Post, extra: dict[str, Any]) -> None:
    answer = post(dumps(VALID | {f"x{name}": value for name, value in extra.items()}))
    check(answer)
    assert answer.status_code == 400


@fuzz
@given(st.binary(max_size=200))
def test_raw_bytes_are_refused(post: Post, content: bytes) -> None:
    answer = post(content)
    check(answer)
    assert answer.status_code == 400


@fuzz
@given(st.integers(0, len(dumps(VALID)) - 1), st.binary(max_size=3))
def test_one_damaged_place(post: Post, place: int, junk: bytes) -> None:
    content = dumps(VALID)
    check(post(content[:place] + junk + content[place + 1 :]))


@pytest.mark.parametrize("depth", [50, 500, 5_000, 50_000])
def test_deep_nesting(post: Post, depth: int) -> None:
    for content in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        check(post(content))
        check(post(dumps(VALID)[:-1] + b',"response_format":{"type":' + content + b"}}"))
        check(post(dumps(VALID)[:-1] + b',"x":' + content + b"}"))
