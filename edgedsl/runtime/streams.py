"""Several requests at a time on one engine: each with drafts in calls of its own, or all together in one.

A call for one request with drafts yields several tokens; a call for many requests yields one token of each and reads
the weights once. Which is quicker depends on the machine, on how many requests there are and on how well drafts do; it
is decided before each step, from the measured costs of calls and from what drafts brought so far. A graph of edgedsl's
own operators takes the drafts of all in one call, and there is nothing to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgedsl.errors import RequestError
from edgedsl.grammar import CompiledGrammar
from edgedsl.runtime.call_costs import CallCosts
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.lookahead import Lookahead
from edgedsl.runtime.rows import Row
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion, Sequence
from edgedsl.runtime.slots import Slots


class Stream:
    """One request on its way.

    Attributes:
        outcome: set at its end: the completion, or what went wrong.
    """

    def __init__(
        self,
        sequence: Sequence,
        ahead: Lookahead,
        slot: int,
        on_text: Callable[[str], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self.sequence = sequence
        self.ahead = sequence.lookahead = ahead
        self.slot = slot
        self.row: Row | None = None
        self.on_text = on_text
        self.is_cancelled = is_cancelled
        self.outcome: Completion | BaseException | None = None


class Streams:
    """Requests that share an engine's session; for one thread.

    Args:
        engine: loaded with some slots; it must not generate by itself meanwhile.
        together: True makes every step one call for all requests, also where there is one only; False gives each
            request calls of its own. None chooses before each step.

    Raises:
        RequestError: a bundle whose cache is not one buffer for each layer.
    """

    def __init__(self, engine: Engine, *, together: bool | None = None) -> None:
        if not engine.decoder.can_truncate:
            raise RequestError(
                "this bundle's graph takes one request at a time",
                hint="export it with '--graph fused', or serve one at a time with '--streams 1'",
            )
        self.engine = engine
        self._together = together
        self._slots = Slots(engine.decoder)
        self._takes_drafts = engine.decoder.has_rows
        self._free = list(reversed(range(engine.decoder.num_slots)))  # the lowest is taken first: steps stay small
        self._active: list[Stream] = []
        self._ended: list[Stream] = []

    @property
    def num_free(self) -> int:
        """Requests that there is room for."""
        return len(self._free)

    def start(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        compiled: CompiledGrammar | None = None,
    ) -> Stream:
        """Take a request and run the model on its prompt; arguments as for :meth:`Engine.generate`.

        Raises:
            RequestError: no place is free, or see :meth:`Engine.generate`; nothing was taken.
        """
        if not self._free:
            raise RequestError(
                f"all {len(self._active)} places are taken", hint="call step() until one is free, or load more slots"
            )
        sequence = self.engine.sequence(sentence, params, compiled or self.engine.compiled)
        slot = self._free[-1]
        ahead = self.engine.lookahead(sequence, self._slots.decoders[slot])
        stream = Stream(sequence, ahead, slot, on_text, is_cancelled)
        slots = [*(other.slot for other in self._active), slot]
        # Less than alone, so fewer drafts pay; later calls with drafts are made where it is alone.
        costs = self.engine.costs
        has_no_drafts = not self._takes_drafts and self._is_better_together(slots)
        token_ms = self._step_ms(slots, costs) if costs and has_no_drafts else 0.0
        try:
            stream.row = ahead.start(sequence.prompt_token_ids, sequence.matcher, sequence.budget, token_ms)
        except BaseException:
            self._slots.decoders[slot].reset()
            raise
        self._active.append(stream)
        self._free.pop()
        with self._keeping_its_failure(stream):
            self._advance(stream)  # now, not after the prompts of those who came with it
        return stream

    def step(self) -> list[Stream]:
        """Take tokens as far as they are known, then run the model for every request, unless one is at its end.

        Returns:
            Requests that have an outcome now; their places are free.
        """
        for stream in list(self._active):
            with self._keeping_its_failure(stream):
                self._advance(stream)
        if not self._ended:  # else their places are worth more than a call for the others
            self._call(list(self._active))
        ended, self._ended = self._ended, []
        return ended

    def _call(self, waiting: list[Stream]) -> None:
        if waiting and self._is_better_together([stream.slot for stream in waiting]):
            self._call_together(waiting)
            return
        for stream in waiting:
            with self._keeping_its_failure(stream):
                self._call_alone(stream)

    def _advance(self, stream: Stream) -> None:
        """Take tokens until the model has to be asked, or the program is at its end."""
        sequence = stream.sequence
        while stream.row is not None:
            piece = self.engine.advance(sequence, stream.row)
            if piece and stream.on_text:
                stream.on_text(piece)
            if not sequence.finish_reason and stream.is_cancelled and stream.is_cancelled():
                sequence.finish_reason = "cancelled"
            if sequence.finish_reason:
                if (rest := sequence.text_stream.finish()) and stream.on_text:
                    stream.on_text(rest)
                stream.outcome = self.engine.finish(sequence)
                return
            stream.row = stream.ahead.known(sequence.token_ids)

    def _is_better_together(self, slots: list[int]) -> bool:
        """Whether a token of a step costs less than one of calls with drafts; never where calls have one shape only."""
        if self._together is not None:
            return self._together
        if self._takes_drafts:
            return len(slots) > 1
        costs = self.engine.costs
        if not costs or len(slots) < 2:
            return False
        return self._step_ms(slots, costs) < self.engine.token_cost.estimate(costs)

    def _step_ms(self, slots: list[int], costs: CallCosts) -> float:
        """What a token costs in calls of one token of each."""
        return costs.of(self._slots.width(slots)) / len(slots)

    def _call_alone(self, stream: Stream) -> None:
        sequence = stream.sequence
        stream.row = stream.ahead.call(sequence.token_ids, sequence.matcher, sequence.tokens_left)

    def _call_together(self, streams: list[Stream]) -> None:
        tokens = self._tokens_of(streams)
        streams = [stream for stream in streams if stream.slot in tokens]  # without one whose draft failed
        if not streams:
            return
        try:
            if self._takes_drafts:
                rows = self._slots.call(tokens)
            else:
                stepped = self._slots.step({slot: some[0] for slot, some in tokens.items()})
                rows = {slot: [row] for slot, row in stepped.items()}
        except BaseException as exc:
            for stream in streams:
                stream.ahead.drop()
                self._end(stream, exc)
            if isinstance(exc, KeyboardInterrupt):
                raise
            return
        total = sum(map(len, tokens.values()))
        row_ms = self.engine.costs.of(total) / total if self.engine.costs and self._takes_drafts else 0.0
        for stream in streams:
            found = rows[stream.slot]
            stream.row = stream.ahead.take(found, row_ms * len(found))

    def _tokens_of(self, streams: list[Stream]) -> dict[int, list[int]]:
        """The tokens of a call for all, by slot: the last one of each, and drafts where a call takes them."""
        if not (self._takes_drafts and self.engine.costs):
            return {stream.slot: stream.sequence.token_ids[-1:] for stream in streams}
        worth, num_rows = self.engine.token_cost.estimate(self.engine.costs), len(streams)
        found: dict[int, list[int]] = {}
        for stream in streams:
            one = stream.sequence
            with self._keeping_its_failure(stream):
                tokens = stream.ahead.tokens_for(one.token_ids, one.matcher, one.tokens_left, num_rows - 1, worth)
                found[stream.slot] = tokens
                num_rows += len(tokens) - 1
        return found

    @contextmanager
    def _keeping_its_failure(self, stream: Stream) -> Iterator[None]:
        """A failure of one request is its own."""
        try:
            yield
        except BaseException as exc:  # a panic of a Rust library is no Exception
            stream.outcome = exc
            if isinstance(exc, KeyboardInterrupt):
                raise
        finally:
            if stream.outcome is not None:
                self._end(stream, stream.outcome)

    def _end(self, stream: Stream, outcome: Completion | BaseException) -> None:
        stream.outcome = outcome
        self._active.remove(stream)
        self._ended.append(stream)
        self._slots.decoders[stream.slot].reset()
        self._free.append(stream.slot)
        self._free.sort(reverse=True)
