"""Which recipes an export tries, on which execution provider; what a bundle in half precision is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import edgedsl
from edgedsl.bundle.manifest import open_bundle
from edgedsl.config import Config, ExportSection, override
from edgedsl.errors import ExportError, ProviderError
from edgedsl.exporters import pipeline
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.recipes import AUTO, HALF, RECIPES, kv_dtype, recipes_to_try
from edgedsl.provider_probe import Probe

CHOICES = ExportSection.__dataclass_fields__["quantize"].metadata["choices"]


def test_every_recipe_can_be_asked_for() -> None:
    assert set(CHOICES) == {"auto", *RECIPES}
    assert {name: kv_dtype(name) for name in RECIPES} == {**dict.fromkeys(RECIPES, "float32"), **HALF}


@pytest.mark.parametrize(
    ("wanted", "graph", "provider", "names"),
    [
        ("auto", "fused", "cpu", [*AUTO]),
        ("auto", "optimum", "cpu", [*AUTO[2:]]),
        ("auto", "fused", "cuda", ["fp16", "bf16", "int4-fp16"]),
        ("auto", "optimum", "cuda", [*AUTO[2:]]),
        ("none", "optimum", "cuda", ["none"]),
        *((name, "fused", "cpu", [name]) for name in RECIPES if name != "bf16"),
        *((name, "fused", "cuda", [name]) for name in HALF),
    ],
)
def test_what_is_tried(wanted: str, graph: str, provider: str, names: list[str]) -> None:
    assert recipes_to_try(wanted, graph, provider) == names


@pytest.mark.parametrize(
    ("wanted", "graph", "provider", "message"),
    [
        *((name, "optimum", "cpu", f"{name} needs the fused graph, and this export takes") for name in AUTO[:2]),
        *((name, "optimum", "cuda", f"{name} needs the fused graph") for name in HALF),
        ("bf16", "fused", "cpu", "bf16 cannot be measured on the CPU"),
        *((name, "fused", "cuda", f"{name} is for the CPU") for name in ("none", *AUTO)),
    ],
)
def test_what_cannot_run_is_an_error(wanted: str, graph: str, provider: str, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        recipes_to_try(wanted, graph, provider)
    assert caught.value.hint


def refuse(*_: Any) -> None:
    raise AssertionError("measured")


def test_bf16_on_the_cpu_is_refused_before_anything_is_measured(
    project: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.Hops, "measure_torch", refuse)
    with pytest.raises(ExportError, match="bf16 cannot be measured"):
        export(override(project, "export", {"quantize": "bf16"}), offline=True)


def test_a_gpu_that_is_not_there_is_found_before_anything_is_measured(
    project: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.Hops, "measure_torch", refuse)
    monkeypatch.setattr(
        "edgedsl.provider_probe.probe", lambda provider: Probe(provider, works=False, reason="no device")
    )
    config = override(project, "runtime", {"execution_provider": "cuda"})
    with pytest.raises(ProviderError, match="'cuda' does not run here: no device"):
        export(override(config, "export", {"quantize": "fp16"}), offline=True)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", HALF)
def test_a_bundle_is_measured_and_runs_on_a_gpu(recipe: str, project: Config) -> None:
    config = override(project, "runtime", {"execution_provider": "cuda"})
    output = export(override(config, "export", {"quantize": recipe}), offline=True)
    engine = edgedsl.load(output, execution_provider="cuda")
    assert set(engine.decoder.placement.num_nodes) == {"CUDAExecutionProvider"}
    exact = edgedsl.load(output, execution_provider="cuda", exact=True)
    for sentence in ("off hall", "set the kitchen to 20"):
        answer = engine(sentence, max_tokens=32)
        assert engine.grammar.accepts(answer.text)
        assert engine(sentence, max_tokens=32).token_ids == answer.token_ids
        assert exact.grammar.accepts(exact(sentence, max_tokens=32, temperature=0.7).text)


@pytest.mark.parametrize("recipe", ["fp16", "int4-fp16"])
def test_a_bundle_in_half_precision(recipe: str, project: Config) -> None:
    output = export(override(project, "export", {"quantize": recipe}), offline=True)
    bundle = open_bundle(output)
    assert bundle.manifest.model.kv_dtype == "float16"
    assert bundle.manifest.model.quantization == recipe
    assert bundle.manifest.parity["quantized"]["num_tokens"] > 0
    assert (output / "prefix.kv").exists()
    graph = onnx.load(output / "model.onnx", load_external_data=False).graph
    past = {value.type.tensor_type.elem_type for value in graph.input if value.name.startswith("past")}
    assert past == {onnx.TensorProto.FLOAT16}
    engine = edgedsl.load(output, num_threads=1)
    assert engine.decoder.prefix_token_ids
    answer = engine("off hall", max_tokens=32)
    assert engine.grammar.accepts(answer.text)
    assert np.isfinite(engine.decoder.cached()).all()
