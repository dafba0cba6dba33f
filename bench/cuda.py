"""Speed on a GPU: a model of Qwen2.5-0.5B's shape with random weights, no drafts, under a grammar.

Run ``python -m edgedsl.bench.cuda --output FILE`` on a machine with a GPU; nothing is downloaded. Random weights cost
what trained ones cost; what they say is worth nothing, so two languages bracket what a trained model would meet: one in
which every word is legal, so that the best token of the graph passes and no logits leave the GPU, and one in which no
word is, so that every row of logits is copied and masked. One stream is measured first, then several, a token of each
in every call.
"""

from __future__ import annotations

import argparse
import itertools
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgedsl import machine
from edgedsl.bench import shapes
from edgedsl.bench.command import at_least, document, run, say
from edgedsl.bundle.manifest import ModelInfo
from edgedsl.errors import GenerationError
from edgedsl.evaluation.record import load_average
from edgedsl.evaluation.statistics import summary
from edgedsl.exporters.recipes import HALF
from edgedsl.grammar import Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.provider_probe import check_runs
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.device_calls import CAPTURED_SIZES
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.rows import DeviceRow
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.streams import Stream, Streams
from edgedsl.tokenizer import Tokenizer

LANGUAGES = {
    "every word legal": Grammar("start: TEXT\nTEXT: /[a-z ]+/", name="words"),
    "no word legal": Grammar('start: NUMBER ("," NUMBER)*\nNUMBER: /[0-9]{1,9}/', name="numbers"),
}
SENTENCE = "turn on the lamp in the kitchen and set the heating in the hall to twenty degrees"
CONTEXT = 512
_VOCABULARY = 151_643  # the head is wider, as that of Qwen2.5 is
_SPECIAL = ("<|im_start|>", "<|im_end|>")
_ROUNDS = 50
_WARM_UP = 3  # calls; the first captures
STREAMS = (1, 8, 64)


def shape(num_layers: int) -> Any:
    """Of Qwen2.5-0.5B, but for the number of layers."""
    return shapes.shape("qwen2.5-0.5b", num_hidden_layers=num_layers)


def tokenizer(vocab_size: int = _VOCABULARY) -> Tokenizer:
    """Every byte, then words of three and four letters, then two special tokens."""
    words = ("".join(letters) for n in (3, 4) for letters in itertools.product(string.ascii_lowercase, repeat=n))
    names = itertools.chain(_byte_names(), words)
    vocabulary = {name: token_id for token_id, name in enumerate(itertools.islice(names, vocab_size - len(_SPECIAL)))}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return Tokenizer(backend.to_str())


def _byte_names() -> Iterator[str]:
    yield from sorted(pre_tokenizers.ByteLevel.alphabet())


def measure(decoder: Decoder, tokens: Tokenizer, num_answers: int, max_tokens: int) -> list[dict[str, Any]]:
    """Rows of the result: calls of the model alone by their size, then whole answers of each language."""
    rows = [_call_row(decoder, size) for size in CAPTURED_SIZES]
    for what in LANGUAGES:
        rows.append(_answer_row(_engine(decoder, tokens, what), what, num_answers, max_tokens))
    return rows


