"""What every request passes before a route sees it: the API key, and the limit of the body."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgedsl.errors import ConfigError
from edgedsl.serving.errors import ErrorResponse
from edgedsl.serving.tenants import Tenant

MAX_BODY_BYTES = 1024 * 1024
SUBSETS = "edgedsl.subsets"  # of the scope of a request: its tenant's part of the catalogue
_PUBLIC = "/health"


class Gate:
    """ASGI middleware. With keys, everything but the health routes needs one, so a new route is closed too."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 413 or 415 here, or pass the request on with a counted body and its tenant's part."""
        refusal = self._refuse(scope) if scope["type"] == "http" else None
        if refusal:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _limited(receive), send)

    def _refuse(self, scope: Scope) -> ErrorResponse | None:
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        path = scope["path"]
        is_public = path == _PUBLIC or path.startswith(_PUBLIC + "/")
        if not is_public and not self._admit(scope, headers.get(b"authorization", b"")):
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

    def _admit(self, scope: Scope, authorization: bytes) -> bool:
        """Whether the request may pass; the key that lets it in is the one whose part of the catalogue holds for it."""
        tenant = self._keys.find(authorization) if self._keys else _ANYBODY
        if tenant:
            scope[SUBSETS] = tenant.subsets
        return tenant is not None


class KeyRing:
    """The tenants of a server, known by the digests of their API keys."""

    def __init__(self, keys: Iterable[str | Tenant]) -> None:
        self._tenants = [key if isinstance(key, Tenant) else Tenant.from_key(key) for key in keys]

    @classmethod
    def from_file(cls, path: Path) -> KeyRing:
        """Read a file with one key a line; blank lines and lines that begin with # are skipped.

        Behind a key, ``allow=NAME,NAME`` and ``deny=NAME`` give its requests a part of the catalogue.

        Raises:
            ConfigError: missing file, no key, a line in another form, or a key with two parts. No message quotes a key.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"API key file '{path}' cannot be read: {exc}", hint="one key a line") from exc
        tenants = [
            Tenant.from_line(line, f"API key file '{path}', line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith("#")
        ]
        if not tenants:
            raise ConfigError(f"API key file '{path}' holds no key", hint="openssl rand -hex 24 > FILE")
        first: dict[bytes, Tenant] = {}
        for tenant in tenants:
            if first.setdefault(tenant.digest, tenant).subsets != tenant.subsets:
                raise ConfigError(
                    f"{tenant.where}: its key stands above already, with another part of the catalogue",
                    hint="give each key one line",
                )
        return cls(tenants)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants)

    def find(self, authorization: bytes) -> Tenant | None:
        """Whose key the header carries; takes as long for a near miss as for a far one."""
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = [tenant for tenant in self._tenants if hmac.compare_digest(digest, tenant.digest)]
        return found[0] if found and scheme.lower() == b"bearer" else None

    def accepts(self, authorization: bytes) -> bool:
        """Whether the header carries one of the keys."""
        return self.find(authorization) is not None


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


_ANYBODY = Tenant(b"")  # where no key is asked for
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
