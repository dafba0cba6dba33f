"""How a bundle runs best on this machine: threads, spinning and what a model call then costs.

Measured at the first load, a few seconds, and kept with the machine's fingerprint. On a machine that others use at that
time the measurement says little: then all cores are taken, and the next load measures anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgedsl import atomic, machine
from edgedsl.bundle.manifest import Bundle, Manifest
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.call_costs import SIZES, CallCosts, measure
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.prefix import open_prefix
from edgedsl.runtime.providers import ThreadSettings, available_cores
from edgedsl.tokenizer import Tokenizer
from edgedsl.user_cache import default_cache

# What another setting than all cores, spinning, must gain: less is noise.
_MIN_GAIN = 1.05
_BUSY = 0.5  # processes per core that want to run
_log = logging.getLogger(__name__)
Open = Callable[[ThreadSettings], Decoder]


@dataclass(frozen=True)
class Calibration:
    """The settings that were quickest, and the costs of a call with them."""

    threads: ThreadSettings
    costs: CallCosts

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self.threads), "ms": self.costs.ms})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: anything else.
        """
        found = json.loads(text)
        try:
            num_threads, is_spinning, ms = found["num_threads"], found["is_spinning"], tuple(map(float, found["ms"]))
        except (KeyError, TypeError) as exc:
            raise ValueError("not a calibration") from exc
        if type(num_threads) is not int or type(is_spinning) is not bool or num_threads < 1:
            raise ValueError("not the settings of threads")
        if len(ms) != len(SIZES) or not ms[0] > 0 or list(ms) != sorted(ms):
            raise ValueError("not the costs of calls")
        return cls(ThreadSettings(num_threads, is_spinning), CallCosts(ms))


def open_decoder(
    bundle: Bundle,
    tokenizer: Tokenizer,
    template: PromptTemplate,
    execution_provider: str,
    num_threads: int,
    captures_graphs: bool = True,
) -> tuple[Decoder, CallCosts | None]:
    """A bundle's decoder, calibrated, and the costs of its calls; a cache that grows cannot be measured.

    Args:
        bundle: opened.
        tokenizer: of the bundle.
        template: of the bundle.
        execution_provider: cpu or cuda.
        num_threads: of a model call; 0 leaves the choice to the calibration.
        captures_graphs: see :class:`~edgedsl.runtime.decoder.Decoder`.

    Raises:
        BundleError: the model or its prefix cannot be loaded.
        ProviderError: the execution provider cannot run here.
    """
    manifest = bundle.manifest
    prefix = open_prefix(bundle, tokenizer, template)

    def opened(threads: ThreadSettings) -> Decoder:
        return Decoder(
            bundle.path / "model.onnx",
            manifest.model,
            execution_provider=execution_provider,
            num_threads=threads.num_threads,
            is_spinning=threads.is_spinning,
            prefix=prefix,
            captures_graphs=captures_graphs,
        )

    if manifest.model.kv_layout != "shared":
        return opened(ThreadSettings(num_threads)), None
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
    path = (cache or default_cache()) / "calibration" / f"{_key(manifest, execution_provider, num_threads)}.json"
    try:
        kept = Calibration.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None  # none yet, or damaged: measured anew
    if kept:
        return open_decoder(kept.threads), kept.costs
    settings = settings_to_try(execution_provider, num_threads)
    if _is_busy():
        _log.info("the machine is busy: threads are chosen at a later load")
        decoder = open_decoder(settings[0])
        return decoder, measure(decoder)
    decoder, found = _calibrate(open_decoder, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, found.to_json())
    except OSError as exc:
        _log.warning("the calibration of this machine could not be kept: %s", exc.strerror)
    return decoder, found.costs


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


def _key(manifest: Manifest, execution_provider: str, num_threads: int) -> str:
    versions = [machine.version(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    models = sorted((name, entry.sha256) for name, entry in manifest.files.items() if name.startswith("model.onnx"))
    facts = [models, machine.cpu_model(), machine.cores(), versions, execution_provider, num_threads]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
