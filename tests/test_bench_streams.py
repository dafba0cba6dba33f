"""The measurement of several requests at a time, on the tiny bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_export import needs_optimum

from edgedsl.bench import streams as bench
from edgedsl.bench.peers.worker import Clock
from edgedsl.bench.prompts import Prompt
from edgedsl.bench.streams import ONE, WAYS, Round, Way, main, rows
from edgedsl.bench.table import read_result, render
from edgedsl.bench.together import answer_together
from edgedsl.config import Config, override
from edgedsl.errors import DataError, GenerationError, RequestError
from edgedsl.exporters.pipeline import export
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion, Timings
from edgedsl.runtime.slots import Slots
from edgedsl.runtime.streams import Stream, Streams

Step = Callable[[Slots, Mapping[int, int]], Any]
PARAMS = SamplingParams(max_tokens=12)
SENTENCES = ["set the kitchen to 20", "switch the hall off", "kitchen off", "café at 100"]


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.from_bundle(tiny_bundle, num_threads=1, num_slots=3)


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the calls that streams share."""
    found: list[int] = []
    step: Step = Slots.step
    monkeypatch.setattr(Slots, "step", lambda self, tokens: found.append(len(tokens)) or step(self, tokens))
    return found


class Events:
    """A clock that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def start(self, index: int) -> None:
        self.told.append(("start", index))

    def token(self, index: int) -> None:
        self.told.append(("token", index))

    def end(self, index: int) -> None:
        self.told.append(("end", index))


def test_command_writes_a_row_for_each_way(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "streams-tiny_box_202611.json"
    arguments = [str(tiny_bundle), "--streams", "3", "--streams", "2", "--num-sentences", "9", "--rounds", "2"]
    assert main([*arguments, "--max-tokens", "12", "--num-threads", "1", "--output", str(output)]) == 0
    record = read_result(output)
    assert json.loads(capsys.readouterr().out) == record["rows"]
    found = [(row["way"], row["streams"]) for row in record["rows"]]
    assert found == [(ONE, 1), *((way, num) for num in (2, 3) for way in WAYS)]
    num = len(json.loads((tiny_bundle / "eval" / "dev.json").read_text(encoding="utf-8")))
    for row in record["rows"]:
        assert (row["answers"], row["errors"]) == (2 * num, 0)
        assert 0 < row["ttft_ms_p50"] < row["e2el_ms_p50"]
        assert row["output_throughput"] > row["answers_per_s"] > 0
        assert row["e2el_ms_p95"] is None, "too few for it"
    differing = {(row["way"], row["streams"]): row["differing_share"] for row in record["rows"]}
    alone = next(iter(WAYS))
    assert [differing[key] for key in ((ONE, 1), (alone, 2), (alone, 3))] == [0.0] * 3
    assert record["rows"][0]["answers_factor"] == 1.0
    assert f"9 sentences were asked for, there are {num}." in record["caveats"]
    assert str(tiny_bundle) not in json.dumps(record["caption"])
    table = render(tmp_path)
    assert f"| {alone} | 3 | {2 * num} | 0 |" in table
    assert "| answers/s, times one at a time |" in table and "| 0.0% |" in table


@pytest.mark.parametrize("token_ms", [0.0, 1e9])  # of drafts: so that the automatic choice is clear
@pytest.mark.parametrize(
    ("name", "together"),
    [("each alone, with drafts", False), ("a token of each together", True), ("automatic", None)],
)
def test_a_way_is_what_it_is_called(
    name: str,
    together: bool | None,
    token_ms: float,
    engine: Engine,
    widths: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine.token_cost, "estimate", lambda _: token_ms)
    (way,) = [item for item in bench.ways(engine, [3]) if item.name == name]
    found = way.answer(SENTENCES, PARAMS)
    assert found.errors == []
    is_together = token_ms > 0 if together is None else together
    assert max(widths, default=0) == (3 if is_together else 0)
    if together:
        calls = sum(one.model_calls for one in found.outcomes if isinstance(one, Completion))
        assert sum(widths) == calls - len(SENTENCES), "all but the prompts, also where one is left"


def test_one_at_a_time_is_the_engine_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Streams, "start", lambda *_, **__: pytest.fail("not to be used"))
    (way, *_) = bench.ways(engine, [2])
    found = way.answer(SENTENCES, PARAMS)
    assert found.texts == [engine.generate(sentence, PARAMS).text for sentence in SENTENCES]
    assert found.answers_per_s == pytest.approx(len(SENTENCES) / found.seconds)


def test_a_stream_asks_as_soon_as_it_has_its_answer(engine: Engine) -> None:
    events = Events()
    budgets = (12, 8, 12, 12)  # the second is whole first
    requests = [(sentence, SamplingParams(max_tokens=n)) for sentence, n in zip(SENTENCES, budgets, strict=True)]
    answer_together(Streams(engine, together=True), requests, 2, events)
    moments = [event for event in events.told if event[0] != "token"]
    assert moments[:4] == [("start", 0), ("start", 1), ("end", 1), ("start", 2)]
    assert sorted(moments[4:]) == [("end", 0), ("end", 2), ("end", 3), ("start", 3)]
    assert moments[4:6] == [("end", 0), ("start", 3)]
    for index in range(len(SENTENCES)):
        own = [what for what, place in events.told if place == index]
        assert own[0] == "start" and own[-1] == "end" and set(own[1:-1]) == {"token"}


def test_a_request_begins_before_its_prompt_is_run_and_ends_when_it_is_handed_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, events = Streams(engine), Events()
    start, step = streams.start, streams.step

    def stepped() -> list[Stream]:
        ended = step()
        events.told.append(("stepped", 0))
        return ended

    monkeypatch.setattr(streams, "start", lambda *args, **kw: events.told.append(("prompt", 0)) or start(*args, **kw))
    monkeypatch.setattr(streams, "step", stepped)
    answer_together(streams, [(SENTENCES[0], PARAMS)], 1, events)
    told = [what for what, _ in events.told]
    assert (told[:3], told[-2:]) == (["start", "prompt", "token"], ["stepped", "end"])


def test_a_refused_sentence_is_an_error_of_its_own(engine: Engine) -> None:
    (way,) = [item for item in bench.ways(engine, [2]) if item.name == "automatic"]
    found = way.answer([SENTENCES[0], " ", SENTENCES[1]], PARAMS)
    assert found.errors == ["the sentence is empty"]
    assert [text is None for text in found.texts] == [False, True, False]
    assert len(found.end_ms) == 2
    assert found.answers_per_s == pytest.approx(2 / found.seconds)
    reference = bench.ways(engine, [2])[0].answer([SENTENCES[0], " ", SENTENCES[1]], PARAMS)
    assert reference.errors == found.errors


def test_a_failure_that_is_none_of_ours_is_raised(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "finish", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        answer_together(Streams(engine), [(SENTENCES[0], PARAMS)], 1, Clock(1))


def made(engine: Engine, name: str, *rounds: tuple[float, list[str | None]]) -> Way:
    """A way with rounds of so many seconds and these texts."""
    way = Way(engine, name, 2)
    for seconds, texts in rounds:
        outcomes = [
            GenerationError("no") if text is None else Completion(text, (1, 2), "stop", 3, 2, Timings(1.0, 1.0, 1.0))
            for text in texts
        ]
        times = [1000.0 * seconds * (n + 1) for n, text in enumerate(texts) if text is not None]
        way.rounds.append(Round([*outcomes], seconds, [time / 2 for time in times], times))
    return way


def test_figures_are_medians_over_rounds_and_ratios_are_of_the_same_round(engine: Engine) -> None:
    prompts = [Prompt("a", "on"), Prompt("b", "off"), Prompt("c", None)]
    one = made(engine, ONE, (3.0, ["on", "off", "x"]), (6.0, ["on", "off", "x"]), (30.0, ["on", "off", "x"]))
    own = made(engine, "own", (1.0, ["on ", "no", "x"]), (3.0, ["on", "off", "x"]), (30.0, ["on", None, "y"]))
    first, second = rows([one, own], prompts)
    assert (first["answers_factor"], first["differing_share"], first["exact_match"]) == (1.0, 0.0, 1.0)
    assert (second["way"], second["streams"], second["answers"], second["errors"]) == ("own", 2, 9, 1)
    assert second["answers_per_s"] == 1.0  # of 3, 1 and 2 / 30
    assert second["output_throughput"] == 2.0
    assert second["answers_factor"] == 2.0  # of 3, 2 and 2 / 3
    assert second["exact_match"] == pytest.approx(4 / 6, abs=1e-6)
    assert second["differing_share"] == pytest.approx(4 / 9, abs=1e-6)
    assert (second["e2el_ms_p50"], second["ttft_ms_p50"]) == (6000.0, 3000.0)


@needs_optimum
def test_a_bundle_that_cannot_take_several(
    project: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edgedsl.exporters.optimum.is_fusable", lambda config: False)
        settings = {"graph": "optimum", "quantize": "none", "eval_rows": 1, "output": "growing"}
        bundle = export(override(project, "export", settings), offline=True)
    capsys.readouterr()
    arguments = [str(bundle), "--num-threads", "1", "--output", str(tmp_path / "r.json")]
    assert main(arguments) == RequestError.exit_code
    told = capsys.readouterr().err
    assert told.count("error:") == 1 and "takes one request at a time" in told
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(("option", "value"), [("--streams", "1"), ("--rounds", "0")])
def test_numbers_that_say_nothing_are_refused(
    option: str, value: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tiny_bundle), option, value, "--output", "r.json"])
    assert caught.value.code == 2
    assert f"'{value}' is not a whole number of at least" in capsys.readouterr().err


def test_a_bundle_without_sentences_is_an_error(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgedsl.bench.prompts.BUNDLED", "eval/none.json")
    assert main([str(tiny_bundle), "--num-threads", "1", "--output", str(tmp_path / "r")]) == DataError.exit_code
    assert "do not exist" in capsys.readouterr().err
