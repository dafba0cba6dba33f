"""From exceptions to OpenAI-shaped JSON errors. No traceback, no path and no prompt gets into an answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edgedsl.errors import (
    DisagreementError,
    EdgeDSLError,
    EngineLimitError,
    GenerationError,
    LogitsError,
    MatcherError,
    NoTokenError,
    PromptTooLong,
    QueueFull,
    RequestError,
)
from edgedsl.serving.schemas import UNSUPPORTED, ErrorBody, ErrorDetail

logger = logging.getLogger("edgedsl.serving")

RETRY_AFTER = {"Retry-After": "1"}
# The first that fits counts, so a class comes before its base.
_CODES = {
    PromptTooLong: "context_length_exceeded",
    QueueFull: "queue_full",
    LogitsError: "logits_not_finite",
    EngineLimitError: "grammar_engine_limit",
    MatcherError: "grammar_engine_failed",
    NoTokenError: "no_legal_token",
    DisagreementError: "engines_disagree",
    GenerationError: "generation_failed",
}
_HTTP_CODES = {
    400: "invalid_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


class ErrorResponse(Response):
    """An error answer."""

    media_type = "application/json"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = "invalid_request_error" if status < 500 else "service_unavailable" if status == 503 else "server_error"
        detail = ErrorDetail(message=message[:500], type=kind, param=param, code=code, hint=hint or None)
        # ASCII escapes: the text may hold half of a surrogate pair, which UTF-8 cannot.
        self.error = json.dumps(ErrorBody(error=detail).model_dump(exclude={"error": {"hint"}} if not hint else None))
        super().__init__(self.error, status, {**(RETRY_AFTER if status == 503 else {}), **(headers or {})})


def from_exception(exc: BaseException) -> ErrorResponse:
    """The answer to an exception of ours. Anything else is a bug: the log gets its traceback, the client only a 500."""
    if isinstance(exc, RequestError | GenerationError):
        if isinstance(exc, DisagreementError):
            logger.error("the two grammar engines disagreed, %d times since the start", exc.count)
        code = next((code for kind, code in _CODES.items() if isinstance(exc, kind)), "invalid_value")
        return ErrorResponse(exc.status_code, code, exc.message, hint=exc.hint)
    if isinstance(exc, EdgeDSLError):
        logger.error("%s: %s", type(exc).__name__, exc.message)
    else:
        logger.error("a bug of the server", exc_info=exc)
    return ErrorResponse(500, "internal_error", "the server failed; its log says more")


def from_invalid_body(exc: RequestValidationError) -> ErrorResponse:
    """The first thing that is wrong with a body."""
    error = next(iter(exc.errors()))
    location = [item for item in error["loc"][1:] if isinstance(item, str | int)]
    param = _dotted(location)
    kind = error["type"]
    if kind == "json_invalid" or (not location and kind.startswith(("model_", "missing"))):
        return ErrorResponse(400, "invalid_json", "the body is not a JSON object", hint="see /openapi.json")
    if kind == "extra_forbidden":
        known = location[-1] in UNSUPPORTED
        reason = "is not supported by a bundle; leave it out" if known else "is not a known field"
        return ErrorResponse(400, "unsupported" if known else "unknown_field", f"'{param}' {reason}", param=param)
    if kind == "missing":
        return ErrorResponse(400, "missing_field", f"'{param}' is missing", param=param)
    code = "unsupported" if kind == "unsupported" else "invalid_value"
    return ErrorResponse(400, code, f"'{param}': {error['msg']}" if param else error["msg"], param=param or None)


def from_http(exc: HTTPException) -> ErrorResponse:
    """Errors of the router: unknown path, method, a body over the limit."""
    status = exc.status_code
    return ErrorResponse(status, _HTTP_CODES.get(status, "bad_request"), str(exc.detail), headers=exc.headers)


async def handle(request: Request, exc: Any) -> Response:
    """Exception handler for every kind of exception."""
    if isinstance(exc, RequestValidationError):
        return from_invalid_body(exc)
    return from_http(exc) if isinstance(exc, HTTPException) else from_exception(exc)


def _dotted(location: list[str | int]) -> str:
    text = "".join(f"[{item}]" if isinstance(item, int) else f".{item}" for item in location)
    return text.lstrip(".")[:100]
