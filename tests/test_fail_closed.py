"""Whatever fails inside a request ends it with an error of its own and never with a program; the next one works."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import llguidance
import numpy as np
import pytest
from serving_client import KEY, URL, body, talk
from tiny import EOS_TOKEN, tiny_template, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.config import load_config
from edgedsl.errors import (
    ConfigError,
    DisagreementError,
    EngineLimitError,
    GenerationError,
    LogitsError,
    MatcherError,
    NoTokenError,
)
from edgedsl.grammar import BudgetGuard, Grammar, Matcher
from edgedsl.grammar.subset import Subset
from edgedsl.runtime import disagreements
from edgedsl.runtime.disagreements import Disagreements
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.serving.gate import KeyRing

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.token_id(EOS_TOKEN)
PADDING = 31  # logits beyond the vocabulary
SPEECH = 'start: "say \\"" TEXT "\\""\nTEXT: /[^"\\n]+/'
PROGRAM = 'say "grüne Kerze"'
SENTENCE = "the sentence of Ms. Quickfoot"
SAMPLED = {"temperature": 0.7}  # a greedy request asks the engine for few masks; this one for the mask of every step
Logits = np.ndarray


class Decoder:
    """Favours the tokens of a program; ``fault`` may change the logits [vocab + PADDING] of a step."""

    execution_provider = "cpu"
    head = None
    prefix_token_ids = ()
    info = SimpleNamespace(context_length=128)

    def __init__(self, program: str = PROGRAM) -> None:
        self.program = program
        self.fault: Callable[[int, Logits], None] = lambda step, logits: None
        self.step = -1

    def reset(self) -> None:
        self.step = -1

    def rows(self, token_ids: Sequence[int], num_logits: int) -> Logits:
        return self.forward(token_ids)[None]

    def forward(self, token_ids: Sequence[int]) -> Logits:
        self.step += 1
        script = [*TOKENIZER.encode_plain(self.program), END]
        logits = np.zeros(TOKENIZER.vocab_size + PADDING, np.float32)
        logits[script[min(self.step, len(script) - 1)]] = 30.0
        self.fault(self.step, logits)
        return logits


def new_engine(grammar: Grammar | None = None, program: str = PROGRAM, *, keep: Path | None = None) -> Engine:
    return Engine(
        name="fake-model",
        tokenizer=TOKENIZER,
        template=tiny_template(),
        grammar=grammar or Grammar(SPEECH, name="speech"),
        decoder=Decoder(program),  # type: ignore[arg-type]
        disagreements=Disagreements(keep),
    )


# Ways to fail. Each is on while its block runs.


def logits_with(value: float, step: int, where: int) -> Callable[[Engine], AbstractContextManager[None]]:
    @contextmanager
    def broken(engine: Engine) -> Iterator[None]:
        def put(now: int, logits: Logits) -> None:
            if now == step:
                logits[where] = value

        decoder: Any = engine.decoder
        decoder.fault = put
        yield
        decoder.fault = lambda step, logits: None

    return broken


@contextmanager
def patched(target: type, **methods: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, method in methods.items():
            patch.setattr(target, name, method)
        yield


def refused_token(engine: Engine) -> AbstractContextManager[None]:
    """The guard lets a token pass that the engine, told of it later, refuses."""

    def choose(guard: Any, *_: object, **__: object) -> int:
        token_id: int = TOKENIZER.encode_plain("\n")[0]
        guard._next = (token_id, guard._position, None)
        return token_id

    return patched(BudgetGuard, choose=choose)


# So low that free text meets it.
LOW = llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=3)


@contextmanager
def engine_limit(engine: Engine) -> Iterator[None]:
    matchers, usual = engine.compiled.matchers, engine.compiled.matchers.limits
    matchers.limits = LOW
    matchers.renew()
    yield
    matchers.limits = usual
    matchers.renew()


def meet_a_limit_once(engine: Engine) -> None:
    """The next program meets a limit; those after it have the usual limits."""
    matchers, usual = engine.compiled.matchers, engine.compiled.matchers.limits
    matchers.limits = LOW
    matchers.renew()
    matchers.limits = usual


def no_legal_token(engine: Engine) -> AbstractContextManager[None]:
    def nothing(*_: object) -> bool:
        return False

    def empty(_: Matcher, bitmask: np.ndarray) -> None:
        bitmask[:] = 0

    return patched(Matcher, fill_bitmask=empty, allows=nothing, accepts=nothing)


def nothing_fits(engine: Engine) -> AbstractContextManager[None]:
    """Tokens are legal, but none leaves time to end."""
    return patched(BudgetGuard, _permits=lambda *_, **__: False)


def disagreement(engine: Engine) -> AbstractContextManager[None]:
    return patched(Grammar, accepts=lambda *_: False)


def model_failure(engine: Engine) -> AbstractContextManager[None]:
    def fail(*_: object) -> None:
        raise GenerationError("the model failed to run one step")

    return patched(Decoder, forward=fail)


class Panic(BaseException):
    """As a panic of a Rust library arrives: no Exception, with a text that quotes what it worked on."""


def panic(engine: Engine) -> AbstractContextManager[None]:
    def fail(*_: object) -> None:
        raise Panic("index out of bounds")

    return patched(Matcher, catch_up=fail)


def padded_draw(engine: Engine) -> AbstractContextManager[None]:
    """A bug of ours: an id of the padding is chosen."""
    return patched(BudgetGuard, permits=lambda *_: False, choose=lambda *_: TOKENIZER.vocab_size + 1)


@dataclass(frozen=True)
class Case:
    fault: Callable[[Engine], AbstractContextManager[None]]
    error: type[GenerationError]
    message: str
    code: str


FINITE = "the model's logits are not finite; the program was discarded"
NAN, INF, LAST = float("nan"), float("inf"), TOKENIZER.vocab_size + PADDING - 1
CASES = {
    "NaN in the prompt's logits": Case(logits_with(NAN, 0, 5), LogitsError, FINITE, "logits_not_finite"),
    "NaN in a later step": Case(logits_with(NAN, 4, 5), LogitsError, FINITE, "logits_not_finite"),
    "NaN in the padding only": Case(logits_with(NAN, 4, LAST), LogitsError, FINITE, "logits_not_finite"),
    "infinite": Case(logits_with(INF, 2, 5), LogitsError, FINITE, "logits_not_finite"),
    "minus infinite": Case(logits_with(-INF, 2, 5), LogitsError, FINITE, "logits_not_finite"),
    "infinite in the padding": Case(logits_with(INF, 2, LAST), LogitsError, FINITE, "logits_not_finite"),
    "refused token": Case(refused_token, MatcherError, "the grammar engine failed", "grammar_engine_failed"),
    "engine limit": Case(engine_limit, EngineLimitError, "the grammar engine met a limit", "grammar_engine_limit"),
    "no legal token": Case(no_legal_token, NoTokenError, "no token can follow", "no_legal_token"),
    "nothing fits": Case(nothing_fits, NoTokenError, "no token can follow", "no_legal_token"),
    "disagreement": Case(disagreement, DisagreementError, "the two grammar engines disagree", "engines_disagree"),
    "model": Case(model_failure, GenerationError, "the model failed to run", "generation_failed"),
}


def holds_no_text(*texts: str) -> bool:
    """Whether neither the sentence nor a part of the program is in them."""
    words = re.findall(r"\w+", f"{SENTENCE} {PROGRAM}")
    return not [word for text in texts for word in words if len(word) > 3 and word in text and word != "sentence"]


# --- the engine


@pytest.mark.parametrize("name", CASES)
def test_a_request_that_fails_has_its_own_error_and_the_next_one_works(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    case, engine = CASES[name], new_engine()
    with case.fault(engine):
        with pytest.raises(GenerationError) as caught:
            engine(SENTENCE, **SAMPLED)
        with pytest.raises(GenerationError, match=case.message):
            list(engine.stream(SENTENCE, **SAMPLED))
    assert type(caught.value) is case.error
    assert caught.value.message.startswith(case.message)
    assert holds_no_text(caught.value.message, caught.value.hint, caplog.text)
    for sampling in ({}, SAMPLED):
        completion = engine(SENTENCE, **sampling)
        assert (completion.text, completion.finish_reason) == (PROGRAM, "stop")


def test_a_limit_of_one_request_does_not_stay_for_the_next() -> None:
    """Copies of a matcher share its lexer, which stays broken once it met a limit."""
    engine = new_engine()
    meet_a_limit_once(engine)
    with pytest.raises(EngineLimitError):
        engine(SENTENCE, **SAMPLED)
    assert engine(SENTENCE, **SAMPLED).text == PROGRAM


@pytest.mark.parametrize("limits", [{"max_lexer_states": 3}, {"step_lexer_fuel": 1}, {"step_max_items": 1}], ids=str)
def test_every_limit_is_called_one(limits: dict[str, int]) -> None:
    engine = new_engine()
    engine.compiled.matchers.limits = llguidance.LLParserLimits(verbose_errors=False, **limits)
    engine.compiled.matchers.renew()
    with pytest.raises(EngineLimitError, match="met a limit"):
        engine(SENTENCE, **SAMPLED)


@pytest.mark.parametrize("is_part_first", [False, True])
def test_a_limit_met_under_a_part_of_the_catalogue_stays_for_nobody(is_part_first: bool) -> None:
    """Parts of a catalogue share the lexer. Where a mask is known already, a broken one just refuses every token."""
    names = Catalogue.from_lists({"ROOM": ["hall", "kitchen"]})
    source = bind('start: "say " TEXT ROOM\nTEXT: /[a-z ]+:/\n%declare ROOM\n', names)
    program = "say hello there:hall"
    engine = new_engine(Grammar(source, catalogue=names), program)
    whole, part = SamplingParams(temperature=0.7), SamplingParams(temperature=0.7, subsets=(Subset(("hall",)),))
    one, other = (part, whole) if is_part_first else (whole, part)
    assert engine.generate(SENTENCE, other).text == program  # its masks are known from now on
    meet_a_limit_once(engine)
    with pytest.raises(EngineLimitError):
        engine.generate(SENTENCE, one)
    for params in (other, one, other):
        assert engine.generate(SENTENCE, params).text == program


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("step", [0, 5])
def test_the_largest_logit_in_the_padding_is_no_token(temperature: float, step: int) -> None:
    engine = new_engine()
    with logits_with(50.0, step, TOKENIZER.vocab_size)(engine):
        completion = engine(SENTENCE, temperature=temperature, max_tokens=40)
    assert max(completion.token_ids) < TOKENIZER.vocab_size
    assert engine.grammar.accepts(completion.text)
    if temperature == 0:
        assert completion.text == PROGRAM


@pytest.mark.parametrize("fault", [panic, padded_draw])
def test_what_nobody_foresaw_is_no_program_either(fault: Callable[[Engine], AbstractContextManager[None]]) -> None:
    engine = new_engine()
    with fault(engine), pytest.raises((Panic, IndexError, GenerationError, ValueError, OverflowError)):
        engine(SENTENCE)
    assert engine(SENTENCE).text == PROGRAM


def test_a_cancelled_request_is_no_disagreement() -> None:
    engine = new_engine()
    assert engine.generate(SENTENCE, SamplingParams(), is_cancelled=lambda: True).finish_reason == "cancelled"
    assert engine.disagreements.count == 0


# --- the server


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_the_server_answers_with_a_code_of_its_own_and_goes_on(
    name: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    case, engine = CASES[name], new_engine()

    async def scenario(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        with case.fault(engine):
            failed = await client.post(URL, json=body(SENTENCE, stream=stream, **SAMPLED))
        return failed, await client.post(URL, json=body(SENTENCE))

    with caplog.at_level(logging.DEBUG, logger="edgedsl"):
        failed, following = talk(scenario, engine)  # type: ignore[arg-type]
    error = error_of(failed)
    assert (error["code"], error["type"]) == (case.code, "server_error")
    assert error["message"].startswith(case.message)
    assert holds_no_text(json.dumps(error, ensure_ascii=False), caplog.text)
    assert following.json()["choices"][0]["message"]["content"] == PROGRAM


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, or of the last event of a stream that had begun; there is no [DONE] after it."""
    if answer.status_code == 200:
        assert "[DONE]" not in answer.text
        assert 'finish_reason":"' not in answer.text
        event = answer.text.strip().split("\n\n")[-1]
        assert event.startswith("event: error\ndata: ")
        return dict(json.loads(event.partition("data: ")[2])["error"])
    assert answer.status_code == 500
    assert set(answer.json()) == {"error"}
    return dict(answer.json()["error"])