def measure_streams(
    open_decoder: Callable[[int], Decoder], tokens: Tokenizer, numbers: Sequence[int], num_answers: int, max_tokens: int
) -> list[dict[str, Any]]:
    """Rows of the result: for each language, a token of each of several streams in one call, grammar and all.

    Args:
        open_decoder: with so many slots; another one for each language, since what CUDA captured are the buffers of
            one set of streams.
        tokens: the tokenizer.
        numbers: of streams.
        num_answers: of each language and number, at least.
        max_tokens: of an answer.
    """
    rows = []
    for what in LANGUAGES:
        streams = Streams(_engine(open_decoder(max(numbers)), tokens, what), together=True)
        for num_streams in numbers:
            num_times = -(-num_answers // num_streams)
            step_ms = [ms for _ in range(num_times) for ms in _step_ms(streams, num_streams, max_tokens)]
            rows.append(_streams_row(what, num_streams, step_ms))
    return rows


def _engine(decoder: Decoder, tokens: Tokenizer, what: str) -> Engine:
    template = PromptTemplate.default(bos_token=_SPECIAL[0], eos_token=_SPECIAL[1])
    return Engine(name="random", tokenizer=tokens, template=template, grammar=LANGUAGES[what], decoder=decoder)


def _step_ms(streams: Streams, num_streams: int, max_tokens: int) -> list[float]:
    """Each step in which all streams got a token; the first ones, and those after the first answer, are not counted."""
    taken = [streams.start(SENTENCE, SamplingParams(max_tokens=max_tokens)) for _ in range(num_streams)]
    times: list[float] = []
    ended: list[Stream] = []
    while len(ended) < num_streams:
        started = time.perf_counter()
        ended += streams.step()
        if not ended:
            times.append(1000 * (time.perf_counter() - started))
    for stream in taken:
        if isinstance(stream.outcome, BaseException):
            raise stream.outcome
    return times[_WARM_UP:]


def _streams_row(what: str, num_streams: int, step_ms: list[float]) -> dict[str, Any]:
    if not step_ms:
        raise GenerationError(
            f"no answer has more than {_WARM_UP} tokens to measure", hint="give more with '--max-tokens'"
        )
    row = _row(f"a token of each stream, {what}", summary(step_ms), None, num_streams=num_streams)
    return {**row, "output_throughput": round(1000 * num_streams * len(step_ms) / sum(step_ms), 1)}


def _call_row(decoder: Decoder, size: int) -> dict[str, Any]:
    decoder.reset()
    decoder.forward([5] * 64)
    times = []
    for number in range(_ROUNDS + _WARM_UP):
        started = time.perf_counter()
        decoder.rows([7] * size, size)
        if number >= _WARM_UP:
            times.append(1000 * (time.perf_counter() - started))
        decoder.truncate(64)
    return _row(f"a call of {size}, no grammar", summary(times), None, is_token=size == 1)


def _answer_row(engine: Engine, what: str, num_answers: int, max_tokens: int) -> dict[str, Any]:
    params = SamplingParams(max_tokens=max_tokens)
    fetched = _share_fetched(engine, params)
    answers = [engine.generate(SENTENCE, params) for _ in range(num_answers)]
    return _row(f"an answer's token, {what}", summary([answer.timings.tpot_ms for answer in answers]), fetched)


def _row(
    what: str, ms: dict[str, Any], fetched: float | None, *, is_token: bool = True, num_streams: int = 1
) -> dict[str, Any]:
    return {
        "what": what,
        "streams": num_streams,
        "ms_p50": ms["p50"],
        "ms_p95": ms["p95"],
        "output_throughput": round(1000 / ms["p50"], 1) if is_token else None,
        "logits_fetched": fetched,
    }


def _share_fetched(engine: Engine, params: SamplingParams) -> float:
    """Tokens of one answer whose logits went to the host; also a warm-up."""
    decoder, rows, num_fetched = engine.decoder, engine.decoder.rows, 0

    def counted(row: DeviceRow) -> DeviceRow:
        def fetch() -> Any:
            nonlocal num_fetched
            num_fetched += 1
            return row.fetch()

        return replace(row, fetch=fetch)

    def watched(*arguments: Any) -> Any:
        return [counted(row) for row in rows(*arguments) if isinstance(row, DeviceRow)]

    vars(decoder)["rows"] = watched
    try:
        answer = engine.generate(SENTENCE, params)
    finally:
        del vars(decoder)["rows"]
    return round(num_fetched / (len(answer.token_ids) + 1), 3)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure a model of Qwen2.5-0.5B's shape with random weights.")
    parser.add_argument("--execution-provider", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this out")
    parser.add_argument("--quantize", choices=tuple(HALF), default="fp16", help="recipe")
    parser.add_argument("--num-layers", type=at_least(1), default=24, help="fewer than 24 is not the model's shape")
    parser.add_argument("--num-answers", type=at_least(1), default=20, help="answers of each language")
    parser.add_argument("--max-tokens", type=at_least(1), default=128, help="of an answer")
    parser.add_argument(
        "--streams", type=at_least(1), action="append", help="at a time; may be repeated (default: 1, 8, 64)"
    )
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load, numbers = load_average(), sorted(set(options.streams or STREAMS))
    check_runs(options.execution_provider)
    tokens, sizes = tokenizer(), (options.num_answers, options.max_tokens)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        say("writing the model")
        info = shapes.write_random(shape(options.num_layers), options.quantize, Path(folder), CONTEXT)
        for captures in (True, False) if options.execution_provider == "cuda" else (False,):
            open_decoder = partial(_open, Path(folder) / "model.onnx", info, options.execution_provider, captures)
            decoder = open_decoder(1)
            say(f"measuring, CUDA graphs {'on' if captures else 'off'}; nodes: {decoder.placement.num_nodes}")
            found = [*measure(decoder, tokens, *sizes), *measure_streams(open_decoder, tokens, numbers, *sizes)]
            rows += [{"cuda_graphs": captures, **row} for row in found]
    return _document(options, numbers, decoder, rows, load)


def _open(path: Path, info: ModelInfo, device: str, captures: bool, num_slots: int) -> Decoder:
    return Decoder(path, info, execution_provider=device, captures_graphs=captures, num_slots=num_slots)


def _document(
    options: argparse.Namespace, numbers: list[int], decoder: Decoder, rows: list[dict[str, Any]], load: float | None
) -> dict[str, Any]:
    device = options.execution_provider
    record = document(
        "cuda",
        "A model of Qwen2.5-0.5B's shape, one stream and several, no drafts",
        rows,
        load,
        [
            "The weights are random: a trained model's best token is legal mostly, so its speed is near that of the "
            "language in which every word is legal.",
            "An answer's token has the model, the grammar, the budget and the text in it; a call has the model alone.",
            "A token of each stream: the time that every stream waits for it, of all of them in one call. All were "
            "given the same sentence, and prompts are not in the times.",
        ],
        model=f"random weights, {options.num_layers} layers, {options.quantize}",
        grammar=", ".join(LANGUAGES),
        cpu=", ".join([*machine.fingerprint()["gpus"], device]) if device == "cuda" else device,
        command=f"python -m edgedsl.bench.cuda --quantize {options.quantize} --num-layers {options.num_layers} "
        f"--num-answers {options.num_answers} --max-tokens {options.max_tokens} "
        f"{' '.join(f'--streams {n}' for n in numbers)} --execution-provider {device}",
    )
    found = {"execution_provider": decoder.session.get_providers()[0], "nodes": decoder.placement.num_nodes}
    return {**record, "runtime": found}


if __name__ == "__main__":
    sys.exit(main())
