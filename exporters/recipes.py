"""The quantisation recipes by name."""

from __future__ import annotations

from edgedsl.exporters.quantize import Recipe

# The embedding and the head take 8 bits in int4 as well: a small model loses most there for few bytes.
RECIPES: dict[str, Recipe | None] = {
    "none": None,
    "int8": Recipe(bits=8),
    "int4": Recipe(bits=4, high_bits_for=("lm_head", "embed_tokens", "v_proj", "down_proj"), search_steps=9),
}
