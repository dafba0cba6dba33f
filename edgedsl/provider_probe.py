"""Which execution providers of ONNX Runtime really run, found by running one node on each.

``onnxruntime.get_available_providers()`` only says what the wheel was built with, and a session falls back to the CPU
without an error (onnxruntime issues 21424, 23372). Each provider is tried in a process of its own: a missing
instruction or a broken driver can end that process, but not the caller.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgedsl.errors import ProviderError

# What the engine can use; other providers of a wheel are named and left alone.
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Probe:
    """What came of one provider. ``reason`` is ONNX Runtime's own first line when it does not work."""

    provider: str
    works: bool
    reason: str = ""


def probe(provider: str) -> Probe:
    """Run one node on ``provider`` in a child process."""
    try:
        done = _child("-m", __name__, provider)
    except subprocess.TimeoutExpired:
        return Probe(provider, works=False, reason=f"no answer within {TIMEOUT_S} s")
    try:
        answer = Probe(**json.loads(done.stdout.splitlines()[-1]))
        # The exception says that the provider is absent; which library it lacks is only in the log.
        missing = re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object", done.stderr)
        return (
            answer
            if answer.works or not missing
            else replace(answer, reason=f"{missing[1]} is missing; {answer.reason}")
        )
    except (IndexError, ValueError, TypeError):
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = done.stderr.strip().splitlines()[-1:] or [""]
        return Probe(provider, works=False, reason=f"the test process ended with {ended} {last[0][:200]}".strip())


def check_runs(execution_provider: str) -> None:
    """Raise where an execution provider does not run one node.

    Args:
        execution_provider: cpu or cuda.

    Raises:
        ProviderError: with ONNX Runtime's reason.
    """
    provider = dict(zip(("cpu", "cuda"), PROVIDERS, strict=True))[execution_provider]
    found = probe(provider)
    if not found.works:
        raise ProviderError(
            f"execution provider '{execution_provider}' does not run here: {found.reason}", hint="run 'edgedsl doctor'"
        )


def available() -> tuple[str, ...]:
    """What the installed wheel was built with; empty without ONNX Runtime.

    Asked in a child process, since importing it here would be for good.
    """
    try:
        done = _child("-c", "import onnxruntime; print(*onnxruntime.get_available_providers())")
    except subprocess.TimeoutExpired:
        return ()
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


def one_node_model() -> bytes:
    """An ONNX model that adds a float tensor [2] to itself, encoded by hand: the run wing has no onnx package.

    Field numbers are those of onnx.proto (ModelProto, GraphProto, NodeProto, ValueInfoProto).
    """
    dimension = _field(1, 2)  # dim_value = 2
    tensor_type = _field(1, 1) + _field(2, _field(1, dimension))  # elem_type = FLOAT, shape
    kind = _field(2, _field(1, tensor_type))  # type.tensor_type
    node = _field(1, "x") + _field(1, "x") + _field(2, "y") + _field(3, "add") + _field(4, "Add")
    graph = _field(1, node) + _field(2, "probe") + _field(11, _field(1, "x") + kind) + _field(12, _field(1, "y") + kind)
    opset = _field(1, "") + _field(2, 17)
    return _field(1, 8) + _field(7, graph) + _field(8, opset)  # ir_version = 8


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-P", *arguments]  # -P: a file of the current folder must not stand in for a library
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _run(provider: str) -> Probe:
    """The child's part."""
    try:
        import numpy as np
        import onnxruntime as ort

        if provider == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        if provider not in ort.get_available_providers():
            return Probe(provider, works=False, reason="this build of ONNX Runtime does not have it")
        session = ort.InferenceSession(one_node_model(), _options(ort, provider), providers=[provider])
        if session.get_providers()[0] != provider:
            return Probe(provider, works=False, reason=f"ONNX Runtime fell back to {session.get_providers()[0]}")
        result = session.run(None, {"x": np.array([1, 2], np.float32)})[0]
        return Probe(
            provider,
            works=result.tolist() == [2, 4],
            reason="" if result.tolist() == [2, 4] else f"1 + 1 gave {result[0]}",
        )
    except Exception as exc:  # ONNX Runtime and its loader raise many classes; whatever it is, it is the answer
        return Probe(provider, works=False, reason=(str(exc).splitlines() or [type(exc).__name__])[0][:300])


def _options(ort: Any, provider: str) -> Any:
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


if __name__ == "__main__":
    print(json.dumps(asdict(_run(sys.argv[1]))))
