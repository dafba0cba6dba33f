"""One model, one loop: sentence in, program out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgedsl.bundle.manifest import Manifest
from edgedsl.errors import GenerationError, LogitsError, PromptTooLong, RequestError
from edgedsl.grammar import CompiledGrammar, Grammar, Spans
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.call_costs import CallCosts, TokenCost
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.disagreements import Disagreements
from edgedsl.runtime.drafts import DraftSources
from edgedsl.runtime.head import Head, open_head
from edgedsl.runtime.lm_head import HeadRow
from edgedsl.runtime.loading import open_parts
from edgedsl.runtime.lookahead import Lookahead
from edgedsl.runtime.ngrams import FILE_NAME as NGRAMS_FILE
from edgedsl.runtime.rows import DeviceRow, Row, best_token
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion, Sequence
from edgedsl.runtime.warm_up import AT_START, IDLE_TOKENS, WHILE_IDLE, walk, warm_up
from edgedsl.tokenizer import Tokenizer

_WARM_UP_TOKENS = 64
_log = logging.getLogger(__name__)
# Tokenising is linear, but a sentence of many megabytes would still hold the engine for seconds.
MAX_CHARS_PER_TOKEN = 32


class Engine:
    """A model that is ready to generate. One generation at a time; the server serialises its requests."""

    def __init__(
        self,
        *,
        name: str,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        grammar: Grammar | CompiledGrammar,
        decoder: Decoder,
        disagreements: Disagreements | None = None,
        drafts: DraftSources | None = None,
        costs: CallCosts | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.template = template
        self.decoder = decoder
        self.execution_provider = decoder.execution_provider
        if isinstance(grammar, Grammar):
            grammar = grammar.compile(tokenizer, tokenizer.end_token_ids(template))
        self.compiled = grammar
        _ = grammar.planner  # if not there yet: the first request pays nothing
        self.grammar = grammar.grammar
        self.disagreements = disagreements or Disagreements()
        self.drafts = drafts
        self.costs = costs
        self.token_cost = TokenCost()
        self.is_padded = drafts is not None
        self.head: Head | None = None
        self.manifest: Manifest | None = None
        self.load_ms = 0.0
        self.dev: list[tuple[str, str]] = []  # sentences and their programs, to warm up with
        self._running: Sequence | None = None

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        execution_provider: str = "cpu",
        num_threads: int = 0,
        exact: bool = False,
        cuda_graphs: bool = True,
        num_slots: int = 1,
    ) -> Engine:
        """Verify and open a bundle folder.

        Args:
            path: the folder.
            execution_provider: cpu or cuda.
            num_threads: of a model call; 0 leaves them, as spinning always is, to a calibration at the first load.
            exact: no drafts: decode token by token, in calls of the same shape. A graph of edgedsl's own operators is
                exact as it is, and keeps its drafts.
            cuda_graphs: on cuda, calls of a few tokens are replayed as CUDA graphs.
            num_slots: sequences that have room beside each other, for :class:`~edgedsl.runtime.streams.Streams`.

        Raises:
            BundleError: not a complete, unchanged bundle; nothing was loaded.
            ProviderError: the execution provider cannot run here.
        """
        started = time.perf_counter()
        parts = open_parts(Path(path), execution_provider, num_threads, cuda_graphs, num_slots)
        bundle = parts.bundle
        engine = cls(
            name=bundle.manifest.name,
            tokenizer=parts.tokenizer,
            template=parts.template,
            grammar=parts.compiled,
            decoder=parts.decoder,
        )
        engine.manifest = bundle.manifest
        engine.head = open_head(bundle, parts.tokenizer.vocab_size)
        exact = exact and not engine.decoder.has_rows
        if (bundle.path / NGRAMS_FILE).exists() and engine.decoder.can_truncate:
            engine.is_padded = not engine.decoder.has_rows
            if not exact:
                end_token_ids = engine.compiled.end_token_ids
                engine.drafts = DraftSources.from_bundle(bundle.path, engine.tokenizer, end_token_ids)
        if not exact:
            engine.costs = parts.costs
        engine.dev = parts.dev
        engine.load_ms = 1000 * (time.perf_counter() - started)
        return engine

    def __call__(self, sentence: str, **sampling: Any) -> Completion:
        """Generate one program; keywords are those of :class:`SamplingParams`."""
        return self.generate(sentence, SamplingParams(**sampling))

    def stream(self, sentence: str, *, compiled: CompiledGrammar | None = None, **sampling: Any) -> Iterator[str]:
        """Yield the program's text as it is decoded; nothing runs before the first piece is asked for.

        Args:
            sentence: what the user said.
            compiled: see :meth:`generate`.
            sampling: keywords of :class:`SamplingParams`.

        Raises:
            GenerationError: at the end, when the finished text does not parse; what was yielded must then be discarded.
        """
        sequence = self.sequence(sentence, SamplingParams(**sampling), compiled or self.compiled)
        yield from self._decode(sequence)
        self.finish(sequence)

    def generate(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        constrained: bool = True,
        compiled: CompiledGrammar | None = None,
    ) -> Completion:
        """Generate one program.

        Args:
            sentence: what the user said; special tokens in it are plain text.
            params: budget and sampling.
            on_text: gets each piece of text.
            is_cancelled: asked after every token; the completion then has ``finish_reason`` ``cancelled``.
            constrained: ``False`` decodes without the grammar, to measure what it does; never used to serve. A trimmed
                head then still gives its own tokens only.
            compiled: another grammar than the bundle's, over the same tokens.

        Raises:
            RequestError: an empty sentence, values out of range, or a grammar with tokens that the head lacks.
            PromptTooLong: no room for the sentence.
            GenerationError: the model or an engine failed, or the two engines disagree.
        """
        sequence = self.sequence(sentence, params, (compiled or self.compiled) if constrained else None)
        for piece in self._decode(sequence):
            if on_text:
                on_text(piece)
            if is_cancelled and is_cancelled():
                sequence.finish_reason = "cancelled"
                break
        return self.finish(sequence)

    def warm_up(self) -> None:
        """Walk the bundle's own programs and answer a dev sentence: the first request finds all warm.

        For a server, whose load nobody waits for; a single program would only be ready later.
        """
        warm_up(self.compiled, self.tokenizer, self._programs(AT_START), needs_masks=self._needs_masks)
        if not self.dev:
            return
        params = SamplingParams(max_tokens=max(self.compiled.planner.enough_tokens, _WARM_UP_TOKENS))
        try:
            self.generate(self.dev[0][0], params)
        except (GenerationError, RequestError) as exc:  # a request will say so again
            _log.warning("the warm-up failed: %s", exc.message)

    def idle_work(self) -> Iterator[None]:
        """Work for while nothing is asked, a millisecond a step: the programs that come after those of a warm-up."""
        for token_ids in islice(self._programs(WHILE_IDLE), AT_START, None):
            walk(self.compiled, token_ids[:IDLE_TOKENS], needs_masks=self._needs_masks)
            yield

    @property
    def _needs_masks(self) -> bool:
        return self.decoder.head is not None

    def _programs(self, most: int) -> Iterator[list[int]]:
        """Of training, the most useful first; without an index of them those of dev."""
        if self.drafts and self.drafts.neighbours:
            return self.drafts.neighbours.programs(most)
        return (self.tokenizer.encode_plain(program) for _, program in self.dev[:most])

    def sequence(self, sentence: str, params: SamplingParams, compiled: CompiledGrammar | None) -> Sequence:
        """A request that was checked; the model did not run yet. Arguments and errors as for :meth:`generate`."""
        started = time.perf_counter()
        if not sentence.strip():
            raise RequestError("the sentence is empty", hint="say what the program should do")
        context = self.decoder.info.context_length
        if len(sentence) > MAX_CHARS_PER_TOKEN * context:
            raise PromptTooLong(
                f"the sentence has {len(sentence)} characters, too many for a context of {context} tokens",
                hint="shorten it",
            )
        token_ids = self.tokenizer.encode_prompt(self.template, _encodable(sentence))
        if self.head and compiled and compiled.grammar.lark is not self.grammar.lark:
            self.head.check(compiled)
        compiled = _restricted(compiled, params, sentence) if compiled else None
        self._check_budget(len(token_ids), params, compiled)
        budget = min(params.max_tokens, context - len(token_ids))
        return Sequence(sentence, token_ids, params, compiled, self.tokenizer.stream(), budget, started_s=started)

    def _check_budget(self, num_prompt_tokens: int, params: SamplingParams, compiled: CompiledGrammar | None) -> None:
        """A budget that no program fits into is refused before any compute."""
        if compiled:
            compiled.check_budget(params.max_tokens)
        context = self.decoder.info.context_length
        left = context - num_prompt_tokens
        if not (compiled.planner.fits(left) if compiled else left >= 1):
            least = compiled.planner.min_tokens if compiled else 1
            raise PromptTooLong(
                f"the prompt has {num_prompt_tokens} tokens, the shortest program {least}; the context holds {context}",
                hint="shorten the sentence",
            )

    def _decode(self, sequence: Sequence) -> Iterator[str]:
        """The text of each token; at the end, what was held back of an unfinished character."""
        yield from self._steps(sequence)
        if rest := sequence.text_stream.finish():
            yield rest

    def _steps(self, sequence: Sequence) -> Iterator[str]:
        """The loop: sample under the grammar, emit, run the model on the token."""
        self._running = sequence
        ahead = sequence.lookahead = self.lookahead(sequence, self.decoder)
        row = ahead.start(sequence.prompt_token_ids, sequence.matcher, sequence.budget)
        while (piece := self.advance(sequence, row)) is not None:
            yield piece
            if self._running is not sequence:
                raise GenerationError(
                    "another generation began on this engine before the stream ended",
                    hint="read a stream to its end, or load the bundle twice",
                )
            if sequence.finish_reason:
                return
            row = ahead.after(sequence.token_ids, sequence.matcher, sequence.tokens_left)

    def lookahead(self, sequence: Sequence, decoder: Decoder) -> Lookahead:
        """The calls of the model for a request."""
        drafter = self.drafts.start(sequence.sentence) if self.drafts and sequence.compiled else None
        return Lookahead(decoder, self.costs, drafter, self.is_padded, self.token_cost)

    def advance(self, sequence: Sequence, row: Row) -> str | None:
        """Take one token of the model's logits.

        Returns:
            The text that it completes; None where the program ended before it. ``finish_reason`` says so too.

        Raises:
            GenerationError: the model or an engine failed.
        """
        token_id = self._next_token(sequence, row, sequence.tokens_left - 1)
        if token_id in self.compiled.end_token_ids:
            sequence.finish_reason = "length" if sequence.is_steered() else "stop"
            return None
        if not sequence.tokens_left:
            sequence.finish_reason = "length"
            return None
        sequence.consume(token_id)
        piece = sequence.append(token_id)
        if sequence.is_over():
            sequence.finish_reason = "length" if sequence.is_steered() else "stop"
        return piece

    def _next_token(self, sequence: Sequence, row: Row, tokens_left: int) -> int:
        """One token that the grammar allows, and after which the program can be finished in ``tokens_left`` more."""
        if isinstance(row, HeadRow):
            if sequence.guard and (few := sequence.guard.choose_of_few(row.of, sequence.draw, tokens_left)) is not None:
                return few
            row = row.fetch()
        best = best_token(row)
        if best is None:
            raise LogitsError(
                "the model's logits are not finite; the program was discarded", hint="run 'edgedsl bundle verify'"
            )
        # Where the likeliest token passes, as it mostly does, no mask is needed.
        if sequence.params.temperature == 0 and sequence.may_take(best, tokens_left):
            return best
        logits = row.fetch() if isinstance(row, DeviceRow) else row
        if sequence.guard:
            return sequence.guard.choose(logits, sequence.draw, tokens_left)
        logits[self.tokenizer.vocab_size :] = -np.inf  # heads are padded to round widths; the padding is no token
        return sequence.draw(logits)

    def finish(self, sequence: Sequence) -> Completion:
        """Read a finished program again, from scratch.

        Raises:
            GenerationError: it does not parse.
        """
        if sequence.lookahead:
            sequence.lookahead.finish()
        text = self.tokenizer.decode(sequence.token_ids)
        if sequence.compiled and sequence.finish_reason != "cancelled" and not sequence.is_whole(text):
            raise self.disagreements.add(sequence.compiled.grammar, text, sequence.token_ids)
        return sequence.completion(text)


def _restricted(compiled: CompiledGrammar, params: SamplingParams, sentence: str) -> CompiledGrammar:
    spans = (Spans(params.spans, sentence),) if params.spans else ()
    return compiled.restrict(*params.subsets, *spans) if params.subsets or spans else compiled


def _encodable(sentence: str) -> str:
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise RequestError(
            f"the sentence holds half a surrogate pair at character {exc.start}", hint="send valid Unicode"
        ) from exc
    return sentence
