"""Several requests at a time: the queue in front of streams, and the whole server in front of a tiny bundle."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine
from fake_streams import FakeStreams, Panic
from serving_client import KEY, URL, queue_of, server_of, until
from tiny import PAIRS

import edgedsl
from edgedsl.cli.serve import command
from edgedsl.config import ServeSection, load_config
from edgedsl.errors import ConfigError, GenerationError, PromptTooLong, QueueFull, RequestError
from edgedsl.runtime.call_costs import SIZES, CallCosts
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.runtime.slots import Slots
from edgedsl.runtime.streams import Streams
from edgedsl.serving.gate import KeyRing
from edgedsl.serving.queue import EngineQueue, Job
from edgedsl.serving.run import _open_streams, serve
from edgedsl.serving.tenants import prepare

pytestmark = pytest.mark.timeout(60)

Scenario = Callable[[EngineQueue, FakeStreams], Awaitable[None]]


def play(scenario: Scenario, *, num_places: int = 2, max_queue: int = 4) -> FakeStreams:
    streams = FakeStreams(num_places)
    with queue_of(FakeEngine(), max_queue, lambda engine: streams) as queue:
        try:
            asyncio.run(asyncio.wait_for(scenario(queue, streams), 30))
            assert queue.is_alive()
        finally:
            streams.open()
    return streams


def submit(queue: EngineQueue, *sentences: str, is_streamed: bool = False) -> list[Job]:
    return [queue.submit(sentence, SamplingParams(), is_streamed=is_streamed) for sentence in sentences]


async def outcome(job: Job) -> Any:
    while isinstance(event := await job.events.get(), str):
        pass
    return event.text if isinstance(event, Completion) else event


async def outcomes(*jobs: Job) -> list[Any]:
    return [await outcome(job) for job in jobs]


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


# --- the queue ---


def test_requests_run_side_by_side_and_in_the_order_they_came() -> None:
    names = ["a 4", "b 1", "c 3", "d 2", "e 1"]

    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        jobs = submit(queue, *names)
        assert queue.num_jobs == 5
        streams.open()
        assert await outcomes(*jobs) == ["xxxx", "x", "xxx", "xx", "x"]
        assert queue.num_jobs == 0
        assert await outcomes(*submit(queue, "f 1")) == ["x"]

    streams = play(scenario)
    assert streams.started == [*names, "f 1"]
    assert max(map(len, streams.steps)) == 2
    assert [] not in streams.steps  # it rests when nothing is to do


def test_a_place_is_taken_as_soon_as_it_is_free() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        a, b, c = submit(queue, "a 9", "b 2", "c 1")
        streams.allow(3)  # the first may be without b
        assert await outcome(b) == "xx"
        streams.allow(1)
        assert await outcome(c) == "x"
        assert c.queue_ms > 0
        assert queue.num_jobs == 1
        streams.open()
        assert await outcome(a) == "x" * 9

    play(scenario)


def test_text_comes_as_it_is_decoded_where_it_is_asked_for() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        (quiet,), (loud,) = submit(queue, "a 3"), submit(queue, "b 3", is_streamed=True)
        streams.allow(2)
        assert await loud.events.get() == "x"
        assert quiet.events.empty()
        streams.open()
        assert [await loud.events.get() for _ in range(2)] == ["x", "x"]
        assert [(await job.events.get()).text for job in (loud, quiet)] == ["xxx", "xxx"]  # type: ignore[union-attr]

    play(scenario)


@pytest.mark.parametrize(("num_places", "max_queue"), [(1, 0), (1, 2), (3, 0), (3, 2)])
def test_as_many_wait_as_may_beside_those_that_run(num_places: int, max_queue: int) -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        jobs = submit(queue, *["a 2"] * (num_places + max_queue))
        with pytest.raises(QueueFull, match=f"{max_queue} requests wait already"):
            submit(queue, "b 1")
        streams.allow(1)
        await eventually(lambda: len(streams.started) == num_places)
        with pytest.raises(QueueFull):
            submit(queue, "b 1")
        streams.open()
        assert await outcomes(*jobs) == ["xx"] * len(jobs)

    assert "b 1" not in play(scenario, num_places=num_places, max_queue=max_queue).started


def test_a_request_that_can_run_at_once_is_never_refused() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        streams.open()
        (long,) = submit(queue, "a 1000000")
        for _ in range(50):
            assert await outcomes(*submit(queue, "b 1")) == ["x"]
        queue.cancel(long)
        assert await outcome(long) is None

    play(scenario, max_queue=0)


def test_a_running_request_is_cancelled_and_the_others_go_on() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        a, b, c = submit(queue, "a 1000", "b 3", "c 1")
        streams.allow(1)
        await eventually(lambda: streams.started == ["a 1000", "b 3"])
        queue.cancel(a)
        streams.allow(1)
        assert await outcome(a) is None
        streams.open()
        assert await outcomes(b, c) == ["xxx", "x"]

    streams = play(scenario)
    assert len([step for step in streams.steps if "a 1000" in step]) <= 2


def test_a_waiting_request_is_cancelled_without_a_step() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        a, b, c, d = submit(queue, "a 2", "b 2", "c 1", "d 1")
        queue.cancel(c)
        assert await outcome(c) is None
        assert (queue.num_jobs, streams.steps) == (3, [])
        streams.open()
        assert await outcomes(a, b, d) == ["xx", "xx", "x"]

    assert "c 1" not in play(scenario).started


@pytest.mark.parametrize(
    ("bad", "kind"),
    [("fail 1", GenerationError), ("panic 1", Panic), ("long 1", PromptTooLong), ("burst 1", Panic)],
)
def test_a_failure_is_that_of_one_request(bad: str, kind: type[BaseException]) -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        jobs = submit(queue, "a 4", bad, bad, "b 2", bad)
        streams.open()
        found = await outcomes(*jobs)
        assert [found[0], found[3]] == ["xxxx", "xx"]
        assert [type(found[index]) for index in (1, 2, 4)] == [kind] * 3
        assert queue.num_jobs == 0
        assert await outcomes(*submit(queue, "c 1")) == ["x"]

    assert play(scenario).num_free == 2


def test_requests_that_fail_at_once_do_not_hold_up_those_that_run() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        (running, *jobs) = submit(queue, "a 1000000", *["long 1"] * 10)
        streams.open()
        assert [type(found) for found in await outcomes(*jobs)] == [PromptTooLong] * 10
        queue.cancel(running)

    streams = play(scenario, max_queue=20)
    assert max(Counter(streams.started_after).values()) <= 2  # as many as there are places


def test_the_answer_goes_out_when_its_place_is_free() -> None:
    seen: list[int] = []

    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        (job,) = submit(queue, "a 1")
        job.post = lambda event: (seen.append(queue.num_jobs), Job.post(job, event))  # type: ignore[method-assign,assignment]
        streams.open()
        assert await outcome(job) == "x"

    play(scenario)
    assert seen == [0]


def test_draining_lets_those_that_were_taken_finish() -> None:
    async def scenario(queue: EngineQueue, streams: FakeStreams) -> None:
        jobs = submit(queue, "a 2", "b 3", "c 1")
        queue.drain()
        with pytest.raises(QueueFull, match="draining"):
            submit(queue, "d 1")
        streams.open()
        assert await outcomes(*jobs) == ["xx", "xxx", "x"]

    play(scenario)


def test_closing_cancels_what_runs_and_what_waits() -> None:
    streams = FakeStreams(2)
    queue = EngineQueue(FakeEngine, max_queue=4, open_runner=lambda engine: streams)
    queue.start()
    assert queue.loaded.wait(5)

    async def scenario() -> None:
        jobs = submit(queue, "a 1000", "deaf 4", "c 1")
        streams.allow(1)
        await eventually(lambda: len(streams.started) == 2)
        assert not await asyncio.to_thread(queue.close, 0.01)  # inside a step
        streams.open()
        assert await outcomes(*jobs) == [None, "xxxx", None]
        assert await asyncio.to_thread(queue.close, 5)
        with pytest.raises(QueueFull):
            submit(queue, "d 1")

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert queue.num_jobs == 0
    assert not queue.is_alive()
    assert "c 1" not in streams.started


# --- the start ---


def test_a_bundle_that_takes_one_request_at_a_time_stops_the_server() -> None:
    engine = SimpleNamespace(name="old", execution_provider="cpu", decoder=SimpleNamespace(can_truncate=False))
    with pytest.raises(RequestError, match="takes one request at a time"):
        serve(lambda: engine, ServeSection(port=0, streams=2))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", "at least 1"), ("-1", "at least 1"), ('"2"', "int"), ("2.0", "int"), ("true", "int")],
)
def test_a_wrong_number_of_streams_is_refused(tmp_path: Path, value: str, expected: str) -> None:
    (tmp_path / "edgedsl.toml").write_text(f"[serve]\nstreams = {value}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"\[serve\] streams is .*, expected {expected}"):
        load_config(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What ``edgedsl serve`` gives to the engine and to the server."""
    found: dict[str, Any] = {}

    def from_bundle(path: Path, **options: Any) -> SimpleNamespace:
        found["engine"] = options
        return SimpleNamespace(warm_up=lambda: found.update(is_warm=True))

    def start(load: Callable[[], Any], section: ServeSection, **options: Any) -> None:
        load()
        found["section"] = section

    monkeypatch.setattr(Engine, "from_bundle", from_bundle)
    monkeypatch.setattr("edgedsl.serving.run.serve", start)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(("arguments", "number"), [((), 1), (("--streams", "3"), 3)])
