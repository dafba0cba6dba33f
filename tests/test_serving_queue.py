"""The server's queue, clients that leave, and API keys."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving_client import KEY, URL, body, server_of, talk, until

from edgedsl.config import GenerateSection, ServeSection
from edgedsl.errors import BundleError, ConfigError
from edgedsl.serving import heap
from edgedsl.serving.app import create_app
from edgedsl.serving.gate import KeyRing, check_exposure
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.run import _listen, _prepared, serve

# --- the queue ---


def test_full_queue_is_503_with_retry_after() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        taken = [asyncio.create_task(client.post(URL, json=body(f"hold {i}"))) for i in range(3)]
        while len(engine.seen) < 1:
            await asyncio.sleep(0.005)
        for _ in range(500):  # rounds of the event loop, for the other two to join the queue
            await asyncio.sleep(0)
        refused = await client.post(URL, json=body("one too many"))
        assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (
            503,
            "queue_full",
            "1",
        )
        assert refused.json()["error"]["type"] == "service_unavailable"
        engine.release.set()
        assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3

    talk(scenario, engine, max_queue=2)
    assert "one too many" not in [sentence for sentence, _ in engine.seen]


def test_idle_work_goes_on_between_requests_and_ends_with_the_queue() -> None:
    engine = FakeEngine()
    engine.num_idle_steps = 1 << 60

    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            before = engine.idle_steps
            assert (await client.post(URL, json=body())).status_code == 200
            until(lambda: engine.idle_steps > before)  # noqa: B023  asked before the next round

    talk(scenario, engine)


def test_what_idle_work_freed_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, trimmed = FakeEngine(), []
    engine.num_idle_steps = 3
    monkeypatch.setattr(heap, "trim", lambda: trimmed.append(engine.idle_steps))

    async def scenario(client: httpx.AsyncClient) -> None:
        until(lambda: trimmed)
        for _ in range(3):
            assert (await client.post(URL, json=body())).status_code == 200

    talk(scenario, engine)
    assert trimmed == [3]


def test_idle_work_that_fails_is_the_last_of_it(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()

    def failing() -> Iterator[None]:
        yield
        raise ZeroDivisionError("secret")

    engine.idle_work = failing  # type: ignore[method-assign]

    async def scenario(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(URL, json=body())).status_code for _ in range(3)]

    assert talk(scenario, engine) == [200] * 3
    assert [record.message for record in caplog.records] == ["work while idle failed: ZeroDivisionError"]


def test_queue_of_length_zero_takes_one_after_the_other() -> None:
    async def scenario(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(URL, json=body())).status_code for _ in range(50)]

    assert talk(scenario, max_queue=0) == [200] * 50


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_engine_and_queue(stream: bool) -> None:
    engine = FakeEngine()

    def leave(url: str, sentence: str, after_s: float) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + URL, json=body(sentence, stream=stream), timeout=after_s)

    with server_of(engine, max_queue=1) as (url, queue):
        thread = threading.Thread(target=leave, args=(url, "hold runs", 2.0))
        thread.start()
        until(lambda: bool(engine.seen))
        leave(url, "hold waits", 0.1)
        until(lambda: queue.num_jobs == 1)
        thread.join(10)
        until(lambda: queue.num_jobs == 0)
        assert engine.cancelled == ["hold runs"]
        assert len(engine.seen) == 1  # the other one was never begun
        assert httpx.post(url + URL, json=body()).status_code == 200


def test_client_that_leaves_in_the_middle_of_a_stream() -> None:
    engine = FakeEngine()
    with server_of(engine) as (url, queue):
        with httpx.stream("POST", url + URL, json=body("slow 0.5", stream=True)) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        until(lambda: queue.num_jobs == 0)
        assert engine.cancelled == ["slow 0.5"]


def test_health_answers_while_the_engine_works() -> None:
    engine = FakeEngine()
    with server_of(engine) as (url, queue):
        thread = threading.Thread(target=httpx.post, args=(url + URL,), kwargs={"json": body("hold")})
        thread.start()
        until(lambda: queue.num_jobs == 1)
        assert httpx.get(url + "/health").status_code == 200
        engine.release.set()
        thread.join(10)


def test_loading_and_draining_are_503() -> None:
    gate = threading.Event()
    engine = FakeEngine()

    def load() -> FakeEngine:
        assert gate.wait(10)
        return engine

    async def scenario() -> None:
        transport = httpx.ASGITransport(create_app(queue))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def codes() -> list[tuple[int, str | None]]:
                answers = [
                    await client.get("/health/live"),
                    await client.get("/health/ready"),
                    await client.post(URL, json=body()),
                ]
                return [(answer.status_code, answer.json().get("error", {}).get("code")) for answer in answers]

            assert await codes() == [(200, None), (503, "loading"), (503, "loading")]
            assert (await client.get("/v1/models")).json()["data"] == []
            gate.set()
            assert await asyncio.to_thread(queue.loaded.wait, 10)
            assert await codes() == [(200, None), (200, None), (200, None)]
            queue.drain()
            assert await codes() == [(200, None), (503, "draining"), (503, "draining")]
            queue.close(5)
            assert (await codes())[0] == (503, "failed")

    queue = EngineQueue(load, max_queue=1)
    queue.start()
    asyncio.run(scenario())


# --- keys and addresses ---


def test_every_route_but_health_needs_a_key() -> None:
    good = {"authorization": f"Bearer {KEY}"}

    async def scenario(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json", headers=good)).json()
        for path in [*document["paths"], "/openapi.json", "/nothing"]:
            method = "POST" if path == URL else "GET"
            status = (await client.request(method, path)).status_code
            assert (status == 401) != path.startswith("/health"), path
        for header in ("", KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"):
            refused = await client.post(URL, json=body(), headers={"authorization": header})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert KEY not in refused.text
        assert (await client.post(URL, json=body(), headers=good)).status_code == 200

    talk(scenario, keys=KeyRing(["another-key-of-16-chars", KEY]))


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# for the kitchen\n\n{KEY}\n")
    ring = KeyRing.from_file(path)
    assert ring.accepts(f"Bearer {KEY}".encode())
    assert not ring.accepts(b"Bearer # for the kitchen")
    for content, message in (("", "holds no key"), ("short\n", "line 1"), (f"{KEY} x\n", "line 1")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message) as caught:
            KeyRing.from_file(path)
        assert KEY not in caught.value.message
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing.from_file(tmp_path / "absent")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "box.example"])
def test_open_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="no API key"):
        serve(FakeEngine, ServeSection(host=host, port=0))
    check_exposure(host, KeyRing([KEY]))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, None)


def test_answers_do_not_wait_for_the_client_to_acknowledge() -> None:
    found: list[int] = []

    class Watch(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect() -> None:
        server = await asyncio.get_running_loop().create_server(Watch, sock=listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()

    with _listen("127.0.0.1", 0) as listener:
        asyncio.run(connect())
    assert found == [1]


def test_taken_port_is_named() -> None:
    with _listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            serve(FakeEngine, ServeSection(port=port))


def test_what_is_loaded_is_out_of_the_collectors_way(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: events.append("frozen"))

    def load() -> FakeEngine:
        events.append("loaded")
        return FakeEngine()

    _prepared(load, None, GenerateSection())()
    assert events == ["loaded", "frozen"]


def test_load_error_stops_the_server() -> None:
    def load() -> FakeEngine:
        raise BundleError("file 'model.onnx' is missing")

    with pytest.raises(BundleError, match=r"model\.onnx"):
        serve(load, ServeSection(port=0))
