"""Several requests on one engine, against the same requests one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import runs_here
from tiny import CATALOGUE, GRAMMAR, PAIRS, tiny_template, tiny_tokenizer
from tiny_export import CONTEXT, SHAPE, make_model, model_info
from transformers import LlamaConfig

from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GenerationError, PromptTooLong, RequestError
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.passes.graph import load_graph, save_graph
from edgedsl.exporters.passes.row_attention import use_row_attention
from edgedsl.grammar import Grammar
from edgedsl.runtime.call_costs import SIZES, CallCosts, TokenCost
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.runtime.streams import Stream, Streams

NUM_SLOTS = 3
TOKENIZER = tiny_tokenizer()
LANGUAGE = Grammar(bind(GRAMMAR, Catalogue.from_lists(CATALOGUE)), name="tiny")
SENTENCES = [f"{prompt}{extra}" for extra in ("", " please", " now and then") for prompt, _ in PAIRS]
FLAT = CallCosts((1.0,) * len(SIZES))  # a call of many tokens costs what one costs


@pytest.fixture(scope="module", params=["ONNX Runtime's attention", pytest.param("our own", marks=runs_here)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A random model in fp32, in which no rounding depends on who stands beside whom."""
    model = make_model(LlamaConfig(**{**SHAPE, "vocab_size": TOKENIZER.vocab_size}))
    path = FusedExporter().export(model, tmp_path_factory.mktemp("model"), context_length=CONTEXT).path
    info = model_info(model.config, "shared")
    if request.param == "our own":
        rows = load_graph(path)
        assert use_row_attention(rows)
        path, info = path.with_name("rows.onnx"), replace(info, quantization="w4a8")
        save_graph(rows, path)
    decoder = Decoder(path, info, num_threads=1, num_slots=NUM_SLOTS)
    return Engine(name="tiny", tokenizer=TOKENIZER, template=tiny_template(), grammar=LANGUAGE, decoder=decoder)


@pytest.fixture(params=["together", "alone", "no costs"])
def way(request: pytest.FixtureRequest, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(engine, "costs", None if request.param == "no costs" else FLAT)
    if request.param == "alone":
        monkeypatch.setattr(Streams, "_is_better_together", lambda self, slots: False)
    return str(request.param)


def params(number: int) -> SamplingParams:
    """Budgets, greedy and sampled."""
    return SamplingParams(max_tokens=8 + number % 7, temperature=0.8 * (number % 2), seed=number)


def finish(streams: Streams, *taken: Stream) -> dict[Stream, Any]:
    outcomes: dict[Stream, Any] = {}
    while len(outcomes) < len(taken):
        outcomes |= {stream: stream.outcome for stream in streams.step()}
    return outcomes


def facts(completion: Any) -> tuple[Any, ...]:
    assert isinstance(completion, Completion), completion
    return completion.text, completion.token_ids, completion.finish_reason, completion.prompt_tokens


def answers(streams: Streams, sentences: list[str]) -> list[Completion | BaseException | None]:
    waiting, running = list(enumerate(sentences)), {}
    found: dict[int, Completion | BaseException | None] = {}
    while waiting or running:
        while waiting and streams.num_free:
            number, sentence = waiting.pop(0)
            running[streams.start(sentence, params(number))] = number
        for stream in streams.step():
            found[running.pop(stream)] = stream.outcome
    return [found[number] for number in range(len(sentences))]


def test_each_gets_the_answer_that_it_gets_alone(engine: Engine, way: str) -> None:
    expected = [engine.generate(sentence, params(number)) for number, sentence in enumerate(SENTENCES)]
    streams = Streams(engine)
    assert list(map(facts, answers(streams, SENTENCES))) == list(map(facts, expected))
    assert streams.num_free == NUM_SLOTS
    assert len({facts(one) for one in expected}) > 4


def test_requests_share_calls_only_where_that_costs_less(
    engine: Engine, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, widths = Streams(engine), []
    name = "call" if engine.decoder.has_rows else "step"
    step = getattr(streams._slots, name)
    monkeypatch.setattr(streams._slots, name, lambda tokens: widths.append(len(tokens)) or step(tokens))
    one, other = (streams.start(sentence, params(0)) for sentence in SENTENCES[:2])
    finish(streams, one, other)
    is_shared = way == "together" or (engine.decoder.has_rows and way == "no costs")
    assert set(widths) == ({2} if is_shared else set())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SENTENCES), st.booleans()), min_size=1, max_size=12), st.booleans())
