from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from interpreter import python
from tiny_export import CONTEXT, TinyOnnx

from edgedsl.bundle.schema import ModelInfo
from edgedsl.cli import group
from edgedsl.errors import BundleError, GenerationError, PromptTooLong, ProviderError
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.providers import ThreadSettings, make_session

IDS = [int(i) for i in np.random.default_rng(0).integers(0, 256, 40)]
LAYOUTS = pytest.mark.parametrize("layout", ["shared", "growing"])


def make(tiny_onnx: TinyOnnx, layout: str) -> Decoder:
    maker: Callable[[], Decoder] = getattr(tiny_onnx, layout)
    return maker()


def steps(decoder: Decoder, token_ids: list[int], chunk: int = 1) -> np.ndarray:
    rows = [decoder.forward_all(token_ids[i : i + chunk]).copy() for i in range(0, len(token_ids), chunk)]
    return np.concatenate(rows)


@LAYOUTS
def test_layout_is_the_one_asked_for(tiny_onnx: TinyOnnx, layout: str) -> None:
    decoder = make(tiny_onnx, layout)
    operators = {"shared": 1, "growing": 2}
    assert decoder.info.kv_layout == layout
    assert len(decoder._kv) == 2 * decoder.info.num_layers * operators[layout]


@LAYOUTS
@pytest.mark.parametrize("chunk", [1, 7, len(IDS)])
def test_cached_equals_full_recompute(tiny_onnx: TinyOnnx, layout: str, chunk: int) -> None:
    cached = steps(make(tiny_onnx, layout), IDS, chunk)
    np.testing.assert_allclose(cached, tiny_onnx.reference(IDS), atol=1e-5)


def test_layouts_agree_after_prefill_and_steps(tiny_onnx: TinyOnnx) -> None:
    logits = []
    for layout in ("shared", "growing"):
        decoder = make(tiny_onnx, layout)
        decoder.forward(IDS[:20])
        logits.append(np.array([decoder.forward([token_id]).copy() for token_id in IDS[20:]]))
    np.testing.assert_allclose(*logits, atol=1e-5)


@LAYOUTS
def test_reset_forgets_the_sequence(tiny_onnx: TinyOnnx, layout: str) -> None:
    decoder = make(tiny_onnx, layout)
    steps(decoder, IDS[::-1][:31])
    assert decoder.length == 31
    decoder.reset()
    assert decoder.length == 0
    np.testing.assert_allclose(steps(decoder, IDS[:9]), tiny_onnx.reference(IDS[:9]), atol=1e-5)


@LAYOUTS
def test_the_whole_context_can_be_used_and_no_more(tiny_onnx: TinyOnnx, layout: str) -> None:
    decoder = make(tiny_onnx, layout)
    full = (IDS * 3)[:CONTEXT]
    with pytest.raises(PromptTooLong, match=rf"{CONTEXT + 1} tokens .* {CONTEXT}"):
        decoder.forward([*full, 0])
    decoder.forward(full[:-1])
    np.testing.assert_allclose(decoder.forward(full[-1:]), tiny_onnx.reference(full)[-1], atol=1e-5)
    with pytest.raises(PromptTooLong):
        decoder.forward([0])
    assert decoder.length == CONTEXT


@LAYOUTS
def test_an_overflow_leaves_the_sequence_usable(tiny_onnx: TinyOnnx, layout: str) -> None:
    decoder = make(tiny_onnx, layout)
    decoder.forward(IDS[:5])
    with pytest.raises(PromptTooLong):
        decoder.forward([0] * CONTEXT)
    np.testing.assert_allclose(decoder.forward(IDS[5:9]), tiny_onnx.reference(IDS[:9])[-1], atol=1e-5)


@LAYOUTS
def test_a_failed_step_is_an_error_and_leaves_the_sequence_usable(tiny_onnx: TinyOnnx, layout: str) -> None:
    decoder = make(tiny_onnx, layout)
    decoder.forward(IDS[:2])
    with pytest.raises(GenerationError, match="failed to run one step"):
        decoder.forward([10**6])  # outside the embedding
    assert decoder.length == 2
    np.testing.assert_allclose(decoder.forward(IDS[2:5]), tiny_onnx.reference(IDS[:5])[-1], atol=1e-5)


def test_a_wrong_manifest_is_an_error_not_garbage(tiny_onnx: TinyOnnx) -> None:
    decoder = tiny_onnx.shared()
    path = Path(decoder.session._model_path)
    wrong = Decoder(path, dataclasses.replace(decoder.info, num_kv_heads=1), num_threads=1)
    with pytest.raises(GenerationError):
        wrong.forward(IDS)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 64])
def test_a_file_that_is_no_model_is_a_bundle_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"cannot load 'model\.onnx'") as caught:
        make_session(path, execution_provider="cpu", threads=ThreadSettings())
    assert str(tmp_path) not in caught.value.message.split(":")[0]
    assert caught.value.hint


def test_unknown_execution_provider() -> None:
    with pytest.raises(ProviderError, match="'tpu', expected one of cpu, cuda"):
        make_session(Path("model.onnx"), execution_provider="tpu", threads=ThreadSettings())


def test_cuda_without_a_cuda_build_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="CPUExecutionProvider") as caught:
        make_session(Path("model.onnx"), execution_provider="cuda", threads=ThreadSettings())
    assert "edgedsl[gpu]" in caught.value.hint
    assert caught.value.exit_code == 10


def test_a_session_that_fell_back_to_the_cpu_is_refused(tiny_onnx: TinyOnnx, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only warns when CUDA cannot be loaded, and runs on the CPU."""
    session = tiny_onnx.shared().session
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **kwargs: session)
    with pytest.raises(ProviderError, match="ONNX Runtime took CPUExecutionProvider"):
        make_session(Path("model.onnx"), execution_provider="cuda", threads=ThreadSettings())


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime is a CUDA build"
)
def test_cuda_on_the_command_line_gives_exit_code_10(tiny_bundle: Path, tiny_project: object) -> None:
    arguments = ["generate", "--bundle", str(tiny_bundle), "--execution-provider", "cuda", "off hall"]
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, ProviderError)
    assert result.exception.exit_code == 10
    assert result.stdout == ""


@pytest.mark.parametrize("module", ["decoder", "providers", "engine"])
def test_telemetry_is_off_before_onnxruntime_is_imported(module: str) -> None:
    code = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import edgedsl.runtime.{module}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    assert python("-c", code, env=environment).stdout == "1\n"


def test_threads_and_provider_are_those_asked_for(tiny_onnx: TinyOnnx) -> None:
    session = tiny_onnx.shared().session
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_model_that_moved_still_finds_its_weights(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    decoder = tiny_onnx.shared()
    info: ModelInfo = decoder.info
    shutil.copytree(Path(decoder.session._model_path).parent, tmp_path / "moved")
    moved = Decoder(tmp_path / "moved" / "model.onnx", info, num_threads=1)
    np.testing.assert_allclose(moved.forward(IDS), tiny_onnx.reference(IDS)[-1], atol=1e-5)
