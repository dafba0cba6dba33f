"""Ways to talk to the server in the tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fake_engine import FakeEngine

from edgedsl.serving.app import create_app
from edgedsl.serving.gate import KeyRing
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.run import _listen, _settings
from edgedsl.serving.runner import Generator, OneAtATime, Runner

KEY = "0123456789abcdef"
URL = "/v1/chat/completions"


def body(sentence: str = "turn on the light", **more: Any) -> dict[str, Any]:
    return {"model": "fake-model", "messages": [{"role": "user", "content": sentence}], **more}


@contextmanager
def queue_of(
    engine: Generator, max_queue: int = 4, open_runner: Callable[[Any], Runner] = OneAtATime
) -> Iterator[EngineQueue]:
    queue = EngineQueue(lambda: engine, max_queue=max_queue, open_runner=open_runner)
    queue.start()
    assert queue.loaded.wait(5)
    try:
        yield queue
    finally:
        assert queue.close(5)


def talk(
    scenario: Callable[[httpx.AsyncClient], Awaitable[Any]],
    engine: FakeEngine | None = None,
    *,
    keys: KeyRing | None = None,
    max_queue: int = 4,
) -> Any:
    """Run a scenario with a client that calls the app in this process."""

    async def run(queue: EngineQueue) -> Any:
        transport = httpx.ASGITransport(create_app(queue, keys=keys), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await scenario(client)

    with queue_of(engine or FakeEngine(), max_queue) as queue:
        return asyncio.run(run(queue))


def post(json_body: Any = None, engine: FakeEngine | None = None, **request: Any) -> httpx.Response:
    if json_body is not None:
        request["json"] = json_body
    return talk(lambda client: client.post(URL, **request), engine)  # type: ignore[no-any-return]


@contextmanager
def server_of(
    engine: Generator, *, max_queue: int = 4, open_runner: Callable[[Any], Runner] = OneAtATime, **options: Any
) -> Iterator[tuple[str, EngineQueue]]:
    """A real server on a loopback port."""
    with queue_of(engine, max_queue, open_runner) as queue, _listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(_settings(create_app(queue, **options)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", queue
        finally:
            if isinstance(engine, FakeEngine):
                engine.release.set()
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within 10 s"
        time.sleep(0.005)
