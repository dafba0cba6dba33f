"""Requests of several streams on one engine: each stream asks as soon as it has its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edgedsl.errors import EdgeDSLError
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.runtime.streams import Stream, Streams

Outcome = Completion | EdgeDSLError
Request = tuple[str, SamplingParams]


class Watch(Protocol):
    """Is told of each request, by its index, as soon as it happens: the clock of a worker, for one."""

    def start(self, index: int) -> None:
        """There is a place for it; nothing was done for it yet."""

    def token(self, index: int) -> None:
        """One more token has a text."""

    def end(self, index: int) -> None:
        """Who asked has the checked answer."""


def answer_together(streams: Streams, requests: Sequence[Request], num_streams: int, watch: Watch) -> list[Outcome]:
    """Answers to all requests, ``num_streams`` of them on their way at a time; an error is that of one request.

    An answer counts as whole when :meth:`Streams.step` hands it out: until then nobody has it, and its place is taken.
    """
    waiting, running = list(enumerate(requests))[::-1], dict[Stream, int]()
    found: dict[int, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < num_streams:
            index, (sentence, params) = waiting.pop()
            watch.start(index)
            try:
                running[streams.start(sentence, params, on_text=teller(watch, index))] = index
            except EdgeDSLError as exc:
                found[index] = exc
                watch.end(index)
        for stream in streams.step():
            index = running.pop(stream)
            watch.end(index)
            found[index] = outcome_of(stream)
    return [found[index] for index in range(len(requests))]


def teller(watch: Watch, index: int) -> Callable[[str], None]:
    """What gets the pieces of a text and tells that there is one."""
    return lambda _: watch.token(index)


def outcome_of(stream: Stream) -> Outcome:
    """Of one that ended; what is no error of ours is raised."""
    if isinstance(stream.outcome, Outcome):
        return stream.outcome
    assert stream.outcome is not None
    raise stream.outcome