def test_the_engine_has_as_many_slots_as_there_are_streams(
    started: dict[str, Any], arguments: tuple[str, ...], number: int
) -> None:
    assert CliRunner().invoke(command, ["bundle", *arguments], catch_exceptions=False).exit_code == 0
    assert (started["section"].streams, started["engine"]["num_slots"]) == (number, number)


def test_a_server_warms_up_before_it_takes_requests(started: dict[str, Any]) -> None:
    CliRunner().invoke(command, ["bundle"], catch_exceptions=False)
    assert started["is_warm"]


def test_the_flags_of_the_runtime_reach_the_engine(started: dict[str, Any]) -> None:
    flags = ["--exact", "--no-cuda-graphs", "--num-threads", "2", "--execution-provider", "cuda"]
    CliRunner().invoke(command, ["bundle", *flags], catch_exceptions=False)
    assert started["engine"] == {
        "exact": True,
        "cuda_graphs": False,
        "num_threads": 2,
        "execution_provider": "cuda",
        "num_slots": 1,
    }


def test_a_wrong_flag_is_refused_before_anything_starts(started: dict[str, Any]) -> None:
    assert isinstance(CliRunner().invoke(command, ["bundle", "--streams", "0"]).exception, ConfigError)
    assert CliRunner().invoke(command, ["bundle", "--streams", "two"]).exit_code == 2
    assert started == {}


