"""A process that is asked in lines of JSON and killed where it takes too long."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from edgedsl.errors import ConfigError, GenerationError

Message = dict[str, Any]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_END_TIMEOUT_S = 5.0


def threads(num_threads: int) -> dict[str, str]:
    """Environment in which libraries compute with this many threads, and tokenizers with one."""
    return dict.fromkeys(_THREADS, str(num_threads)) | {"TOKENIZERS_PARALLELISM": "false"}


class JsonProcess:
    """The parent's end of a process that answers each line of JSON on stdin with one on stdout.

    Args:
        command: an interpreter and what it runs.
        environment: added to this process's own.
        log: what the process prints to stderr is added to it; None shows it.

    Raises:
        ConfigError: the interpreter cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> None:
        self._process = _started(command, {**os.environ, **environment}, log)
        self._lines: Queue[str] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, request: Message, timeout_s: float) -> Message:
        """The answer to a request.

        Raises:
            GenerationError: the answer is ``{"error": "..."}``, or the process ended or took too long; after the last
                two it is gone.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout_s)
        except Empty as exc:
            self.close()
            raise GenerationError(f"no answer in {timeout_s:g} s") from exc
        except OSError:  # nobody reads any more
            line = ""
        if not line:
            exit_code = self._process.wait()
            self.close()
            raise GenerationError(f"the process ended with {exit_code}")
        answer: Message = json.loads(line)
        if "error" in answer:
            raise GenerationError(answer["error"])
        return answer

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join(_END_TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a request that was not written any more
                if stream is not None:
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def _started(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    with log.open("ab") if log else contextlib.nullcontext() as file:
        try:
            return subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=file, text=True, encoding="utf-8", env=environment
            )
        except OSError as exc:
            raise ConfigError(f"interpreter '{command[0]}' cannot be started: {exc.strerror}") from exc
