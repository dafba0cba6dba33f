"""Graph passes on tiny random models: the same logits, whole and over a past, and graphs that look as they should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny_export import CONTEXT, needs_optimum
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import Recipe
from edgedsl.exporters.calibration import input_moments
from edgedsl.exporters.optimum import OptimumExporter, rotary_tables
from edgedsl.exporters.passes.fold_constants import MAX_ELEMENTS, fold_constants
from edgedsl.exporters.passes.fuse_attention import fuse_attention, is_fusable
from edgedsl.exporters.passes.fuse_norm import fuse_norm
from edgedsl.exporters.passes.graph import constant, head_of, load_graph, save_graph
from edgedsl.exporters.passes.last_logits import take_last_logits
from edgedsl.exporters.passes.pack_qkv import pack_qkv
from edgedsl.exporters.passes.trim_head import trim_head
from edgedsl.exporters.passes.untie_head import untie_head
from edgedsl.exporters.quantize import quantize_model
from edgedsl.runtime.lm_head import NO_LOGIT

SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 0.01,  # large: the wrong one shows
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "llama with all biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, layer_types=["full_attention", "full_attention"]),
}
TIED = "llama with all biases"
SHARED = ("llama", "qwen2", "llama with all biases")
CALLS = (6, 1, 4)  # tokens of a prefill, a step, and a step that verifies a draft
ROW = np.random.default_rng(1).integers(0, 120, sum(CALLS))
TOKEN_IDS = [0, 3, 4, 17, 60, 61, 62, 63, 64, 99, 119]
Pass = Callable[[ir.Model], Any]
pytestmark = needs_optimum


class Graphs:
    """Traces a configuration once; its norms and biases are random too, so that none is the neutral one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        if name not in self._models:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith(("bias", "norm.weight", "layernorm.weight")):
                    torch.nn.init.normal_(parameter, mean=1.0)
            self._models[name] = model
        return self._models[name]

    def traced(self, name: str) -> Path:
        """As the tracer leaves it, with a growing cache."""
        folder = self._folder / name / "traced"
        if not folder.exists():
            folder.mkdir(parents=True)
            OptimumExporter()._trace(self.model(name), folder)
        return folder / "model.onnx"

    def __call__(self, name: str) -> Path:
        """With its attention fused, if that can be."""
        path, model = self.traced(name), self.model(name)
        if not is_fusable(model.config):
            return path
        target = self._folder / name / "model.onnx"
        if not target.exists():
            graph = load_graph(path)
            fuse_attention(graph, model.config, *rotary_tables(model, CONTEXT))
            save_graph(graph, target)
        return target


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("graphs"))


def logits_of(path: Path, num_logits: int | None = None) -> list[NDArray[np.float32]]:
    """Logits [positions, vocab] of each of CALLS, on one cache."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(str(path), options)
    names = [value.name for value in session.get_inputs()]
    is_shared = any(n.op_type == "GroupQueryAttention" for n in onnx.load(path, load_external_data=False).graph.node)
    shapes = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("past")}
    past = {
        name: np.zeros((1, shape[1], CONTEXT if is_shared else 0, shape[3]), np.float32)
        for name, shape in shapes.items()
    }
    rows, length = [], 0
    for num_tokens in CALLS:
        feeds: dict[str, Any] = {"input_ids": ROW[None, length : length + num_tokens]}
        feeds["attention_mask"] = np.ones((1, length + num_tokens), np.int64)
        if "position_ids" in names:
            feeds["position_ids"] = np.arange(length, length + num_tokens)[None]
        if num_logits is not None:
            feeds["num_logits"] = np.array([num_logits])
        outputs = dict(zip((v.name for v in session.get_outputs()), session.run(None, feeds | past), strict=True))
        rows.append(outputs["logits"][0])
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        length += num_tokens
    return rows


def changed(path: Path, folder: Path, *passes: Pass) -> Path:
    """The graph after some passes, in a folder of its own."""
    model = load_graph(path)
    for change in passes:
        change(model)
    target = folder / "changed.onnx"
    save_graph(model, target)
    return target


def trimmed(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a trimmed head says where the whole one says ``logits`` [positions, vocab]."""
    found = np.full_like(logits, NO_LOGIT)
    found[:, TOKEN_IDS] = logits[:, TOKEN_IDS]
    return found


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def assert_close(actual: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5)


def fold_and_fuse(model: ir.Model) -> None:
    fold_constants(model)
    assert fuse_norm(model)


