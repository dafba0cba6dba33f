"""How the server stops, in a process of its own, and what it imports."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import PROGRAM
from serving_client import URL, body

# --- stopping ---


@contextmanager
def child(drain_s: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(drain_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"serves 'fake-model' on (http://127\.0\.0\.1:\d+)/v1 \(execution provider: cpu\)", line)
            assert found, line
            yield process, found[1]
        finally:
            process.kill()


def ask_in_thread(url: str, sentences: list[str]) -> tuple[list[threading.Thread], list[Any]]:
    answers: list[Any] = []

    def ask(sentence: str) -> None:
        try:
            answer = httpx.post(url + URL, json=body(sentence), timeout=30)
            answers.append((answer.status_code, answer.json()))
        except httpx.HTTPError as exc:
            answers.append((0, str(exc)))

    threads = [threading.Thread(target=ask, args=(sentence,)) for sentence in sentences]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    return threads, answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_running_and_queued_requests_finish(number: signal.Signals) -> None:
    with child(30) as (process, url):
        threads, answers = ask_in_thread(url, ["slow 0.15", "slow 0.1"])
        process.send_signal(number)
        time.sleep(0.15)
        assert httpx.get(url + "/health/ready").json()["error"]["code"] == "draining"
        assert httpx.post(url + URL, json=body()).status_code == 503
        for thread in threads:
            thread.join(20)
        assert process.wait(20) == 0
    assert [status for status, _ in answers] == [200, 200]
    assert all(answer["choices"][0]["message"]["content"] == PROGRAM for _, answer in answers)


def test_requests_are_cut_off_after_the_drain() -> None:
    with child(0.2) as (process, url):
        threads, answers = ask_in_thread(url, ["hold", "queued"])
        process.terminate()
        assert process.wait(20) == 0
        for thread in threads:
            thread.join(20)
        assert process.stderr is not None
        assert "2 requests were cut off" in process.stderr.read()
    assert [(status, answer["error"]["code"]) for status, answer in answers] == [(503, "draining")] * 2


def test_second_signal_ends_at_once() -> None:
    with child(1000) as (process, url):
        threads, _ = ask_in_thread(url, ["hold"])
        process.terminate()
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
        for thread in threads:
            thread.join(20)


# --- walls ---


def test_serving_imports_neither_jinja_nor_torch() -> None:
    code = (
        "import sys, edgedsl.serving.run, edgedsl.cli.serve; print([m for m in sys.modules if m.split('.')[0] in %r])"
    )
    names = ("jinja2", "torch", "transformers", "peft", "datasets", "onnx", "onnxruntime")
    done = subprocess.run([sys.executable, "-c", code % (names,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cli_names_the_flag_that_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgedsl", "serve", "nowhere", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no API key" in done.stderr
    assert "Traceback" not in done.stderr
