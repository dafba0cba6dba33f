"""Answers of a running job: one JSON object, or server-sent events."""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgedsl.errors import GenerationError
from edgedsl.runtime.sequence import Completion
from edgedsl.serving.errors import ErrorResponse, from_exception
from edgedsl.serving.queue import EngineQueue, Job
from edgedsl.serving.schemas import AnswerMessage, ChatCompletion, Choice, Timings, Usage


class Answer:
    """Writes what one job yields in OpenAI's shapes."""

    def __init__(self, job: Job, *, model: str, fingerprint: str) -> None:
        self.job = job
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, completion: Completion) -> ChatCompletion:
        """The answer without streaming."""
        assert completion.finish_reason != "cancelled"
        choice = Choice(message=AnswerMessage(content=completion.text), finish_reason=completion.finish_reason)
        return ChatCompletion(
            **self._head, choices=[choice], usage=usage(completion), timings=self._timings(completion)
        )

    async def chunks(self, first: str | Completion, *, include_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events from the first event on; ends with ``[DONE]``, or with an event ``error``."""
        empty_usage = {"usage": None} if include_usage else {}
        yield self._chunk({"role": "assistant", "content": ""}, **empty_usage)
        event: str | Completion | BaseException | None = first
        sent = ""
        while isinstance(event, str):
            if event:
                sent += event
                yield self._chunk({"content": event}, **empty_usage)
            event = await self.job.events.get()
        if isinstance(event, Completion) and not event.text.startswith(sent):
            event = GenerationError("the streamed text differs from the program; discard it")
        if not isinstance(event, Completion):
            yield f"event: error\ndata: {failure(event).error}\n\n".encode()
            return
        if rest := event.text[len(sent) :]:  # bytes of an unfinished character were held back
            yield self._chunk({"content": rest}, **empty_usage)
        timings = self._timings(event).model_dump()
        yield self._chunk({}, finish_reason=event.finish_reason, timings=timings, **empty_usage)
        if include_usage:
            yield _event(
                self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage(event).model_dump()}
            )
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._head | {"object": "chat.completion.chunk", "choices": [choice]} | more)

    def _timings(self, completion: Completion) -> Timings:
        timings = completion.timings
        values = {
            "queue_ms": self.job.queue_ms,
            "ttft_ms": timings.ttft_ms,
            "tpot_ms": timings.tpot_ms,
            "e2el_ms": timings.e2el_ms,
        }
        return Timings(**{name: round(value, 3) if math.isfinite(value) else 0.0 for name, value in values.items()})


class EventStream(Response):
    """Server-sent events. Unlike Starlette's it sees a client leave while nothing is being sent."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], leaving: Leaving) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._leaving.stop()


class Leaving:
    """Cancels a job when its client leaves, or when nobody asks for its events any more."""

    def __init__(self, receive: Receive, queue: EngineQueue, job: Job) -> None:
        self._queue = queue
        self._job = job
        self._task = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._queue.cancel(self._job)

    def stop(self) -> None:
        """The answer is out, or given up."""
        self._task.cancel()
        self._queue.cancel(self._job)


def failure(event: BaseException | None) -> ErrorResponse:
    """The answer to a job that did not end well."""
    if event is None:
        return ErrorResponse(503, "draining", "the server stopped before the program was whole", hint="try again later")
    return from_exception(event)


def usage(completion: Completion) -> Usage:
    """Token counts of a completion."""
    prompt, answer = completion.prompt_tokens, completion.completion_tokens
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