@pytest.mark.parametrize("change", [fold_constants, fold_and_fuse, pack_qkv, untie_head], ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_stay_the_same(name: str, change: Pass, graphs: Graphs, tmp_path: Path) -> None:
    path = graphs(name)
    assert_close(logits_of(changed(path, tmp_path, change)), logits_of(path))


@pytest.mark.parametrize("name", CONFIGS)
def test_all_passes_together(name: str, graphs: Graphs, tmp_path: Path) -> None:
    path = graphs(name)
    target = changed(
        path, tmp_path, untie_head, fold_constants, fuse_norm, pack_qkv, take_last_logits,
        lambda model: trim_head(model, TOKEN_IDS),
    )  # fmt: skip
    expected = [trimmed(logits) for logits in logits_of(path)]
    assert_close(logits_of(target, 0), expected)
    assert_close(logits_of(target, 1), [logits[-1:] for logits in expected])
    assert not {"Constant", "Pow", "Sqrt"} & set(operators(target))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_exported_graph_computes_what_was_traced(name: str, graphs: Graphs, tmp_path: Path) -> None:
    exported = OptimumExporter().export(graphs.model(name), tmp_path, context_length=CONTEXT)
    assert exported.kv_layout == ("shared" if name in SHARED else "growing")
    expected = logits_of(graphs.traced(name))
    assert_close(logits_of(exported.path, 0), expected)
    assert_close(logits_of(exported.path, 1), [logits[-1:] for logits in expected])
    kinds = operators(exported.path)
    assert not {"Constant", "Pow", "Sqrt", "Identity"} & set(kinds)
    assert kinds.count("MatMul") == (2 * 5 + 1 if name in SHARED else 2 * 9 + 2)  # with the angles of the positions
    names = [node.name for node in onnx.load(exported.path, load_external_data=False).graph.node]
    assert "/lm_head/MatMul" in names


def test_a_large_tied_head_is_quantised_by_itself(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a real model the head is too large to be folded."""
    monkeypatch.setattr("edgedsl.exporters.passes.fold_constants.MAX_ELEMENTS", 120 * 64 - 1)
    path = OptimumExporter().export(graphs.model(TIED), tmp_path, context_length=CONTEXT).path
    graph = onnx.load(path)
    quantize_model(graph, Recipe(bits=8))
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("MatMulNBits"), kinds.count("GatherBlockQuantized")) == (2 * 5 + 1, 1)
    assert not {"MatMul", "Transpose"} & set(kinds)


# Logits


@pytest.mark.parametrize("num_logits", [1, 3, 0, 99])
def test_logits_of_the_last_positions(num_logits: int, graphs: Graphs, tmp_path: Path) -> None:
    path = graphs("qwen2")
    target = changed(path, tmp_path, take_last_logits)
    for some, every in zip(logits_of(target, num_logits), logits_of(path), strict=True):
        np.testing.assert_allclose(some, every[-num_logits:], atol=1e-5)
    graph = onnx.load(target, load_external_data=False).graph
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == [
        "batch_size", "num_logits", 120,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_trimmed_head_gives_the_same_logits(name: str, graphs: Graphs, tmp_path: Path) -> None:
    path = graphs(name)
    target = changed(path, tmp_path, lambda model: trim_head(model, TOKEN_IDS))
    for found, whole in zip(logits_of(target), logits_of(path), strict=True):
        np.testing.assert_allclose(found, trimmed(whole), atol=1e-6, rtol=0)
    graph = onnx.load(target, load_external_data=False).graph
    weights = {weight.name: list(weight.dims) for weight in graph.initializer}
    head = next(node for node in graph.node if node.name == "/lm_head/MatMul")
    assert weights[head.input[1]] == [64, len(TOKEN_IDS)]
    assert [64, 120] not in weights.values(), "the whole head is gone"
    assert graph.output[0].type.tensor_type.shape.dim[2].dim_value == 120


@pytest.mark.parametrize("token_ids", [[], [3, 3], [4, 3], [-1, 3], [0, 120]])
def test_a_head_is_cut_to_ascending_tokens_of_the_vocabulary_only(token_ids: list[int], graphs: Graphs) -> None:
    with pytest.raises(ExportError, match="a head of 120 tokens cannot be cut"):
        trim_head(load_graph(graphs("llama")), token_ids)


def head_graph(*nodes: onnx.NodeProto, dims: Sequence[int | str] = ("batch", "positions", 4)) -> ir.Model:
    """A graph that is little more than a head: embedding [8, 4], output ``logits`` [.., 8]."""
    embedding = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weights = [
        numpy_helper.from_array(embedding, "embedding"),
        numpy_helper.from_array(np.arange(8, dtype=np.float32), "bias"),
        numpy_helper.from_array(np.float32(3), "scale"),
    ]
    graph = helper.make_graph(
        list(nodes),
        "head",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*dims[:-1], 8])],
        weights,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def run_head(model: ir.Model, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    logits: NDArray[np.float32] = session.run(None, {"hidden": hidden})[0]
    return logits


def tied_head() -> ir.Model:
    return head_graph(
        helper.make_node("Transpose", ["embedding"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "turned"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["sum"]),
        helper.make_node("Div", ["sum", "scale"], ["logits"]),
    )


def gemm_head() -> ir.Model:
    node = helper.make_node("Gemm", ["hidden", "embedding", "bias"], ["logits"], transB=1)
    return head_graph(node, dims=("rows", 4))


@pytest.mark.parametrize(("make", "shape"), [(tied_head, (1, 3, 4)), (gemm_head, (3, 4))])
def test_a_tied_head_gets_a_weight_of_its_own(make: Callable[[], ir.Model], shape: tuple[int, ...]) -> None:
    hidden = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = run_head(make(), hidden)
    model = make()
    assert untie_head(model)
    head = head_of(model)
    assert (head.name, head.op_type) == ("/lm_head/MatMul", "MatMul")
    assert head.inputs[1] is not None and head.inputs[1].is_initializer() and head.inputs[1].shape == (4, 8)
    assert "embedding" not in model.graph.initializers
    np.testing.assert_allclose(run_head(model, hidden), expected, atol=1e-6)
    assert not untie_head(model)


def test_a_bias_behind_the_head_and_other_readers_of_the_logits() -> None:
    model = tied_head()
    best = ir.node("ArgMax", [model.graph.outputs[0]], {"axis": -1, "keepdims": 0}, name="/best")
    best.outputs[0].name = "best"
    best.outputs[0].type, best.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape(["batch", "positions"])
    model.graph.append(best)
    model.graph.outputs.append(best.outputs[0])
    untie_head(model)
    hidden = np.random.default_rng(1).standard_normal((1, 5, 4)).astype(np.float32)
    whole = run_head(model, hidden)
    trim_head(model, [1, 4, 6])
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    found, best_ids = session.run(["logits", "best"], {"hidden": hidden})
    expected = np.full_like(whole, NO_LOGIT)
    expected[..., [1, 4, 6]] = whole[..., [1, 4, 6]]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(best_ids, expected.argmax(-1))


def test_a_head_that_computes_its_weight_is_not_trimmed() -> None:
    with pytest.raises(ExportError, match="no weight of its own"):
        trim_head(tied_head(), [1])


@pytest.mark.parametrize("output", ["logits", "scores"])
def test_a_graph_without_a_head_is_an_export_error(output: str) -> None:
    model = head_graph(helper.make_node("Relu", ["hidden"], ["logits"]))
    model.graph.outputs[0].name = output
    with pytest.raises(ExportError, match="logits"):
        take_last_logits(model)


# Constants


def test_folding_leaves_no_constants_casts_or_dead_weights(graphs: Graphs, tmp_path: Path) -> None:
    before = operators(graphs("llama"))
    target = changed(graphs("llama"), tmp_path, fold_constants)
    assert before.count("Cast") > 2 and "Constant" in before
    assert operators(target).count("Cast") == 2  # of the lengths
    graph = onnx.load(target).graph
    used = {name for node in graph.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used


def test_large_results_and_shapes_are_not_folded() -> None:
    large = numpy_helper.from_array(np.array([MAX_ELEMENTS + 1]), "large")
    model = head_graph(
        helper.make_node("Constant", [], ["large"], value=large),
        helper.make_node("ConstantOfShape", ["large"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"]),
        helper.make_node("Mul", ["scale", "scale"], ["nine"]),
        helper.make_node("Sub", ["nine", "zero"], ["factor"]),
        helper.make_node("Transpose", ["embedding"], ["turned"], perm=[1, 0]),
        helper.make_node("Mul", ["hidden", "factor"], ["scaled"]),
        helper.make_node("Shape", ["scaled"], ["shape"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["same"]),
        helper.make_node("MatMul", ["same", "turned"], ["logits"]),
    )
    hidden = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    expected = run_head(model, hidden)
    fold_constants(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("ConstantOfShape") == kinds.count("Shape") == kinds.count("Mul") == 1
    assert "Transpose" not in kinds and "Constant" not in kinds
    np.testing.assert_array_equal(run_head(model, hidden), expected)
    np.testing.assert_array_equal(run_head(model, hidden[:1, :1]), expected[:1, :1])


def test_weights_that_no_pass_changes_stay_on_disk(graphs: Graphs) -> None:
    model = load_graph(graphs("llama"))
    fold_and_fuse(model)
    pack_qkv(model)
    large = [v for v in model.graph.initializers.values() if v.shape is not None and np.prod(v.shape.numpy()) > 6000]
    assert len(large) == 2 + 2 * 3 + 2  # embedding and head; per layer the MLP, and the packed projection in memory
    assert sum(isinstance(v.const_value, ir.ExternalTensor) for v in large) == 2 + 2 * 3


# Norms


@pytest.mark.parametrize(
    ("name", "num_plain", "num_with_sum"),
    [("llama", 1, 4), ("qwen2", 1, 4), ("qwen3", 1 + 4, 4), ("gemma3", 1 + 4 + 4, 4)],
)
def test_norms_are_fused_with_the_sums_before_them(
    name: str, num_plain: int, num_with_sum: int, graphs: Graphs, tmp_path: Path
) -> None:
    target = changed(graphs(name), tmp_path, fold_and_fuse)
    kinds = operators(target)
    assert kinds.count("SimplifiedLayerNormalization") == num_plain
    assert kinds.count("SkipSimplifiedLayerNormalization") == num_with_sum
    assert not {"Pow", "ReduceMean", "Sqrt"} & set(kinds)
    nodes = onnx.load(target, load_external_data=False).graph.node
    epsilons = {a.f for node in nodes for a in node.attribute if a.name == "epsilon"}
    assert epsilons == {np.float32(CONFIGS[name].rms_norm_eps)}


@pytest.mark.parametrize("exponent", [2.0, 3.0])
@pytest.mark.parametrize("axis", [-1, 1])
def test_only_the_root_mean_square_over_the_last_axis_is_a_norm(exponent: float, axis: int) -> None:
    constants = {"exponent": np.float32(exponent), "axes": np.array([axis]), "epsilon": np.float32(0.1)}
    weight = np.arange(4, dtype=np.float32)
    model = head_graph(
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))
            for name, value in {**constants, "weight": weight}.items()
        ),
        helper.make_node("Pow", ["hidden", "exponent"], ["powers"]),
        helper.make_node("ReduceMean", ["powers", "axes"], ["mean"]),
        helper.make_node("Add", ["epsilon", "mean"], ["total"]),
        helper.make_node("Sqrt", ["total"], ["root"]),
        helper.make_node("Div", ["hidden", "root"], ["normed"]),
        helper.make_node("Mul", ["normed", "weight"], ["weighted"]),
        helper.make_node("Transpose", ["embedding"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["weighted", "turned"], ["logits"]),
    )
    hidden = np.random.default_rng(1).random((1, 3, 4)).astype(np.float32)
    expected = run_head(model, hidden)
    assert fuse_norm(model) == (exponent == 2.0 and axis == -1)
    np.testing.assert_allclose(run_head(model, hidden), expected, atol=1e-5)


# Projections


@pytest.mark.parametrize("name", SHARED)
def test_packed_projections_and_their_moments(name: str, graphs: Graphs, tmp_path: Path) -> None:
    path = graphs(name)
    packed: dict[str, str] = {}
    target = changed(path, tmp_path, lambda model: packed.update(pack_qkv(model)))
    assert packed == {
        f"/model/layers.{i}/self_attn/qkv_proj/MatMul": f"/model/layers.{i}/self_attn/q_proj/MatMul" for i in range(2)
    }
    model = graphs.model(name)
    moments = input_moments(model, [ROW.tolist()])
    moments |= {new: moments[old] for new, old in packed.items()}
    assert operators(path).count("MatMul") - operators(target).count("MatMul") == 2 * 2
    # Rounded row by row with the same moments, the packed weight is made of the three.
    recipe, rows = Recipe(bits=4, method="gptq", search_steps=3, accuracy_level=0), []
    for source in (path, target):
        graph = onnx.load(source)
        quantize_model(graph, recipe, moments)
        onnx.save(graph, tmp_path / "quantized.onnx")
        rows.append(logits_of(tmp_path / "quantized.onnx"))
    assert_close(rows[1], rows[0])


def test_what_is_not_three_projections_of_one_input_is_left_alone(graphs: Graphs) -> None:
    assert pack_qkv(load_graph(graphs("qwen3"))) == {}
    model = load_graph(graphs("llama"))
    attention = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    assert constant(attention.inputs[7]) is not None
    packed = pack_qkv(model)
    assert pack_qkv(model) == {} and len(packed) == 2
