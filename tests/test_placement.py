"""Nodes by execution provider: read from ONNX Runtime, and none on the CPU behind a GPU's back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edgedsl.errors import ProviderError
from edgedsl.runtime.placement import Placement

if TYPE_CHECKING:
    from tiny_export import TinyOnnx

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def session(*parts: tuple[str, str, str]) -> Any:
    """Of nodes: provider, name, operator."""
    found = [
        SimpleNamespace(
            ep_name=provider, get_nodes=lambda n=name, o=operator: [SimpleNamespace(name=n, domain="", op_type=o)]
        )
        for provider, name, operator in parts
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: found)


def test_a_session_tells_its_nodes(tiny_onnx: TinyOnnx) -> None:
    placement = tiny_onnx.shared().placement
    assert set(placement.num_nodes) == {CPU}
    assert len(placement.on_cpu) == placement.num_nodes[CPU] > 20
    assert any("GroupQueryAttention" in node for node in placement.computing_on_cpu)
    assert not any("(Shape)" in node for node in placement.computing_on_cpu)


def test_all_on_the_gpu_is_fine() -> None:
    placement = Placement.of(session((CUDA, "a", "MatMul"), (CUDA, "b", "Add")))
    assert placement.num_nodes == {CUDA: 2}
    placement.check_on_device(is_strict=True)


def test_a_product_on_the_cpu_is_an_error_that_names_it() -> None:
    placement = Placement.of(session((CUDA, "a", "Add"), (CPU, "/lm_head/MatMul", "MatMul"), (CPU, "s", "Shape")))
    for is_strict, more in ((True, " and 1 more"), (False, "")):
        with pytest.raises(ProviderError, match=rf"'/lm_head/MatMul \(MatMul\)'{more} would run on the CPU") as caught:
            placement.check_on_device(is_strict=is_strict)
        assert "--quantize fp16" in caught.value.hint


def test_shapes_on_the_cpu_are_refused_only_where_graphs_are_captured() -> None:
    placement = Placement.of(session((CUDA, "a", "MatMul"), (CPU, "s", "Shape")))
    placement.check_on_device(is_strict=False)
    with pytest.raises(ProviderError, match=r"'s \(Shape\)'") as caught:
        placement.check_on_device(is_strict=True)
    assert "cuda_graphs = false" in caught.value.hint


@pytest.mark.parametrize("parts", [(), ((CPU, "s", "Shape"),)])
def test_a_gpu_that_got_nothing_is_an_error(parts: tuple[tuple[str, str, str], ...]) -> None:
    with pytest.raises(ProviderError, match="no node"):
        Placement.of(session(*parts)).check_on_device(is_strict=False)
