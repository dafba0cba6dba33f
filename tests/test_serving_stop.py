"""How the server stops, in a process of its own, and what it imports."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import PROGRAM
from interpreter import python
from serving_client import URL, body

# --- stopping ---


class Child:
    """A server process around a fake engine."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.answers: list[tuple[int, Any]] = []
        self._threads: list[threading.Thread] = []
        line = self.read()
        found = re.search(r"serves 'fake-model' on (http://127\.0\.0\.1:\d+)/v1 \(execution provider: cpu\)", line)
        assert found, line
        self.url = found[1]

    def read(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def hold(self, number: int) -> None:
        """Send requests that do not end by themselves; returns when all are taken."""
        for _ in range(number):
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()
        for _ in range(number):
            assert self.read() == "taken: hold\n"

    def wait(self) -> int:
        code = self.process.wait(30)
        for thread in self._threads:
            thread.join(30)
        return code

    def _ask(self) -> None:
        try:
            answer = httpx.post(self.url + URL, json=body("hold"), timeout=60)
            self.answers.append((answer.status_code, answer.json()))
        except httpx.HTTPError as exc:
            self.answers.append((0, str(exc)))


@contextmanager
def child(drain_s: float) -> Iterator[Child]:
    command = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(drain_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_running_and_queued_requests_finish(number: signal.Signals) -> None:
    with child(60) as server:
        server.hold(2)
        server.process.send_signal(number)
        assert server.read() == "stopping: 2 requests get 60 s to finish\n"
        assert httpx.get(server.url + "/health/ready").json()["error"]["code"] == "draining"
        assert httpx.post(server.url + URL, json=body()).status_code == 503
        server.process.send_signal(signal.SIGUSR1)
        assert server.wait() == 0
    assert [status for status, _ in server.answers] == [200, 200]
    assert all(answer["choices"][0]["message"]["content"] == PROGRAM for _, answer in server.answers)


def test_idle_server_stops_at_once() -> None:
    with child(1000) as server:
        server.process.terminate()
        assert server.wait() == 0
        assert server.read() == ""


def test_requests_are_cut_off_after_the_drain() -> None:
    with child(0.2) as server:
        server.hold(2)
        server.process.terminate()
        assert server.wait() == 0
        assert [server.read(), server.read()][1] == "stopping: 2 requests were cut off\n"
    assert [(status, answer["error"]["code"]) for status, answer in server.answers] == [(503, "draining")] * 2


def test_second_signal_ends_at_once() -> None:
    with child(1000) as server:
        server.hold(1)
        server.process.terminate()
        assert server.read().startswith("stopping: 1 requests")
        server.process.terminate()
        assert server.wait() == 128 + signal.SIGTERM
    assert server.answers[0][0] == 0


# --- walls ---


def test_serving_imports_neither_jinja_nor_torch() -> None:
    code = (
        "import sys, edgedsl.serving.run, edgedsl.cli.serve; print([m for m in sys.modules if m.split('.')[0] in %r])"
    )
    names = ("jinja2", "torch", "transformers", "peft", "datasets", "onnx", "onnxruntime")
    assert python("-c", code % (names,)).stdout.strip() == "[]"


def test_cli_names_the_flag_that_is_wrong() -> None:
    done = python("-m", "edgedsl", "serve", "nowhere", "--host", "0.0.0.0", "--port", "0", check=False)
    assert done.returncode == 2
    assert "no API key" in done.stderr
    assert "Traceback" not in done.stderr
