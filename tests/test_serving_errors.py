"""Everything a client can get wrong, and what the engine can: each has one status, one code and no traceback."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving_client import URL, body, post, server_of, talk

from edgedsl.serving.gate import MAX_BODY_BYTES

USER = {"role": "user", "content": "a"}
SYSTEM = {"role": "system", "content": "a"}
BAD: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "other"}, 404, "model_not_found", "model"),
    ({"model": 3}, 400, "invalid_value", "model"),
    ({"messages": []}, 400, "invalid_value", "messages"),
    ({"messages": "hello"}, 400, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "invalid_value", "messages[0].content"),
    ({"messages": [{"role": "user"}]}, 400, "missing_field", "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a"}] * 2}, 400, "unsupported", "messages"),
    ({"messages": [SYSTEM, USER]}, 400, "unsupported", "messages[0].role"),
    ({"messages": [USER, SYSTEM | {"role": "assistant"}]}, 400, "unsupported", "messages[1].role"),
    ({"messages": [{"role": "king", "content": "a"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported", "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, 400, "unknown_field", "messages[0].name"),
    ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": "5"}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": True}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "invalid_value", None),
    ({"temperature": -0.1}, 400, "invalid_value", "temperature"),
    ({"temperature": 2.1}, 400, "invalid_value", "temperature"),
    ({"top_p": 0}, 400, "invalid_value", "top_p"),
    ({"top_k": -1}, 400, "invalid_value", "top_k"),
    ({"seed": -1}, 400, "invalid_value", "seed"),
    ({"seed": 2**63}, 400, "invalid_value", "seed"),
    ({"n": 2}, 400, "unsupported", "n"),
    ({"n": True}, 400, "unsupported", "n"),
    ({"stop": "x"}, 400, "unsupported", "stop"),
    ({"store": True}, 400, "unsupported", "store"),
    ({"logprobs": True}, 400, "unsupported", "logprobs"),
    ({"presence_penalty": 1}, 400, "unsupported", "presence_penalty"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported", "response_format"),
    ({"tools": []}, 400, "unsupported", "tools"),
    ({"grammar": "start: x"}, 400, "unsupported", "grammar"),
    ({"max_token": 5}, 400, "unknown_field", "max_token"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_value", None),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "unknown_field", "stream_options.x"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "code", "param"), BAD, ids=[json.dumps(case[0])[:60] for case in BAD])
def test_bad_input(change: dict[str, Any], status: int, code: str, param: str | None) -> None:
    engine = FakeEngine()
    answer = post(body() | change, engine)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"], error["type"]) == (
        status,
        code,
        param,
        "invalid_request_error",
    )
    assert engine.seen == []


@pytest.mark.parametrize(
    "change",
    [{"stop": None}, {"stop": []}, {"presence_penalty": 0}, {"response_format": {"type": "text"}}, {"n": None}],
)
def test_neutral_values_are_accepted(change: dict[str, Any]) -> None:
    assert post(body() | change).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"\xff"',
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"model":"fake-model"',
        b"\x00",
        b"NaN",
    ],
)
def test_malformed_body(content: bytes) -> None:
    answer = post(content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_nan_and_half_a_surrogate_pair_are_refused() -> None:
    start = b'{"model":"fake-model","messages":[{"role":"user","content":'
    for rest in (b'"\\ud800"}]}', b'"a"}],"temperature":NaN}', b'"a"}],"\\ud800":1}'):
        assert post(content=start + rest, headers={"content-type": "application/json"}).status_code == 400


def test_other_content_type_is_refused() -> None:
    answer = post(content=json.dumps(body()), headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_big_bodies_are_refused_declared_or_not() -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * (MAX_BODY_BYTES // 16)

    declared = post(content=b" " * (MAX_BODY_BYTES + 1), headers={"content-type": "application/json"})
    chunked = post(content=pieces(), headers={"content-type": "application/json"})
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert (
        post(content=json.dumps(body()) + " " * 100_000, headers={"content-type": "application/json"}).status_code
        == 200
    )


def test_engine_errors(caplog: pytest.LogCaptureFixture) -> None:
    too_long, failed, broken = (post(body(sentence)) for sentence in ("long", "fail", "break"))
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (413, "context_length_exceeded")
    assert too_long.json()["error"]["hint"] == "shorten the sentence"
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "generation_failed")
    assert "choices" not in failed.json()
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in broken.text
    assert "ZeroDivisionError" in caplog.text


def test_engine_goes_on_after_a_bug() -> None:
    async def scenario(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(URL, json=body(sentence))).status_code for sentence in ("break", "fail", "fine")]

    assert talk(scenario) == [500, 500, 200]


def test_router_errors_are_json_too() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/nothing")).json()["error"]["code"] == "not_found"
        wrong = await client.get(URL)
        assert (wrong.status_code, wrong.json()["error"]["code"], wrong.headers["allow"]) == (
            405,
            "method_not_allowed",
            "POST",
        )

    talk(scenario)


def test_no_cors_header_and_no_server_header() -> None:
    with server_of(FakeEngine()) as (url, _):
        answer = httpx.post(url + URL, json=body(), headers={"Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "server"]