@pytest.mark.parametrize("fault", [panic, padded_draw])
def test_the_server_survives_what_nobody_foresaw(fault: Callable[[Engine], AbstractContextManager[None]]) -> None:
    engine = new_engine()

    async def scenario(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        with fault(engine):
            failed = await client.post(URL, json=body(SENTENCE))
        return failed, await client.post(URL, json=body(SENTENCE))

    failed, following = talk(scenario, engine)  # type: ignore[arg-type]
    assert (failed.status_code, set(failed.json())) == (500, {"error"})
    assert holds_no_text(failed.text)
    assert following.json()["choices"][0]["message"]["content"] == PROGRAM


# --- disagreements


def disagree(engine: Engine, times: int = 1) -> None:
    with disagreement(engine):
        for _ in range(times):
            with pytest.raises(DisagreementError):
                engine(SENTENCE)


def test_disagreements_are_counted_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = new_engine()
    engine(SENTENCE)
    assert engine.disagreements.count == 0
    disagree(engine, 2)
    assert engine.disagreements.count == 2
    assert list(tmp_path.rglob("*")) == []


def test_a_disagreement_is_kept_where_a_folder_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "kept"
    engine = new_engine(keep=folder)
    disagree(engine, 3)
    assert folder.stat().st_mode & 0o777 == 0o700
    (path,) = folder.iterdir()  # the same case is kept once
    case = json.loads(path.read_text(encoding="utf-8"))
    assert case["program"] == PROGRAM
    assert case["token_ids"] == TOKENIZER.encode_plain(PROGRAM)
    assert case["grammar"]["source"] == SPEECH
    assert case["grammar"]["name"] == "speech"
    assert set(case["versions"]) == {"edgedsl", "llguidance", "lark"}
    assert SENTENCE not in path.read_text(encoding="utf-8")


def test_a_case_says_what_lark_said_and_can_be_replayed(tmp_path: Path) -> None:
    grammar = Grammar(SPEECH, name="speech")
    error = Disagreements(tmp_path).add(grammar, 'say "', TOKENIZER.encode_plain('say "'))
    assert error.count == 1
    case = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))
    assert "ends too early" in case["lark"]
    again = Grammar(case["grammar"]["source"])
    assert not again.accepts(case["program"])
    assert TOKENIZER.decode(case["token_ids"]) == case["program"]