def test_help_names_the_flag() -> None:
    assert "--streams INTEGER" in CliRunner().invoke(command, ["--help"]).output


# --- the whole server ---

SENTENCES = [f"{prompt}{extra}" for extra in ("", " please", " and now the hall") for prompt, _ in PAIRS]
FLAT = CallCosts((1.0,) * len(SIZES))  # a call of many tokens costs what one costs, so that requests share calls
KITCHEN_KEY, HALL_KEY = "key-of-the-kitchen-tenant", "key-of-the-hall-tenant"


@pytest.fixture(scope="module")
def alone(tiny_bundle: Path) -> Engine:
    return edgedsl.load(tiny_bundle, num_threads=1)


@pytest.fixture
def several(tiny_bundle: Path) -> Engine:
    engine = Engine.from_bundle(tiny_bundle, num_threads=1, num_slots=3)
    engine.costs = FLAT
    return engine


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each shared call had."""
    found: list[int] = []
    step = Slots.step
    monkeypatch.setattr(Slots, "step", lambda self, token_ids: found.append(len(token_ids)) or step(self, token_ids))
    return found


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No request is started before it is set, so that all are there at a time."""
    found, start = threading.Event(), Streams.start

    def waiting(self: Streams, *arguments: Any, **options: Any) -> Any:
        assert found.wait(20)
        return start(self, *arguments, **options)

    monkeypatch.setattr(Streams, "start", waiting)
    return found


def ask(url: str, sentence: str, key: str = "", **sampling: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": sentence}], **sampling}
    return httpx.post(url + URL, json=body, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    if "event-stream" not in answer.headers["content-type"]:
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


def test_each_answer_is_the_one_that_the_bundle_gives_alone(
    alone: Engine, several: Engine, widths: list[int], gate: threading.Event
) -> None:
    def sampling(number: int) -> dict[str, Any]:
        return {"max_tokens": 8 + number % 7, "temperature": 0.8 * (number % 2), "seed": number}

    with (
        server_of(several, max_queue=64, open_runner=_open_streams) as (url, queue),
        ThreadPoolExecutor(len(SENTENCES) + 1) as clients,
    ):
        answers = [
            clients.submit(ask, url, sentence, stream=number % 3 == 0, **sampling(number))
            for number, sentence in enumerate(SENTENCES)
        ]
        refused = clients.submit(ask, url, "much " * 500)
        until(lambda: queue.num_jobs == len(SENTENCES) + 1)
        gate.set()
        found = [text_of(answer.result()) for answer in answers]
        assert refused.result().json()["error"]["code"] == "context_length_exceeded"
        assert queue.num_jobs == 0
    expected = [str(alone(sentence, **sampling(number))) for number, sentence in enumerate(SENTENCES)]
    assert found == expected
    assert len(set(found)) > 4
    assert 3 in widths


def test_tenants_keep_to_their_parts(
    alone: Engine, several: Engine, widths: list[int], gate: threading.Event, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{KITCHEN_KEY} allow=kitchen\n{HALL_KEY} allow=hall\n", encoding="utf-8")
    keys = KeyRing.from_file(file)
    prepare(several, keys, ())
    work = [(sentence, key) for sentence in SENTENCES[:4] for key in (KEY, KITCHEN_KEY, HALL_KEY)]
    with (
        server_of(several, max_queue=64, open_runner=_open_streams, keys=keys) as (url, queue),
        ThreadPoolExecutor(len(work)) as clients,
    ):
        answers = [clients.submit(ask, url, sentence, key, max_tokens=12) for sentence, key in work]
        until(lambda: queue.num_jobs == len(work))
        gate.set()
        found = [text_of(answer.result()) for answer in answers]
    subsets = dict(zip((KEY, KITCHEN_KEY, HALL_KEY), (tenant.subsets for tenant in keys), strict=True))
    for (sentence, key), text in zip(work, found, strict=True):
        assert text == alone.generate(sentence, SamplingParams(max_tokens=12, subsets=subsets[key])).text
        rooms = {room for room in ("kitchen", "hall", "café") if room in text}
        assert key == KEY or rooms == {"kitchen" if key == KITCHEN_KEY else "hall"}
    assert 3 in widths
