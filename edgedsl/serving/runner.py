"""What runs requests in the engine thread: the engine itself, one at a time, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion


class Generator(Protocol):
    """What the server needs of an engine."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        ...

    @property
    def execution_provider(self) -> str:
        """Where the model runs."""
        ...

    def generate(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Completion:
        """One generation at a time."""
        ...

    def idle_work(self) -> Iterator[None]:
        """Short steps of work for while nothing is asked."""
        ...


class Running(Protocol):
    """A request that was taken."""

    @property
    def outcome(self) -> Completion | BaseException | None:
        """None until its end."""
        ...


class Runner(Protocol):
    """What the queue needs; :class:`~edgedsl.runtime.streams.Streams` is one."""

    @property
    def num_free(self) -> int:
        """Requests that there is room for."""
        ...

    def start(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Running:
        """Take a request; what it raises is the request's own, which was then not taken."""
        ...

    def step(self) -> Sequence[Running]:
        """Go on with all that were taken; returns those that are at their end now."""
        ...


@dataclass(eq=False)
class _Ended:
    outcome: Completion


class OneAtATime:
    """Runs an engine's generations: one is at its end when it was taken."""

    num_free = 1

    def __init__(self, engine: Generator) -> None:
        self._engine = engine
        self._ended: list[_Ended] = []

    def start(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Running:
        """Generate."""
        ended = _Ended(self._engine.generate(sentence, params, on_text=on_text, is_cancelled=is_cancelled))
        self._ended.append(ended)
        return ended

    def step(self) -> Sequence[Running]:
        """Hand out what was generated."""
        ended, self._ended = self._ended, []
        return ended
