"""Threads and spinning, chosen once per bundle and machine."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import edgedsl
from edgedsl import machine
from edgedsl.bundle.schema import FileEntry
from edgedsl.runtime import calibration
from edgedsl.runtime.calibration import Calibration, open_calibrated, settings_to_try
from edgedsl.runtime.call_costs import SIZES, CallCosts
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.providers import ThreadSettings

if TYPE_CHECKING:
    from tiny_export import TinyOnnx

SPINNING, WAITING = ThreadSettings(2, is_spinning=True), ThreadSettings(2, is_spinning=False)


def manifest(sha256: str) -> Any:
    return SimpleNamespace(files={"model.onnx": FileEntry(sha256, 1), "tokenizer.json": FileEntry("0", 1)})


class Opener:
    """Opens stand-ins whose calls cost what is said of their settings, and remembers them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms: dict[ThreadSettings, float]) -> None:
        self.opened: list[ThreadSettings] = []
        self.ms = ms
        monkeypatch.setattr(calibration, "measure", lambda found: CallCosts((ms[found.threads],) * len(SIZES)))
        monkeypatch.setattr(calibration, "settings_to_try", lambda *_: list(ms))
        monkeypatch.setattr(calibration, "_is_busy", lambda: False)

    def __call__(self, threads: ThreadSettings) -> Any:
        self.opened.append(threads)
        return SimpleNamespace(threads=threads)

    def load(self, cache: Path, sha256: str = "a", num_threads: int = 0) -> tuple[ThreadSettings, CallCosts]:
        decoder, costs = open_calibrated(self, manifest(sha256), "cpu", num_threads, cache)
        return decoder.threads, costs


@pytest.mark.parametrize(
    ("ms", "best"),
    [
        ({SPINNING: 1.0, WAITING: 2.0, ThreadSettings(1, is_spinning=False): 3.0}, SPINNING),
        ({SPINNING: 2.0, WAITING: 1.0}, WAITING),
        ({SPINNING: 1.02, WAITING: 1.0}, SPINNING),  # so little is noise
    ],
)
def test_the_quickest_settings_are_taken(
    ms: dict[ThreadSettings, float], best: ThreadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener(monkeypatch, ms)
    threads, costs = opener.load(tmp_path)
    assert threads == best
    assert costs.ms[0] == ms[best]
    assert opener.opened == [*ms] + [best] * (best != list(ms)[-1])


def test_on_a_busy_machine_nothing_is_chosen_until_it_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opener = Opener(monkeypatch, {SPINNING: 2.0, WAITING: 1.0})
    monkeypatch.setattr(calibration, "_is_busy", lambda: True)
    caplog.set_level(logging.INFO)
    threads, costs = opener.load(tmp_path)
    assert threads == SPINNING
    assert costs.ms[0] == 2.0
    assert opener.opened == [SPINNING]
    assert "busy" in caplog.text
    opener.ms[SPINNING] = 3.0
    assert opener.load(tmp_path) == (SPINNING, CallCosts((2.0,) * len(SIZES)))  # not measured again while it is busy
    monkeypatch.setattr(calibration, "_is_busy", lambda: False)
    assert opener.load(tmp_path)[0] == WAITING
    monkeypatch.setattr(calibration, "_is_busy", lambda: True)
    assert opener.load(tmp_path)[0] == WAITING


def test_a_bundle_is_calibrated_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener(monkeypatch, {SPINNING: 1.0, WAITING: 2.0})
    first = opener.load(tmp_path)
    opener.opened.clear()
    assert opener.load(tmp_path) == first
    assert opener.opened == [SPINNING]
    for others in ({"sha256": "b"}, {"num_threads": 2}):
        opener.opened.clear()
        opener.load(tmp_path, **others)  # type: ignore[arg-type]
        assert len(opener.opened) == 3
    monkeypatch.setattr(machine, "cpu_model", lambda: "another")
    opener.opened.clear()
    opener.load(tmp_path)
    assert len(opener.opened) == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"num_threads": 0, "is_spinning": true, "ms": [1, 1, 1, 1, 1, 1, 1], "is_provisional": false}',
        '{"num_threads": 1, "is_spinning": 1, "ms": [1, 1, 1, 1, 1, 1, 1], "is_provisional": false}',
        '{"num_threads": 1, "is_spinning": true, "ms": [7, 6, 5, 4, 3, 2, 1], "is_provisional": false}',
        '{"num_threads": 1, "is_spinning": true, "ms": [1, 1, 1, 1, 1, 1, 1], "is_provisional": 0}',
        '{"num_threads": 1, "is_spinning": true, "ms": ["a"], "is_provisional": false}',
        '{"num_threads": 1, "is_spinning": true, "ms": [NaN, 1, 1, 1, 1, 1, 1], "is_provisional": false}',
    ],
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    opener = Opener(monkeypatch, {WAITING: 1.0})
    opener.load(tmp_path)
    (path,) = (tmp_path / "calibration").iterdir()
    path.write_text(content, encoding="utf-8")
    _, costs = opener.load(tmp_path)
    assert Calibration.from_json(path.read_text(encoding="utf-8")) == Calibration(WAITING, costs)


def test_a_cache_that_cannot_be_written_to_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "calibration").write_text("a file, no folder", encoding="utf-8")
    threads, _ = Opener(monkeypatch, {WAITING: 1.0}).load(tmp_path)
    assert threads == WAITING
    assert "could not be kept" in caplog.text


def test_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"logical": 16, "physical": 8, "usable": 16, "cgroup_limit": 3.5}
    monkeypatch.setattr(machine, "cores", lambda: facts)
    monkeypatch.setattr(calibration, "available_cores", lambda: 16)
    tried = settings_to_try("cpu", 0)
    assert [t.num_threads for t in tried] == [16, 16, 8, 8, 3, 3]
    assert {t.is_spinning for t in tried} == {True, False}
    assert settings_to_try("cpu", 4) == [ThreadSettings(4, True), ThreadSettings(4, False)]
    assert settings_to_try("cpu", 1) == [ThreadSettings(1, False)]
    assert settings_to_try("cuda", 0) == [ThreadSettings(16, True)]


def test_a_real_model_is_measured_and_opened(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    shared = tiny_onnx.shared()

    def opened(threads: ThreadSettings) -> Decoder:
        path = Path(shared.session._model_path)
        return Decoder(path, shared.info, num_threads=threads.num_threads, is_spinning=threads.is_spinning)

    decoder, costs = open_calibrated(opened, manifest("a"), "cpu", 2, tmp_path)
    assert decoder.session.get_session_options().intra_op_num_threads == 2
    assert list(costs.ms) == sorted(costs.ms)
    assert costs.ms[0] > 0
    assert decoder.length == 0


def test_an_engine_says_how_it_uses_threads(tiny_bundle: Path) -> None:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    assert engine.decoder.threads == ThreadSettings(1, is_spinning=False)
    options = engine.decoder.session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
