"""Start and stop: bind, load, announce, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from edgedsl._version import __version__
from edgedsl.config import GenerateSection, ServeSection
from edgedsl.errors import ConfigError
from edgedsl.runtime import huge_pages
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.serving import heap
from edgedsl.serving.app import create_app
from edgedsl.serving.gate import KeyRing, check_exposure
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.runner import Generator, OneAtATime, Runner
from edgedsl.serving.tenants import prepare

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    load: Callable[[], Generator],
    section: ServeSection,
    *,
    key_file: Path | None = None,
    defaults: GenerateSection | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests already taken then get ``drain_s`` seconds. A second signal ends at once.

    Args:
        load: makes the engine; called in the engine thread, while the health routes answer already.
        section: host, port, max_queue, streams and drain_s. From two streams on the engine has as many slots.
        key_file: API keys, one a line, each perhaps with a part of the catalogue.
        defaults: sampling of requests that do not say, and the server's part of the catalogue.

    Raises:
        ConfigError: a bad key file, a part of the catalogue with a name that it does not have, an address that cannot
            be bound, or one that others can reach without a key.
        RequestError: a bundle that takes one request at a time, and several streams.
        EdgeDSLError: what ``load`` raised.
    """
    heap.use_one_arena()
    keys = KeyRing.from_file(key_file) if key_file else None
    check_exposure(section.host, keys)
    prepared = _prepared(load, keys, defaults or GenerateSection())
    open_runner = OneAtATime if section.streams == 1 else _open_streams
    queue = EngineQueue(prepared, max_queue=section.max_queue, open_runner=open_runner)
    with _listen(section.host, section.port) as listener:
        server = _Server(_settings(create_app(queue, keys=keys, defaults=defaults)))
        asyncio.run(_Service(server, queue, section).run(listener))
    if queue.error:
        raise queue.error
    if queue.is_alive():
        # The thread is inside a model call; a normal exit would take the session from under it.
        sys.stderr.flush()
        os._exit(0)


def _prepared(
    load: Callable[[], Generator], keys: KeyRing | None, defaults: GenerateSection
) -> Callable[[], Generator]:
    """Load, and compile every part of the catalogue that is known by now."""
    server = SamplingParams.from_section(defaults).subsets

    def prepared() -> Generator:
        engine = load()
        prepare(engine, keys or (), server)
        gc.freeze()  # all of it stays: the collector need not look through it during a request
        heap.trim()
        huge_pages.collapse()
        return engine

    return prepared


def _open_streams(engine: Any) -> Runner:
    """Called in the engine thread.

    Raises:
        RequestError: the bundle takes one request at a time.
    """
    from edgedsl.runtime.streams import Streams  # imports ONNX Runtime

    return Streams(engine)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :class:`_Service`: uvicorn would close before the drain, and die of the signal after it."""
        yield


class _Service:
    def __init__(self, server: _Server, queue: EngineQueue, section: ServeSection) -> None:
        self._server = server
        self._queue = queue
        self._section = section
        self._stop = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        with self._signals():
            serving = asyncio.create_task(self._server.serve(sockets=[listener]))
            self._queue.start()
            await self._until(self._queue.loaded.is_set, serving)
            if self._queue.engine and not self._stop.is_set():
                _say(_ready_line(self._queue.engine, listener))
                await self._until(self._stop.is_set, serving)
            await self._drain()
            self._server.should_exit = True
            await serving

    async def _until(self, is_done: Callable[[], bool], serving: asyncio.Task[None]) -> None:
        while not (is_done() or self._stop.is_set() or serving.done()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.05)

    async def _drain(self) -> None:
        """The listener stays open meanwhile, so that a probe sees 503 and not a refused connection."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._section.drain_s
        self._queue.drain()
        if self._queue.num_jobs:
            _say(f"stopping: {self._queue.num_jobs} requests get {self._section.drain_s:g} s to finish")
        while self._queue.num_jobs and loop.time() < deadline:
            await asyncio.sleep(0.02)
        if self._queue.num_jobs:
            _say(f"stopping: {self._queue.num_jobs} requests were cut off")
        await asyncio.to_thread(self._queue.close, 1.0)
        # Answers are still on their way to clients; one that does not read cannot hold the process.
        self._server.config.timeout_graceful_shutdown = max(1, math.ceil(deadline - loop.time()))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            _say("stopped at once")
            sys.stderr.flush()
            os._exit(128 + number)
        self._stop.set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; else an answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(128)
    except (OSError, OverflowError) as exc:
        listener.close()
        reason = getattr(exc, "strerror", None) or str(exc)
        hint = "choose another --host or --port; port 0 takes a free one"
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}", hint=hint) from exc
    return listener


def _settings(app: Callable[..., object]) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off", ws="none"
    )  # fmt: skip


def _ready_line(engine: Generator, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    where = f"http://{address}/v1 (execution provider: {engine.execution_provider})"
    return f"edgedsl {__version__} serves '{engine.name}' on {where}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