def test_whenever_a_request_comes_its_answer_is_the_same(
    engine: Engine, arrivals: list[tuple[str, bool]], is_together: bool
) -> None:
    engine.costs = FLAT if is_together else None
    try:
        streams, numbers = Streams(engine), {}
        outcomes: dict[Stream, Any] = {}
        for number, (sentence, is_step_before) in enumerate(arrivals):
            if is_step_before:
                outcomes |= {stream: stream.outcome for stream in streams.step()}
            while not streams.num_free:
                outcomes |= {stream: stream.outcome for stream in streams.step()}
            numbers[streams.start(sentence, params(number))] = number
        while len(outcomes) < len(arrivals):
            outcomes |= {stream: stream.outcome for stream in streams.step()}
        for stream, number in numbers.items():
            expected = engine.generate(arrivals[number][0], params(number))
            assert facts(outcomes[stream]) == facts(expected)
    finally:
        engine.costs = None


def test_text_comes_in_pieces_that_make_up_the_program(engine: Engine, way: str) -> None:
    streams, pieces = Streams(engine), [[], []]  # type: ignore[var-annotated]
    taken = [streams.start(SENTENCES[n], params(n), on_text=pieces[n].append) for n in range(2)]
    outcomes = finish(streams, *taken)
    assert ["".join(parts) for parts in pieces] == [outcomes[stream].text for stream in taken]
    assert min(map(len, pieces)) > 1


def test_one_is_cancelled_and_the_others_go_on(engine: Engine, way: str) -> None:
    streams = Streams(engine)
    stopped = streams.start(SENTENCES[0], params(0), is_cancelled=lambda: True)
    other = streams.start(SENTENCES[1], params(1))
    outcomes = finish(streams, stopped, other)
    assert outcomes[stopped].finish_reason == "cancelled"
    assert outcomes[stopped].completion_tokens == 1
    assert facts(outcomes[other]) == facts(engine.generate(SENTENCES[1], params(1)))


class Panic(BaseException):
    pass


@pytest.mark.parametrize("failure", [GenerationError("no"), ValueError("no"), Panic()])
def test_a_failure_is_that_of_its_own_request(engine: Engine, way: str, failure: BaseException) -> None:
    def fail(_: str) -> None:
        raise failure

    streams = Streams(engine)
    broken = streams.start(SENTENCES[0], params(0), on_text=fail)
    other = streams.start(SENTENCES[1], params(1))
    outcomes = finish(streams, broken, other)
    assert outcomes[broken] is failure
    assert facts(outcomes[other]) == facts(engine.generate(SENTENCES[1], params(1)))
    assert streams.num_free == NUM_SLOTS


def test_a_draft_that_fails_is_the_failure_of_its_own_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "costs", FLAT)
    streams = Streams(engine)
    broken, other = (streams.start(SENTENCES[n], params(n)) for n in range(2))

    def fail(*_: Any) -> None:
        raise GenerationError("no")

    # One takes part in shared calls, the other way in calls of its own.
    monkeypatch.setattr(broken.ahead, "tokens_for", fail)
    monkeypatch.setattr(broken.ahead, "call", fail)
    monkeypatch.setattr(Streams, "_is_better_together", lambda self, slots: engine.decoder.has_rows)
    outcomes = finish(streams, broken, other)
    assert isinstance(outcomes[broken], GenerationError)
    assert facts(outcomes[other]) == facts(engine.generate(SENTENCES[1], params(1)))
    assert streams.num_free == NUM_SLOTS


def test_ctrl_c_is_not_kept_for_later(engine: Engine) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    streams = Streams(engine)
    with pytest.raises(KeyboardInterrupt):
        streams.start(SENTENCES[0], params(0), on_text=interrupt)
    assert streams.num_free == NUM_SLOTS


def test_the_first_text_does_not_wait_for_the_prompts_of_others(engine: Engine, way: str) -> None:
    streams, pieces = Streams(engine), []  # type: ignore[var-annotated]
    taken = [streams.start(SENTENCES[0], params(0), on_text=pieces.append)]
    assert len(pieces) == 1
    taken.append(streams.start(SENTENCES[1], params(1)))
    assert len(pieces) == 1
    assert finish(streams, *taken)[taken[0]].text == "".join(pieces)


def test_an_answer_does_not_wait_for_the_calls_of_others(engine: Engine, way: str) -> None:
    streams = Streams(engine)
    short = streams.start(SENTENCES[0], params(0), is_cancelled=lambda: True)
    other = streams.start(SENTENCES[1], params(1))
    num_calls = other.ahead.num_calls
    assert streams.step() == [short]
    assert other.ahead.num_calls == num_calls
    assert streams.step() == []
    assert other.ahead.num_calls == num_calls + 1


