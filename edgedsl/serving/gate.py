"""What every request passes before a route sees it: the API key, and the limit of the body."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgedsl.errors import ConfigError
from edgedsl.serving.errors import ErrorResponse

MAX_BODY_BYTES = 1024 * 1024
_MIN_KEY_LENGTH = 16
_PUBLIC = "/health"


class Gate:
    """ASGI middleware. With keys, everything but the health routes needs one, so a new route is closed too."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 413 or 415 here, or pass the request on with a counted body."""
        refusal = self._refuse(scope) if scope["type"] == "http" else None
        if refusal:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _limited(receive), send)

    def _refuse(self, scope: Scope) -> ErrorResponse | None:
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        path = scope["path"]
        is_public = path == _PUBLIC or path.startswith(_PUBLIC + "/")
        if self._keys and not is_public and not self._keys.accepts(headers.get(b"authorization", b"")):
            hint = "send the header 'Authorization: Bearer KEY'"
            challenge = {"WWW-Authenticate": "Bearer"}
            return ErrorResponse(
                401, "invalid_api_key", "the API key is missing or wrong", hint=hint, headers=challenge
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            return ErrorResponse(413, "body_too_large", _TOO_LARGE)
        # A page of another site can make a browser post text/plain; JSON it cannot, since no CORS header allows it.
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            return ErrorResponse(
                415, "unsupported_media_type", "the body has to be sent as 'Content-Type: application/json'"
            )
        return None


class KeyRing:
    """The digests of the API keys; the keys themselves are not kept."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def from_file(cls, path: Path) -> KeyRing:
        """Read a file with one key a line; blank lines and lines that begin with # are skipped.

        Raises:
            ConfigError: missing file, no key, or a key that is too short or not plain ASCII without blanks.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"API key file '{path}' cannot be read: {exc}", hint="one key a line") from exc
        keys = {
            number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")
        }
        for number, key in keys.items():
            if len(key) < _MIN_KEY_LENGTH or not key.isascii() or " " in key:
                expected = f"expected at least {_MIN_KEY_LENGTH} ASCII characters without blanks"
                raise ConfigError(
                    f"API key file '{path}', line {number}: {expected}", hint="openssl rand -hex 24 > FILE"
                )
        if not keys:
            raise ConfigError(f"API key file '{path}' holds no key", hint="openssl rand -hex 24 > FILE")
        return cls(list(keys.values()))

    def accepts(self, authorization: bytes) -> bool:
        """Whether the header carries one of the keys; takes as long for a near miss as for a far one."""
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        hits = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(hits)


def check_exposure(host: str, keys: KeyRing | None) -> None:
    """Refuse to listen off the loopback address without a key.

    Raises:
        ConfigError: other machines could reach an open server.
    """
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback and keys is None:
        raise ConfigError(
            f"host is '{host}', which other machines can reach, and there is no API key",
            hint="give --api-key-file FILE (openssl rand -hex 24 > FILE), or listen on 127.0.0.1",
        )


_HEADERS = frozenset({b"authorization", b"content-length", b"content-type"})
_TOO_LARGE = f"the body has more than {MAX_BODY_BYTES} bytes"


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return limited
