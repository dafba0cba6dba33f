"""The HTTP server in front of a fake engine: shapes of answers and errors, and what the openai client makes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from fake_engine import PIECES, PROGRAM, FakeEngine
from serving_client import URL, body, post, queue_of, server_of, talk

from edgedsl.config import GenerateSection
from edgedsl.serving.app import create_app
from edgedsl.serving.gate import MAX_BODY_BYTES

# --- the answer ---


def test_answer_has_openai_shape() -> None:
    answer = post(body()).json()
    assert set(answer) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage", "timings"}
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": PROGRAM, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert set(answer["timings"]) == {"queue_ms", "ttft_ms", "tpot_ms", "e2el_ms"}


def test_request_reaches_engine_in_its_own_thread() -> None:
    engine = FakeEngine()
    post(
        body(
            "a", max_completion_tokens=2, temperature=0.5, top_p=0.9, top_k=3, seed=4, user="someone", n=1, store=False
        ),
        engine,
    )
    sentence, params = engine.seen[0]
    assert (sentence, params.max_tokens, params.temperature, params.top_p, params.top_k, params.seed) == (
        "a",
        2,
        0.5,
        0.9,
        3,
        4,
    )
    assert engine.threads == {"engine"}


def test_project_file_gives_the_defaults() -> None:
    async def ask(queue: EngineQueue) -> None:
        app = create_app(queue, defaults=GenerateSection(max_tokens=2, temperature=0.25))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post(URL, json=body())).json()["choices"][0]["finish_reason"] == "length"

    engine = FakeEngine()
    with queue_of(engine) as queue:
        asyncio.run(ask(queue))
    assert (engine.seen[0][1].max_tokens, engine.seen[0][1].temperature) == (2, 0.25)


def test_text_part_is_a_sentence() -> None:
    engine = FakeEngine()
    request = body()
    request["messages"][0]["content"] = [{"type": "text", "text": "hello"}]
    assert post(request, engine).status_code == 200
    assert engine.seen[0][0] == "hello"


def test_fingerprint_is_stable() -> None:
    first, second = post(body()).json(), post(body()).json()
    assert first["system_fingerprint"] == second["system_fingerprint"]
    assert first["id"] != second["id"]


def test_models_and_health() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        models = (await client.get("/v1/models")).json()
        assert [card["id"] for card in models["data"]] == ["fake-model"]
        assert (await client.get("/v1/models/fake-model")).json() == models["data"][0]
        assert (await client.get("/v1/models/other")).json()["error"]["code"] == "model_not_found"
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await client.get(path)).status_code == 200

    talk(scenario)


def test_openapi_is_complete_and_docs_pages_are_absent() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        operation = document["paths"][URL]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("ChatRequest")
        assert "422" not in operation["responses"]
        for path in ("/docs", "/redoc"):
            assert (await client.get(path)).status_code == 404

    talk(scenario)


# --- the openai client ---


def test_openai_client() -> None:
    with (
        server_of(FakeEngine()) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(**body())
        assert answer.choices[0].message.content == PROGRAM
        assert answer.model_extra is not None
        assert "timings" in answer.model_extra
        assert [card.id for card in client.models.list()] == ["fake-model"]
        with pytest.raises(openai.BadRequestError, match="stop"):
            client.chat.completions.create(**body(stop=["x"]))
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**body() | {"model": "gpt-4"})


def test_openai_client_streams() -> None:
    with (
        server_of(FakeEngine()) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        chunks = list(client.chat.completions.create(**body(), stream=True, stream_options={"include_usage": True}))
        *parts, last = chunks
        assert [part.choices[0].delta.content for part in parts] == ["", *PIECES, None]
        assert parts[0].choices[0].delta.role == "assistant"
        assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["stop"]
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens == 10
        assert len({chunk.id for chunk in chunks}) == 1
        with pytest.raises(openai.APIError, match="grammar engine"):
            list(client.chat.completions.create(**body("fail"), stream=True))


def test_stream_without_usage_ends_with_done() -> None:
    answer = post(body(stream=True))
    events = answer.text.strip().split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "data: [DONE]"
    assert not any("usage" in event for event in events)
    assert "timings" in json.loads(events[-2].removeprefix("data: "))


def test_stream_that_fails_is_an_error_event_and_never_done() -> None:
    events = post(body("fail", stream=True)).text.strip().split("\n\n")
    kind, data = events[-1].split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert 'finish_reason":"' not in "".join(events)


def test_stream_that_cannot_begin_has_a_status() -> None:
    assert post(body("long", stream=True)).status_code == 413


# --- errors ---

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
