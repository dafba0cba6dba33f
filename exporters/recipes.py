"""The quantisation recipes by name."""

from __future__ import annotations

from edgedsl.exporters.blockwise import Recipe

# The embedding and the head take 8 bits in int4 as well: a small model loses most there for few bytes.
AUTO = ("w8a8", "int8", "int4")  # what "auto" tries
RECIPES: dict[str, Recipe | None] = {
    "none": None,
    "int8": Recipe(bits=8),
    "w8a8": Recipe(bits=8, is_integer=True),
    "int4": Recipe(bits=4, high_bits_for=("lm_head", "embed_tokens"), search_steps=9, is_calibrated=True),
}
