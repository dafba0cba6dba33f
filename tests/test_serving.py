"""The HTTP server in front of a fake engine: shapes of answers and errors, and what the openai client makes of them."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
from fake_engine import PIECES, PROGRAM, FakeEngine
from serving_client import URL, body, post, queue_of, server_of, talk

from edgedsl.config import GenerateSection
from edgedsl.grammar import Subset
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.serving.app import create_app
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.schemas import ChatRequest

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


def test_fastapi_sends_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    with queue_of(FakeEngine()) as queue:
        app = create_app(queue)
    telemetry = getattr(app, "_native_telemetry", None)  # older versions of FastAPI have none
    assert telemetry is None or not telemetry.enabled()
    assert not any(
        getattr(app, "_telemetry", {}).get(name) for name in ("tracing", "metrics", "logs", "auto_configure")
    )


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


def test_a_request_narrows_the_catalogue() -> None:
    engine = FakeEngine()
    post(body(catalogue=["com.mail", "com.map"]), engine)
    post(body(catalogue={"allow": ["com"], "deny": ["com.map"]}, spans=["TEXT"]), engine)
    post(body(), engine)
    assert [(params.subsets, params.spans) for _, params in engine.seen] == [
        ((Subset(allow=("com.mail", "com.map")),), ()),
        ((Subset(allow=("com",), deny=("com.map",)),), ("TEXT",)),
        ((), ()),
    ]


def test_what_the_server_leaves_of_the_catalogue_stays_left() -> None:
    defaults = SamplingParams.from_section(GenerateSection(allow="com, org", deny="com.map", spans="TEXT"))
    request = ChatRequest.model_validate(body(catalogue=["com.mail"], spans=["WORD"]))
    params = request.sampling_params(defaults)
    assert params.subsets == (Subset(("com", "org"), ("com.map",)), Subset(("com.mail",)))
    assert params.spans == ("TEXT", "WORD")


@pytest.mark.parametrize("catalogue", [[], [""], [1], {"allow": []}, {"only": ["x"]}, "com.mail", {"deny": "x"}])
def test_a_malformed_catalogue_is_refused(catalogue: object) -> None:
    engine = FakeEngine()
    answer = post(body(catalogue=catalogue), engine)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("catalogue")
    assert not engine.seen
