"""Which execution provider got which nodes: ONNX Runtime leaves to the CPU what a GPU cannot do, and says nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnxruntime as ort

from edgedsl.errors import ProviderError

_CPU = "CPUExecutionProvider"
# What works out shapes: integers of a few bytes, on the CPU by ONNX Runtime's own choice (GetCpuPreferredNodes).
_SHAPES = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Gather",
        "Greater",
        "Less",
        "Mul",
        "Neg",
        "Not",
        "Range",
        "ReduceMax",
        "ReduceProd",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
        "Where",
    ]
)


@dataclass(frozen=True)
class Placement:
    """Nodes after partitioning, before ONNX Runtime's later fusions.

    Attributes:
        num_nodes: by provider.
        on_cpu: "NAME (OPERATOR)" of those on the CPU.
        computing_on_cpu: of these, those that do more than work out shapes.
    """

    num_nodes: dict[str, int] = field(default_factory=dict)
    on_cpu: tuple[str, ...] = ()
    computing_on_cpu: tuple[str, ...] = ()

    @classmethod
    def of(cls, session: ort.InferenceSession) -> Placement:
        """Read it from a session of :func:`~edgedsl.runtime.providers.make_session`, whose options have it recorded."""
        num_nodes: dict[str, int] = {}
        on_cpu, computing = [], []
        for part in session.get_provider_graph_assignment_info():
            nodes = part.get_nodes()
            num_nodes[part.ep_name] = num_nodes.get(part.ep_name, 0) + len(nodes)
            if part.ep_name == _CPU:
                on_cpu += [f"{node.name or '?'} ({node.op_type})" for node in nodes]
                computing += [f"{node.name or '?'} ({node.op_type})" for node in nodes if node.op_type not in _SHAPES]
        return cls(num_nodes, tuple(on_cpu), tuple(computing))

    def check_on_device(self, *, is_strict: bool) -> None:
        """Refuse a graph of which the CPU would compute a part.

        Args:
            is_strict: no node at all may be on the CPU, as CUDA graphs want it.

        Raises:
            ProviderError: names the first such node.
        """
        found = self.on_cpu if is_strict else self.computing_on_cpu
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ProviderError(
                f"the CUDA provider does not run all of the graph: '{found[0]}'{more} would run on the CPU",
                hint="export the bundle again with '--quantize fp16', or ask for cpu"
                if self.computing_on_cpu
                else "these only work out shapes: set [runtime] cuda_graphs = false",
            )
        if not any(count for name, count in self.num_nodes.items() if name != _CPU):
            raise ProviderError("ONNX Runtime gave no node to the CUDA provider", hint="run 'edgedsl doctor'")
