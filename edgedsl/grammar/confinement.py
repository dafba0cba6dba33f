"""A child process for work on input that nobody vouches for: it can be killed, and it cannot take the machine with it.

The parent sends one JSON object and reads one back. The child sets its own limits before it looks at the input.
Whatever becomes of it (an endless loop, a recursion, an abort in native code), the parent goes on with a GrammarError.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedsl import errors
from edgedsl.errors import EdgeDSLError, GrammarError, first_line

_MAX_ANSWER = 64 << 20  # bytes
_MAX_MESSAGE = 4000  # characters; one may quote what it refuses
# Each thread of a native library reserves address space of its own; on many cores that alone would meet the limit.
_ONE_THREAD = {
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "RUST_BACKTRACE": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
_SIMPLIFY = "shorten long lists, large counts, deep nesting and rules that double each other"
Work = Callable[[dict[str, Any], "Limits"], Any]


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        cpu_s: seconds of CPU.
        more_cpu_s: seconds of CPU that :func:`go_on` adds to them.
        wall_s: seconds on the clock.
        memory_mib: address space.
        text_mib: size of each file that it reads.
    """

    cpu_s: int = 60
    more_cpu_s: int = 0
    wall_s: float = 180
    memory_mib: int = 4096
    text_mib: int = 8


@dataclass(frozen=True)
class Answer:
    """What a child has found out.

    Attributes:
        result: plain data.
        cpu_s: seconds of CPU that it used, its start included.
        peak_mib: memory at its peak; None where the system does not tell.
        unlimited: limits that the system does not have.
    """

    result: Any
    cpu_s: float
    peak_mib: int | None
    unlimited: tuple[str, ...]


def ask(module: str, request: Mapping[str, Any], limits: Limits, doing: str) -> Answer:
    """Let a child work.

    Args:
        module: run with ``python -m``; it has to call :func:`answer`.
        request: plain data for it.
        limits: of the child.
        doing: what it does, for messages: "compiling 'x.lark'".

    Raises:
        GrammarError: it met a limit, or died; which limit and its value are named.
        EdgeDSLError: what the child itself raised.
    """
    message = json.dumps({"limits": asdict(limits), **request}).encode()
    is_late = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: a file of the current folder must not stand in for a library
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **_ONE_THREAD}, start_new_session=True,
    ) as process:  # fmt: skip
        clock = threading.Timer(limits.wall_s, _stop, [process, is_late])
        clock.daemon = True
        clock.start()
        try:
            output = _talk(process, message)
        finally:
            clock.cancel()
            clock.join()
            _kill(process)
    if is_late.is_set():
        raise GrammarError(f"{doing} took more than {limits.wall_s:g} s and was stopped", hint=_SIMPLIFY)
    if len(output) > _MAX_ANSWER:
        raise GrammarError(f"{doing} gave more than {_MAX_ANSWER >> 20} MiB", hint=_SIMPLIFY)
    return _read(output.decode(errors="replace"), process.returncode, limits, doing)


def answer(work: Work) -> None:
    """The child's part: read the request, set the limits, work, print the answer.

    Args:
        work: gets request and limits and gives plain data.
    """
    request = json.loads(sys.stdin.buffer.read())
    limits = Limits(**request.pop("limits"))
    unlimited = _confine(limits)
    try:
        reply = {"result": work(request, limits)}
    except EdgeDSLError as exc:
        reply = {"error": [type(exc).__name__, exc.message[:_MAX_MESSAGE], exc.hint]}
    except MemoryError:
        reply = {"limit": "memory"}
    except RecursionError:
        reply = {"limit": "depth"}
    except BaseException as exc:  # a panic in Rust is no Exception
        reply = {"crash": f"{type(exc).__name__}: {first_line(exc)}"}
    reply |= {"cpu_s": round(time.process_time(), 2), "peak_mib": _peak_mib(), "unlimited": unlimited}
    print(f"\n{json.dumps(reply)}", flush=True)


def go_on(limits: Limits) -> None:
    """In the child: the grammar is compiled, and ``more_cpu_s`` are there for the rest."""
    _limit("RLIMIT_CPU", limits.cpu_s + limits.more_cpu_s)


