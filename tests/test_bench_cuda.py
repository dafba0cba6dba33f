"""The measurement for GPUs, tried out on the CPU with a small model; and on a GPU where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import Qwen2Config

from edgedsl.bench import cuda
from edgedsl.bench.table import KINDS
from edgedsl.errors import GenerationError
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.slots import Slots


def small(num_layers: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=num_layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def test_the_shape_is_that_of_qwen_2_5_0_5b() -> None:
    config = cuda.shape(24)
    width = config.hidden_size
    projections = (14 + 2 * 2) * 64 * (width + 1) + width * width  # biases on q, k and v
    layer = projections + 3 * width * config.intermediate_size + 2 * width
    num_parameters = config.vocab_size * width + config.num_hidden_layers * layer + width
    assert num_parameters == 494_032_768  # the model card's 0.49B


def test_tokens_are_bytes_and_words() -> None:
    tokens = cuda.tokenizer(1000)
    assert tokens.vocab_size == 1000
    assert tokens.decode([256, 257]) == "aaaaab"
    assert tokens.decode(tokens.encode_plain("on, é")) == "on, é"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("recipe", ["fp16", "int4-fp16"])
def test_the_command(recipe: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "shape", small)
    monkeypatch.setattr(cuda, "tokenizer", lambda make=cuda.tokenizer: make(500))
    monkeypatch.setattr(cuda, "_ROUNDS", 2)
    widths, step = [], Slots.step
    monkeypatch.setattr(Slots, "step", lambda self, tokens: widths.append(len(tokens)) or step(self, tokens))
    arguments = ["--execution-provider", device, "--quantize", recipe, "--num-layers", "2", "--num-answers", "2"]
    arguments += ["--streams", "3", "--streams", "1"]
    assert cuda.main([*arguments, "--max-tokens", "24", "--output", str(tmp_path / "r.json")]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["kind"] in KINDS
    assert set(widths) == {1, 3}, "of the calls that streams share"
    fetched = {row["what"]: row["logits_fetched"] for row in record["rows"]}
    # Random weights like a byte or the padding now and then, so not none.
    assert fetched["an answer's token, every word legal"] < fetched["an answer's token, no word legal"]
    assert all(row["ms_p50"] > 0 for row in record["rows"])
    assert {row["cuda_graphs"] for row in record["rows"]} == ({False} if device == "cpu" else {True, False})
    of_streams = [row for row in record["rows"] if row["what"].startswith("a token of each stream")]
    assert [row["streams"] for row in of_streams] == [1, 3] * 2 * len({row["cuda_graphs"] for row in record["rows"]})
    assert all(row["output_throughput"] > 0 for row in of_streams)
    assert record["caption"]["command"].count("--streams") == 2


class Scripted:
    """Streams whose answers are whole after so many steps."""

    def __init__(self, num_steps: tuple[int, ...], outcome: object = "whole") -> None:
        self._num_steps, self._outcome = num_steps, outcome
        self._taken: list[SimpleNamespace] = []
        self._num_done = 0

    def start(self, sentence: str, params: SamplingParams) -> SimpleNamespace:
        self._taken.append(SimpleNamespace(outcome=None))
        return self._taken[-1]

    def step(self) -> list[SimpleNamespace]:
        self._num_done += 1
        ended = [self._taken[n] for n, num in enumerate(self._num_steps) if num == self._num_done]
        for stream in ended:
            stream.outcome = self._outcome
        return ended


def test_steps_count_while_all_streams_go_on() -> None:
    assert len(cuda._step_ms(Scripted((9, 7)), 2, 24)) == 6 - cuda._WARM_UP
    with pytest.raises(GenerationError, match="made up"):
        cuda._step_ms(Scripted((9, 7), GenerationError("made up")), 2, 24)


def test_tokens_of_all_streams_are_counted() -> None:
    row = cuda._streams_row("words", 8, [4.0, 4.0, 12.0])
    assert (row["what"], row["streams"]) == ("a token of each stream, words", 8)
    assert (row["ms_p50"], row["output_throughput"]) == (4.0, 1200.0)
    with pytest.raises(GenerationError, match="more than 3 tokens"):
        cuda._streams_row("words", 8, [])


def test_no_gpu_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedsl.provider_probe import Probe

    monkeypatch.setattr(
        "edgedsl.provider_probe.probe", lambda provider: Probe(provider, works=False, reason="no device")
    )
    assert cuda.main(["--output", str(tmp_path / "r.json")]) == 10
    assert "'cuda' does not run here: no device" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
