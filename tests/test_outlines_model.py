"""A bundle as an Outlines model: a random model, so that what comes out is the grammar's doing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from outlines.models.base import Model
from outlines.types import cfg, regex
from pydantic import BaseModel

from edgedsl.errors import GrammarError, RequestError
from edgedsl.outlines_model import OutlinesModel, from_bundle


class Lamp(BaseModel):
    room: Literal["hall", "attic"]
    level: int


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> OutlinesModel:
    return from_bundle(tiny_bundle, num_threads=1)


def test_without_a_type_the_bundles_own_grammar_holds(model: OutlinesModel) -> None:
    assert isinstance(model, Model)
    text = model("turn it off", max_tokens=12)
    model._engine.grammar.parse(text)
    assert text == model._engine("turn it off", max_tokens=12).text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("output_type", "is_good"),
    [
        (Lamp, Lamp.model_validate_json),
        (Literal["on", "off"], lambda text: text in {"on", "off"}),
        (regex("[a-c]{2,4}"), lambda text: 2 <= len(text) <= 4 and set(text) <= set("abc")),
        (cfg('start: "(" start ")" | "x"'), lambda text: text.count("(") == text.count(")") and "x" in text),
        (list[bool], lambda text: text.startswith("[") and text.endswith("]")),
    ],
    ids=["pydantic", "literal", "regex", "cfg", "list"],
)
def test_the_output_has_the_type(model: OutlinesModel, output_type: Any, is_good: Any, seed: int) -> None:
    sampling = {"max_tokens": 60, "temperature": 2.0, "seed": seed}
    text = model("the hall lamp", output_type, **sampling)
    assert is_good(text)
    assert "".join(model.stream("the hall lamp", output_type, **sampling)) == text
    assert model.batch(["the hall lamp"] * 2, output_type, **sampling) == [text] * 2


def test_a_budget_is_kept_for_types_too(model: OutlinesModel) -> None:
    least = len('{"room": "hall", "level": 0}')
    lamp = json.loads(model("x", Lamp, max_tokens=least, temperature=5.0, seed=1))
    assert lamp["room"] in {"hall", "attic"}
    with pytest.raises(RequestError, match="max_tokens is 1, the shortest program of 'output type'"):
        model("x", Lamp, max_tokens=1)


def test_a_type_is_compiled_once(model: OutlinesModel) -> None:
    adapter = model.type_adapter
    assert adapter.format_output_type(Lamp) is adapter.format_output_type(Lamp)


def test_what_cannot_be_asked_for_is_refused(model: OutlinesModel) -> None:
    with pytest.raises(RequestError, match="backend is 'xgrammar'"):
        model("x", Lamp, "xgrammar")
    with pytest.raises(RequestError, match="the input is list"):
        model(["x"], Lamp)
    with pytest.raises(GrammarError, match="no grammar can be made"):
        model("x", object())
    with pytest.raises(GrammarError, match="assert, which is not supported"):
        model("x", regex("a(?=b)"))