def test_the_folder_cannot_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreements, "MAX_FILES", 3)
    kept, grammar = Disagreements(tmp_path), Grammar(SPEECH)
    for number in range(5):
        kept.add(grammar, f'say "{number}', [number])
    assert (kept.count, len(list(tmp_path.iterdir()))) == (5, 3)
    Disagreements(tmp_path).add(grammar, 'say "after a restart', [9])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disagreements.atomic, "write_json", fail)
    engine = new_engine(keep=tmp_path)
    disagree(engine)
    assert engine.disagreements.count == 1
    assert "could not be kept: No space left on device" in caplog.text
    assert holds_no_text(caplog.text)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        Disagreements(tmp_path / "file" / "folder")
    with pytest.raises(ConfigError, match="cannot be made"):
        Disagreements(tmp_path / "file")


def test_the_server_says_how_often_to_those_with_a_key(caplog: pytest.LogCaptureFixture) -> None:
    engine, keyed = new_engine(), {"Authorization": f"Bearer {KEY}"}
    disagree(engine)

    async def scenario(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        with disagreement(engine):
            await client.post(URL, json=body(SENTENCE), headers=keyed)
        headers: list[dict[str, str]] = [{}, keyed, {"Authorization": "Bearer wrong"}]
        return [(await client.get("/health", headers=header)).json() for header in headers]

    answers = talk(scenario, engine, keys=KeyRing([KEY]))  # type: ignore[arg-type]
    assert answers == [{"status": "ready"}, {"status": "ready", "disagreements": 2}, {"status": "ready"}]
    assert "the two grammar engines disagreed, 2 times since the start" in caplog.text
    assert holds_no_text(caplog.text)


def test_without_keys_everybody_may_know() -> None:
    async def scenario(client: httpx.AsyncClient) -> Any:
        return (await client.get("/health")).json()

    assert talk(scenario, new_engine()) == {"status": "ready", "disagreements": 0}  # type: ignore[arg-type]


def test_serve_keeps_them_where_the_project_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from edgedsl.cli import group

    served: list[Engine] = []
    monkeypatch.setattr(Engine, "from_bundle", lambda *_, **__: new_engine())
    monkeypatch.setattr("edgedsl.serving.run.serve", lambda load, *_, **__: served.append(load()))
    project = tmp_path / "project"
    project.mkdir()
    (project / "edgedsl.toml").write_text('[serve]\nkeep_disagreements = "kept"\n', encoding="utf-8")
    assert load_config(project).serve.keep_disagreements == "kept"
    monkeypatch.chdir(tmp_path)
    for arguments in (["--project", str(project)], ["--keep-disagreements", "here"], []):
        result = CliRunner().invoke(group, ["serve", *arguments])
        assert result.exit_code == 0, result.output
        disagree(served[-1])
    assert len(list((project / "kept").iterdir())) == len(list((tmp_path / "here").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"project", "here"}
