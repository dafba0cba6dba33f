"""The quantisation recipes by name, and which of them an export can try."""

from __future__ import annotations

from collections.abc import Sequence

from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import Recipe

# The embedding and the head take 8 bits in int4 as well: a small model loses most there for few bytes.
_ENDS = ("lm_head", "embed_tokens")
# What "auto" tries for the CPU. Of equals the first one is taken.
AUTO = ("w4a8", "w8a8", "int8", "int4", "int4-kquant", "int4-hqq", "int4-rtn", "int4-mixed", "int4-128")
_FUSED_ONLY = ("w4a8", "w8a8")
RECIPES: dict[str, Recipe | None] = {
    "none": None,
    "int8": Recipe(bits=8),
    "w8a8": Recipe(bits=8, integer_for=("",)),
    "w4a8": Recipe(
        bits=4,
        high_bits_for=_ENDS,
        method="gptq",
        search_steps=9,
        block_size=64,
        integer_for=("lm_head",),
        is_native=True,
    ),
    "int4": Recipe(bits=4, high_bits_for=_ENDS, method="gptq", search_steps=9),
    "int4-kquant": Recipe(bits=4, high_bits_for=_ENDS, method="kquant", search_steps=9),
    "int4-hqq": Recipe(bits=4, high_bits_for=_ENDS, method="hqq"),
    "int4-rtn": Recipe(bits=4, high_bits_for=_ENDS),
    "int4-mixed": Recipe(bits=4, high_bits_for=_ENDS, high_layers=(0, -1), method="gptq", search_steps=9),
    "int4-128": Recipe(bits=4, high_bits_for=_ENDS, block_size=128, method="gptq", search_steps=9),
    "fp16": None,
    "bf16": None,
    "int4-fp16": Recipe(
        bits=4, high_bits_for=("lm_head",), method="gptq", search_steps=9, accuracy_level=0, has_embedding=False
    ),
}
# Recipes for CUDA, the type of their activations and KV cache; all others compute in fp32.
HALF = {"fp16": "float16", "bf16": "bfloat16", "int4-fp16": "float16"}


def kv_dtype(recipe: str) -> str:
    """Type of the KV cache, as in the manifest."""
    return HALF.get(recipe, "float32")


def families(names: Sequence[str]) -> list[list[str]]:
    """Recipes in groups that take the same time: kernel, bits and blocks are the same; in the order of ``names``."""
    found: dict[tuple[Recipe | None, str], list[str]] = {}
    for name in names:
        recipe = RECIPES[name]
        found.setdefault((recipe and recipe.layout, kv_dtype(name)), []).append(name)
    return list(found.values())


def recipes_to_try(wanted: str, graph: str, execution_provider: str) -> list[str]:
    """Names of recipes.

    Args:
        wanted: ``[export] quantize``.
        graph: name of the exporter.
        execution_provider: that the bundle is measured on.

    Raises:
        ExportError: the graph or the execution provider cannot run what is wanted.
    """
    if wanted == "auto":
        known = tuple(HALF) if execution_provider == "cuda" and graph == "fused" else AUTO
        return [name for name in known if graph == "fused" or name not in _FUSED_ONLY]
    if graph != "fused" and (wanted in _FUSED_ONLY or wanted in HALF):
        raise ExportError(
            f"{wanted} needs the fused graph, and this export takes '{graph}'",
            hint="take '--quantize int8', or '--quantize auto'",
        )
    if wanted == "bf16" and execution_provider == "cpu":
        raise ExportError(
            "bf16 cannot be measured on the CPU, which has no attention in bfloat16",
            hint="export where there is a GPU, with [runtime] execution_provider = \"cuda\"; or take '--quantize fp16'",
        )
    if execution_provider == "cuda" and graph == "fused" and wanted not in HALF:
        raise ExportError(
            f"{wanted} is for the CPU, and [runtime] execution_provider is 'cuda'",
            hint=f"take one of {', '.join(HALF)}, or auto",
        )
    return [wanted]
