"""Tenants of a server: an API key each, and perhaps a part of the catalogue that its requests cannot leave."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from edgedsl.errors import ConfigError, RequestError
from edgedsl.grammar import CompiledGrammar
from edgedsl.grammar.subset import Subset
from edgedsl.serving.runner import Generator

_MIN_KEY_LENGTH = 16
_FIELDS = ("allow", "deny")


@dataclass(frozen=True)
class Tenant:
    """Who holds one API key.

    Attributes:
        digest: SHA-256 of the key; the key itself is not kept.
        subsets: the tenant's part of what the server leaves of the catalogue; none for all of it.
        where: file and line, for errors at the start.
    """

    digest: bytes
    subsets: tuple[Subset, ...] = ()
    where: str = ""

    @classmethod
    def from_key(cls, key: str, subsets: tuple[Subset, ...] = (), where: str = "") -> Tenant:
        """The tenant that sends this key."""
        return cls(hashlib.sha256(key.encode()).digest(), subsets, where)

    @classmethod
    def from_line(cls, line: str, where: str) -> Tenant:
        """Read ``KEY``, ``KEY allow=a,b``, ``KEY deny=c`` or both; names with blanks in quotes, as in a shell.

        Args:
            line: of a key file, not blank.
            where: file and line.

        Raises:
            ConfigError: not in that form. No message quotes the line: a key may stand anywhere in a wrong one.
        """
        key, *rest = line.split(maxsplit=1)
        if len(key) < _MIN_KEY_LENGTH or not key.isascii() or key.startswith(tuple(f"{field}=" for field in _FIELDS)):
            expected = f"expected a key of at least {_MIN_KEY_LENGTH} ASCII characters without blanks"
            raise ConfigError(f"{where}: {expected}", hint="openssl rand -hex 24 > FILE")
        try:
            named = _named("".join(rest))
        except ValueError as exc:
            raise ConfigError(
                f"{where}: behind the key there is something other than one allow= or deny= with names",
                hint='write KEY allow=NAME,NAME deny=NAME, names with blanks in quotes: allow="NAME,NAME"',
            ) from exc
        return cls.from_key(key, Subset.from_lists(named.get("allow"), named.get("deny", ())), where)


def prepare(engine: Generator, tenants: Iterable[Tenant], server: tuple[Subset, ...]) -> None:
    """Compile the parts of the catalogue that the server and its tenants have, so that no request has to.

    Args:
        engine: just loaded; one without a grammar, as the tests have, is left alone.
        tenants: in the order of the key file. Of more parts than the engine keeps, the last ones stay compiled.
        server: what ``[generate]`` says.

    Raises:
        ConfigError: a name that is not in the catalogue, or no program is left; file and line begin the message.
    """
    compiled: CompiledGrammar | None = getattr(engine, "compiled", None)
    if compiled is None:
        return
    for where, subsets in (("[generate] allow, deny", ()), *((tenant.where, tenant.subsets) for tenant in tenants)):
        try:
            if server or subsets:
                compiled.restrict(*server, *subsets)
        except RequestError as exc:
            raise ConfigError(f"{where}: {exc.message}", hint=exc.hint) from exc


def _named(text: str) -> dict[str, tuple[str, ...]]:
    """The names behind ``allow=`` and ``deny=``; an empty list is an error, since it would allow everything.

    Raises:
        ValueError: anything else.
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in shlex.split(text):
        field, _, listed = word.partition("=")
        names = tuple(name.strip() for name in listed.split(","))
        if field not in _FIELDS or field in found or not all(names):
            raise ValueError("malformed")
        found[field] = names
    return found
