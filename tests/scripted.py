"""An engine on a decoder that spells programs from a list, and a bundle around it. No model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from test_bundle import MODEL
from tiny import CATALOGUE, GRAMMAR, tiny_template, tiny_tokenizer

from edgedsl.catalogue import Catalogue, bind
from edgedsl.grammar import Grammar
from edgedsl.runtime.engine import Engine


def tiny_grammar() -> Grammar:
    catalogue = Catalogue.from_lists(CATALOGUE)
    return Grammar(bind(GRAMMAR, catalogue), name="grammar.lark")


class ScriptedDecoder:
    """Likeliest is ``free[sentence]``, then ``programs[sentence]``, then the end.

    So the grammar leads to the program where it forbids the other. A sentence without a program gives logits that are
    not finite.
    """

    info = MODEL
    execution_provider = "cpu"
    prefix_token_ids = ()

    def __init__(self, programs: Mapping[str, str], free: Mapping[str, str]) -> None:
        self._tokenizer = tiny_tokenizer()
        self._programs, self._free = programs, free
        self._end = self._tokenizer.end_token_ids(tiny_template())[0]
        self.sentences: list[str] = []
        self.reset()

    def reset(self) -> None:
        self._sentence: str | None = None
        self._done: list[int] = []

    def rows(self, token_ids: Sequence[int], num_logits: int) -> np.ndarray:
        return self.forward(token_ids)[None]

    def forward(self, token_ids: Sequence[int]) -> np.ndarray:
        if self._sentence is None:
            self._sentence = self._tokenizer.decode(token_ids).strip()
            self.sentences.append(self._sentence)
        else:
            self._done += token_ids
        logits = np.zeros(self._tokenizer.vocab_size, np.float32)
        if self._sentence not in self._programs:
            return np.full_like(logits, np.nan)
        self._push(logits, self._programs[self._sentence], 10)
        self._push(logits, self._free.get(self._sentence, ""), 20)
        return logits

    def _push(self, logits: np.ndarray, text: str, weight: float) -> None:
        script = self._tokenizer.encode_plain(text)
        if script and self._done == script[: len(self._done)]:
            logits[[*script, self._end][len(self._done)]] = weight


def scripted_engine(programs: Mapping[str, str], free: Mapping[str, str] | None = None) -> Engine:
    decoder = ScriptedDecoder(programs, free or {})
    return Engine(
        name="tiny",
        tokenizer=tiny_tokenizer(),
        template=tiny_template(),
        grammar=tiny_grammar(),
        decoder=decoder,  # type: ignore[arg-type]
    )


def use_engine(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Make every bundle load as this engine."""
    monkeypatch.setattr(Engine, "from_bundle", lambda path, **_: engine)
    for module in ("evaluation.record", "bench.latency"):
        monkeypatch.setattr(f"edgedsl.{module}.load_average", lambda: 0.0)
    monkeypatch.setattr("edgedsl.bench.latency.open_bundle", lambda path, **_: None)


def fake_bundle(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A folder with what is read beside the engine."""
    (folder / "eval").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    (folder / "eval" / "dev.json").write_text(json.dumps(list(rows)), encoding="utf-8")
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