def check_size(path: Path | None, limits: Limits) -> None:
    """Refuse a file that is too large to be read.

    Raises:
        GrammarError: its size and the limit are named.
    """
    size = path.stat().st_size if path and path.exists() else 0
    if size > limits.text_mib << 20:
        raise GrammarError(f"'{path}' has {size} bytes, expected at most {limits.text_mib} MiB", hint=_SIMPLIFY)


def _talk(process: subprocess.Popen[bytes], message: bytes) -> bytes:
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(message)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died; its output and its exit code say why
    return process.stdout.read(_MAX_ANSWER + 1)


def _stop(process: subprocess.Popen[bytes], is_late: threading.Event) -> None:
    is_late.set()
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child with all that it started. Nobody has waited for it yet, so its number is still its own."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass


def _read(output: str, exit_code: int, limits: Limits, doing: str) -> Answer:
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    try:
        reply = json.loads(last)
        facts = (float(reply["cpu_s"]), reply["peak_mib"], tuple(reply["unlimited"]))
    except (ValueError, TypeError, KeyError):
        raise _death(output, exit_code, limits, doing) from None
    if "result" in reply:
        return Answer(reply["result"], *facts)
    if "error" in reply:
        name, message, hint = reply["error"]
        raise getattr(errors, name)(message, hint=hint)
    if reply.get("limit") == "memory":
        raise _too_much_memory(limits, doing)
    if reply.get("limit") == "depth":
        raise GrammarError(f"{doing} failed: it is nested more than {sys.getrecursionlimit()} deep", hint=_SIMPLIFY)
    raise GrammarError(f"{doing} failed: {reply['crash']}", hint="please report this with the file that caused it")


def _death(output: str, exit_code: int, limits: Limits, doing: str) -> GrammarError:
    """Why there is no answer. The messages are those of Python and of Rust's allocator."""
    if "MemoryError" in output or "memory allocation of" in output:
        return _too_much_memory(limits, doing)
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        if name == "SIGXCPU":
            more = f", and {limits.more_cpu_s} s more after that" if limits.more_cpu_s else ""
            return GrammarError(f"{doing} took more than {limits.cpu_s} s of CPU{more}; it was stopped", hint=_SIMPLIFY)
        why = ", as a system does that runs short of memory" if name == "SIGKILL" else ""
        return GrammarError(f"{doing} ended its process with {name}{why}", hint=_SIMPLIFY)
    last = (output.strip().splitlines() or [""])[-1][:200]
    return GrammarError(f"{doing} ended its process with exit code {exit_code}: {last}", hint=_SIMPLIFY)


def _too_much_memory(limits: Limits, doing: str) -> GrammarError:
    return GrammarError(f"{doing} needs more than {limits.memory_mib} MiB of memory", hint=_SIMPLIFY)


def _confine(limits: Limits) -> list[str]:
    """Set the limits of this process; those that the system does not have are named."""
    wanted = {
        "memory": ("RLIMIT_AS", limits.memory_mib << 20, 0),
        "CPU": ("RLIMIT_CPU", limits.cpu_s, limits.more_cpu_s + 1),  # the hard limit kills without a word
        "files": ("RLIMIT_FSIZE", 0, 0),
        "core": ("RLIMIT_CORE", 0, 0),
    }
    _offer_to_the_oom_killer()
    return [name for name, (kind, value, spare) in wanted.items() if not _limit(kind, value, spare)]


def _limit(kind: str, value: int, spare: int | None = None) -> bool:
    """Lower a soft limit, and the hard one to ``spare`` above it; False where that cannot be done."""
    try:
        import resource

        number = getattr(resource, kind)
        hard = resource.getrlimit(number)[1]
        hard = value + (spare or 0) if hard == resource.RLIM_INFINITY else hard
        if spare is not None:
            hard = min(hard, value + spare)
        resource.setrlimit(number, (min(value, hard), hard))
    except (ImportError, AttributeError, ValueError, OSError):
        return False
    return True


def _offer_to_the_oom_killer() -> None:
    """Where memory is short before the limit is met, Linux shall end this process and no other."""
    path = Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000")


def _peak_mib() -> int | None:
    """Not ``ru_maxrss``: a child inherits that of its parent."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), None)