@pytest.mark.parametrize(("failure", "kind"), [(RuntimeError("no"), GenerationError), (Panic(), Panic)])
def test_a_failing_step_ends_all_that_took_part(
    engine: Engine, failure: BaseException, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "costs", FLAT)
    streams = Streams(engine)
    taken = [streams.start(SENTENCES[n], params(0)) for n in range(2)]

    def fail(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(streams._slots, "_run_rows" if engine.decoder.has_rows else "_run", fail)
        outcomes = finish(streams, *taken)
    assert [type(outcomes[stream]) for stream in taken] == [kind] * 2
    again = streams.start(SENTENCES[0], params(0))
    assert facts(finish(streams, again)[again]) == facts(engine.generate(SENTENCES[0], params(0)))


@pytest.mark.parametrize(
    ("sentence", "budget", "error"), [("", 8, RequestError), ("on", 1, RequestError), ("on " * 90, 8, PromptTooLong)]
)
def test_what_is_refused_takes_no_place(engine: Engine, sentence: str, budget: int, error: type[Exception]) -> None:
    streams = Streams(engine)
    with pytest.raises(error):
        streams.start(sentence, SamplingParams(max_tokens=budget))
    assert streams.num_free == NUM_SLOTS


def test_more_requests_than_places_are_refused(engine: Engine) -> None:
    streams = Streams(engine)
    taken = [streams.start(SENTENCES[n], params(n)) for n in range(NUM_SLOTS)]
    with pytest.raises(RequestError, match="all 3 places are taken"):
        streams.start(SENTENCES[3], params(3))
    assert all(isinstance(outcome, Completion) for outcome in finish(streams, *taken).values())


def test_a_model_that_fails_on_the_prompt_takes_no_place(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(engine)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        for decoder in streams._slots.decoders:
            patch.setattr(decoder, "_run", fail)
        with pytest.raises(GenerationError):
            streams.start(SENTENCES[0], params(0))
    assert streams.num_free == NUM_SLOTS
    assert [decoder.length for decoder in streams._slots.decoders] == [0] * NUM_SLOTS
    assert streams.step() == []


def test_a_cache_that_grows_takes_one_request(tiny_onnx: Any) -> None:
    decoder = tiny_onnx.growing()
    engine = Engine(name="tiny", tokenizer=TOKENIZER, template=tiny_template(), grammar=LANGUAGE, decoder=decoder)
    with pytest.raises(RequestError, match="one request at a time"):
        Streams(engine)


@pytest.mark.parametrize("is_together", [True, False])
def test_a_bundle_with_drafts_answers_as_it_does_alone(
    tiny_bundle: Path, is_together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.from_bundle(tiny_bundle, num_threads=1, num_slots=NUM_SLOTS)
    monkeypatch.setattr(Streams, "_is_better_together", lambda self, slots: is_together and len(slots) > 1)
    assert engine.drafts
    found = answers(Streams(engine), SENTENCES)
    expected = [engine.generate(sentence, params(number)) for number, sentence in enumerate(SENTENCES)]
    assert list(map(facts, found)) == list(map(facts, expected))


@pytest.mark.parametrize(("row_ms", "num_drafted"), [(0.0, True), (0.6, False)])
def test_who_joins_drafts_what_a_shared_token_is_worth(
    tiny_bundle: Path, row_ms: float, num_drafted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.from_bundle(tiny_bundle, num_threads=1, num_slots=NUM_SLOTS)
    sentence = PAIRS[0][0]  # of a training pair: the drafts are sure
    costs = CallCosts(tuple(4 + row_ms * size for size in SIZES))
    monkeypatch.setattr(engine, "costs", costs)
    monkeypatch.setattr(Streams, "_is_better_together", lambda self, slots: len(slots) > 1)
    streams = Streams(engine)
    first = streams.start(sentence, params(0))
    monkeypatch.setattr(streams, "_step_ms", lambda *_: 0.5)
    third = streams.start(sentence, params(0))
    assert first.ahead.num_drafted > 0
    assert (third.ahead.num_drafted > 0) == num_drafted
    monkeypatch.setattr(Streams, "_is_better_together", lambda self, slots: False)
    finish(streams, first, third)
    assert third.ahead.num_drafted > 0, "alone again, drafts are worth what they are alone"


def test_exact_engines_share_no_calls(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_bundle(tiny_bundle, num_threads=1, num_slots=NUM_SLOTS, exact=True)
    streams = Streams(engine)
    monkeypatch.setattr(streams._slots, "step", lambda _: pytest.fail("a call of several requests"))
    assert all(isinstance(answer, Completion) for answer in answers(streams, SENTENCES[:4]))


def test_what_drafts_brought_decides(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    flat: Callable[[float], CallCosts] = lambda ms: CallCosts((ms,) * len(SIZES))  # noqa: E731
    monkeypatch.setattr(engine, "costs", flat(8.0))
    monkeypatch.setattr(engine, "token_cost", TokenCost())
    streams = Streams(engine)
    for _ in range(500):
        engine.token_cost.learn(8.0, 4)
    if engine.decoder.has_rows:  # a call takes the drafts of all
        assert [streams._is_better_together(list(range(n))) for n in (1, 2, 5)] == [False, True, True]
        return
    assert [streams._is_better_together(list(range(n))) for n in (1, 2, 5)] == [False, False, True]
    for _ in range(500):
        engine.token_cost.learn(8.0, 2)
    assert [streams._is_better_together(list(range(n))) for n in (1, 2, 3)] == [False, False, True]
