"""The driver's end of a worker."""

from __future__ import annotations

from pathlib import Path

from edgedsl.bench.process import JsonProcess, threads

WORKER = Path(__file__).with_name("worker.py")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime-genai sends some otherwise
}


class WorkerProcess(JsonProcess):
    """A worker of one contestant.

    Args:
        python: the interpreter of its environment.
        module: its file in this folder, or anywhere.
        num_threads: for libraries that ask the environment.
        log: what the contestant prints is added to it; None shows it.

    Raises:
        ConfigError: the interpreter cannot be started.
    """

    def __init__(self, python: Path, module: Path, num_threads: int, log: Path | None = None) -> None:
        # -I: neither this folder nor the caller's PYTHONPATH is on the import path.
        super().__init__([str(python), "-I", str(WORKER), str(module)], threads(num_threads) | _OFFLINE, log)
