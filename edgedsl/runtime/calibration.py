"""How a bundle runs best on this machine: threads, spinning and what a model call then costs.

Measured at the first load, a few seconds, and kept with the machine's fingerprint. On a machine that others use at that
time the measurement says little: then all cores are taken, and the first load on a quiet machine measures anew.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgedsl import atomic, machine
from edgedsl.bundle.manifest import Bundle, Manifest
from edgedsl.runtime.call_costs import SIZES, CallCosts, measure
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.providers import ThreadSettings, available_cores
from edgedsl.user_cache import default_cache

# What another setting than all cores, spinning, must gain: less is noise.
_MIN_GAIN = 1.05
_BUSY = 0.5  # processes per core that want to run
_log = logging.getLogger(__name__)
Open = Callable[[ThreadSettings], Decoder]


@dataclass(frozen=True)
class Calibration:
    """The settings that were quickest, and the costs of a call with them.

    Attributes:
        is_provisional: measured on a busy machine, with the usual settings only.
    """

    threads: ThreadSettings
    costs: CallCosts
    is_provisional: bool = False

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self.threads), "ms": self.costs.ms, "is_provisional": self.is_provisional})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: anything else.
        """
        found = json.loads(text)
        try:
            num_threads, is_spinning, ms = found["num_threads"], found["is_spinning"], tuple(map(float, found["ms"]))
            is_provisional = found["is_provisional"]
        except (KeyError, TypeError) as exc:
            raise ValueError("not a calibration") from exc
        if {type(is_spinning), type(is_provisional)} != {bool} or type(num_threads) is not int or num_threads < 1:
            raise ValueError("not the settings of threads")
        if len(ms) != len(SIZES) or not ms[0] > 0 or list(ms) != sorted(ms):
            raise ValueError("not the costs of calls")
        return cls(ThreadSettings(num_threads, is_spinning), CallCosts(ms), is_provisional)


def kept_calibration(manifest: Manifest, execution_provider: str, num_threads: int) -> Calibration | None:
    """That of an earlier load; None where it is time to measure."""
    return _kept(_path(default_cache(), manifest, execution_provider, num_threads))


def open_decoder(
    bundle: Bundle,
    kept: Calibration | None,
    execution_provider: str,
    num_threads: int,
    captures_graphs: bool = True,
    num_slots: int = 1,
) -> tuple[Decoder, CallCosts | None]:
    """A bundle's decoder, calibrated, and the costs of its calls; a cache that grows cannot be measured.

    Args:
        bundle: opened.
        kept: see :func:`kept_calibration`; without one, calls are measured.
        execution_provider: cpu or cuda.
        num_threads: of a model call; 0 leaves the choice to the calibration.
        captures_graphs: see :class:`~edgedsl.runtime.decoder.Decoder`.
        num_slots: likewise.

    Raises:
        BundleError: the model cannot be loaded.
        ProviderError: the execution provider cannot run here.
    """
    manifest = bundle.manifest

    def opened(threads: ThreadSettings) -> Decoder:
        return Decoder(
            bundle.path / "model.onnx",
            manifest.model,
            execution_provider=execution_provider,
            num_threads=threads.num_threads,
            is_spinning=threads.is_spinning,
            captures_graphs=captures_graphs,
            num_slots=num_slots,
        )

    if manifest.model.kv_layout != "shared":
        return opened(ThreadSettings(num_threads)), None
    if kept:
        return opened(kept.threads), kept.costs
    return open_calibrated(opened, manifest, execution_provider, num_threads)


def open_calibrated(
    open_decoder: Open, manifest: Manifest, execution_provider: str, num_threads: int, cache: Path | None = None
) -> tuple[Decoder, CallCosts]:
    """A decoder with the settings that were quickest here, found at an earlier load of the bundle or now.

    Args:
        open_decoder: opens the bundle's model with some settings; its cache must be one that can be truncated.
        manifest: of the bundle.
        execution_provider: cpu or cuda.
        num_threads: of a model call; 0 leaves the choice to the measurement.
        cache: folder; None for the user's. One that cannot be written to costs a measurement at each load.
    """
    path = _path(cache or default_cache(), manifest, execution_provider, num_threads)
    if kept := _kept(path):
        return open_decoder(kept.threads), kept.costs
    settings, is_busy = settings_to_try(execution_provider, num_threads), _is_busy()
    if is_busy:
        _log.info("the machine is busy: threads are chosen at a later load")
    decoder, found = _calibrate(open_decoder, settings[:1] if is_busy else settings)
    found = replace(found, is_provisional=is_busy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, found.to_json())
    except OSError as exc:
        _log.warning("the calibration of this machine could not be kept: %s", exc.strerror)
    return decoder, found.costs


def _kept(path: Path) -> Calibration | None:
    """None where there is none yet, or a damaged one, or where a better one can be had now."""
    try:
        kept = Calibration.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if kept.is_provisional and not _is_busy() else kept


def settings_to_try(execution_provider: str, num_threads: int) -> list[ThreadSettings]:
    """Settings of threads that may be the quickest here, the usual ones first.

    On a GPU threads do little. Hyper-threads share what the kernels need, a container may have less time than cores,
    and memory is soon read as fast as it goes: so fewer threads than cores are tried too.
    """
    cores = machine.cores()
    usable = available_cores()
    counts = {usable, min(usable, cores["physical"] or usable), -(-usable // 2)}
    if limit := cores["cgroup_limit"]:
        counts.add(min(usable, max(1, math.floor(limit))))
    if num_threads or execution_provider != "cpu":
        counts = {num_threads or usable}
    spinning = (True, False) if execution_provider == "cpu" else (True,)
    # One thread has nobody to wait for.
    return [ThreadSettings(n, s) for n in sorted(counts, reverse=True) for s in (spinning if n > 1 else (False,))]


def _calibrate(open_decoder: Open, settings: list[ThreadSettings]) -> tuple[Decoder, Calibration]:
    """Sessions are opened one after the other: two at a time would need the memory of two."""
    found: list[Calibration] = []
    decoder: Decoder | None = None
    for threads in settings:
        decoder = None
        gc.collect()  # a decoder of a graph for a GPU is a cycle
        decoder = open_decoder(threads)
        found.append(Calibration(threads, measure(decoder)))
    best = min(found, key=_total)
    if _total(best) * _MIN_GAIN > _total(found[0]):
        best = found[0]
    if decoder is None or best is not found[-1]:
        decoder = None
        decoder = open_decoder(best.threads)
    return decoder, best


def _total(calibration: Calibration) -> float:
    return sum(calibration.costs.ms)


def _is_busy() -> bool:
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > _BUSY * available_cores()


def _path(cache: Path, manifest: Manifest, execution_provider: str, num_threads: int) -> Path:
    versions = [machine.version(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    models = sorted((name, entry.sha256) for name, entry in manifest.files.items() if name.startswith("model.onnx"))
    facts = [models, machine.cpu_model(), machine.cores(), versions, execution_provider, num_threads]
    return cache / "calibration" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"
