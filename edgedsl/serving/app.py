"""The routes. OpenAI's chat completions for one bundle, its model list, and health."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from edgedsl._version import __version__
from edgedsl.config import GenerateSection
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.serving.errors import ErrorResponse, handle
from edgedsl.serving.gate import SUBSETS, Gate, KeyRing
from edgedsl.serving.queue import EngineQueue
from edgedsl.serving.schemas import ChatCompletion, ChatRequest, ErrorBody, ModelCard, ModelList
from edgedsl.serving.stream import Answer, EventStream, Leaving, failure

# FastAPI can send traces to a collector that an environment variable names; nothing leaves the box.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in ("4XX", "5XX")}


def create_app(queue: EngineQueue, *, keys: KeyRing | None = None, defaults: GenerateSection | None = None) -> FastAPI:
    """The ASGI application in front of a queue; it neither starts nor stops the queue."""
    app = FastAPI(
        title="edgedsl",
        version=__version__,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.add_middleware(Gate, keys=keys)
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)
    _add_health(app, queue, keys)
    _add_models(app, queue)
    _add_chat(app, queue, SamplingParams.from_section(defaults or GenerateSection()))
    return app


def _add_health(app: FastAPI, queue: EngineQueue, keys: KeyRing | None) -> None:
    @app.get("/health/live", tags=["health"], responses=_ERRORS)
    async def live() -> Response:
        """200 while the process can work; a supervisor restarts it otherwise."""
        if queue.state == "failed" or not queue.is_alive():
            return ErrorResponse(503, "failed", "the engine stopped")
        return JSONResponse({"status": "alive"})

    @app.get("/health", tags=["health"], responses=_ERRORS)
    @app.get("/health/ready", tags=["health"], responses=_ERRORS)
    async def ready(request: Request) -> Response:
        """200 when requests are taken; 503 while the server loads or drains.

        With an API key the answer also says how often the two grammar engines disagreed about a program.
        """
        if queue.state != "ready" or not queue.is_alive():
            return ErrorResponse(503, queue.state, f"the server is {queue.state}")
        found = getattr(queue.engine, "disagreements", None)
        is_known = keys is None or keys.accepts(request.headers.get("authorization", "").encode("latin-1"))
        return JSONResponse({"status": "ready"} | ({"disagreements": found.count} if found and is_known else {}))


def _add_models(app: FastAPI, queue: EngineQueue) -> None:
    def card() -> ModelCard | None:
        return ModelCard(id=queue.engine.name, created=queue.created_s) if queue.engine else None

    @app.get("/v1/models", tags=["openai"], responses=_ERRORS)
    async def models() -> ModelList:
        """The one bundle, once it is loaded; ``created`` is when the server started."""
        found = card()
        return ModelList(data=[found] if found else [])

    @app.get("/v1/models/{model:path}", tags=["openai"], responses=_ERRORS, response_model=ModelCard)
    async def model_card(model: str) -> ModelCard | Response:
        """The bundle by its name."""
        found = card()
        return found if found and found.id == model else _model_not_found(model, found.id if found else None)


def _add_chat(app: FastAPI, queue: EngineQueue, defaults: SamplingParams) -> None:
    @app.post("/v1/chat/completions", tags=["openai"], responses=_ERRORS, response_model=ChatCompletion)
    async def chat(request: Request, body: Annotated[ChatRequest, Body()]) -> Any:
        """One sentence in, one program out; with ``stream``, server-sent events of chat.completion.chunk objects."""
        engine = queue.engine
        if engine is None or queue.state != "ready":
            return ErrorResponse(503, queue.state, f"the server is {queue.state}", hint="try again later")
        if body.model != engine.name:
            return _model_not_found(body.model, engine.name)
        params = body.sampling_params(replace(defaults, subsets=defaults.subsets + request.scope[SUBSETS]))
        job = queue.submit(body.sentence, params, is_streamed=bool(body.stream))
        answer = Answer(job, model=engine.name, fingerprint=queue.fingerprint)
        with contextlib.ExitStack() as stack:
            leaving = Leaving(request.receive, queue, job)
            stack.callback(leaving.stop)
            # The status line waits for the first event: a prompt that is too long is a 413 in a stream, too.
            event = await job.events.get()
            if isinstance(event, str) or (body.stream and isinstance(event, Completion)):
                include_usage = bool(body.stream_options and body.stream_options.include_usage)
                stack.pop_all()  # the stream goes on watching
                return EventStream(answer.chunks(event, include_usage=include_usage), leaving)
            return answer.whole(event) if isinstance(event, Completion) else failure(event)


def _model_not_found(model: str, served: str | None) -> ErrorResponse:
    hint = f"this server serves '{served}'" if served else "the server is still loading"
    return ErrorResponse(
        404, "model_not_found", f"the model '{model[:100]}' is not served here", param="model", hint=hint
    )
