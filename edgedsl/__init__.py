"""edgedsl: natural language to programs of your own small language, on your own box."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedsl._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from edgedsl.runtime.engine import Engine

__all__ = ["__version__", "load"]


def load(bundle: str | Path, *, execution_provider: str = "cpu", num_threads: int = 0, exact: bool = False) -> Engine:
    """Open a bundle for generation.

    ``load("bundle")("sentence")`` returns a :class:`~edgedsl.runtime.sequence.Completion`; ``.stream("sentence")``
    yields text. ``.warm_up()`` makes the first program as quick as later ones: for a service, before its first request.

    Args:
        bundle: folder written by ``edgedsl export``.
        execution_provider: ``cpu`` or ``cuda``; the one asked for runs, or an error is raised.
        num_threads: threads of one model call; 0 takes every core this process may use.
        exact: decode token by token, without drafts.

    Raises:
        BundleError: the folder is not a complete, unchanged bundle.
        ProviderError: the execution provider is not usable on this machine.
    """
    from edgedsl.runtime.engine import Engine

    return Engine.from_bundle(bundle, execution_provider=execution_provider, num_threads=num_threads, exact=exact)
