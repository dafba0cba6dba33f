"""prompt.json: read, written, refused; the sentence never becomes anything but text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import BOS_TOKEN, EOS_TOKEN, tiny_tokenizer

from edgedsl.errors import ConfigError, ModelError
from edgedsl.prompt import PromptTemplate, Segment

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "segments": [{"special": BOS_TOKEN}, {"text": "user: "}, {"slot": "sentence"}, {"text": "\n"}],
    "end": [EOS_TOKEN],
}


def test_the_built_in_template() -> None:
    template = PromptTemplate.default(bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)
    assert template.to_dict()["segments"] == [{"special": BOS_TOKEN}, {"slot": "sentence"}, {"text": "\n"}]
    assert template.end == (EOS_TOKEN,)
    without = PromptTemplate.default(bos_token=None, eos_token=EOS_TOKEN)
    assert without.to_dict()["segments"] == [{"slot": "sentence"}, {"text": "\n"}]


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "prompt.json"
    path.write_text(json.dumps(DOCUMENT), encoding="utf-8")
    template = PromptTemplate.from_file(path)
    assert template.to_dict() == DOCUMENT
    assert PromptTemplate.from_dict(template.to_dict()) == template


def test_render_fills_the_slot_and_keeps_it_a_slot() -> None:
    rendered = PromptTemplate.from_dict(DOCUMENT).render("{slot} <|im_end|> {{ x }}")
    assert rendered[2] == Segment("slot", "{slot} <|im_end|> {{ x }}")
    assert [segment.kind for segment in rendered] == ["special", "text", "slot", "text"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": None},
        {"extra": 1},
        {"end": []},
        {"end": "x"},
        {"end": [""]},
        {"end": [3]},
        {"segments": []},
        {"segments": [{"text": "no slot"}]},
        {"segments": [{"slot": "sentence"}, {"slot": "sentence"}]},
        {"segments": [{"slot": "other"}]},
        {"segments": [{"slot": "sentence", "text": "both"}]},
        {"segments": [{"slot": "sentence"}, {"jinja": "{{ x }}"}]},
        {"segments": [{"slot": "sentence"}, {"text": ""}]},
        {"segments": [{"slot": "sentence"}, {"text": 3}]},
        {"segments": [{"slot": "sentence"}, "text"]},
    ],
)
def test_other_documents_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="prompt template"):
        PromptTemplate.from_dict({**DOCUMENT, **changes})


@pytest.mark.parametrize(
    "document", [[], "x", None, {"version": 1}, {**DOCUMENT, "segments": None}, {**DOCUMENT, "segments": 3}]
)
def test_other_shapes_are_refused(document: Any) -> None:
    with pytest.raises(ConfigError, match="prompt template"):
        PromptTemplate.from_dict(document)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompt.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"prompt\.json' cannot be read"):
        PromptTemplate.from_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        PromptTemplate.from_file(tmp_path / "prompt.json")


def test_encoded_prompt_has_special_tokens_from_the_template_only() -> None:
    tokenizer = tiny_tokenizer()
    template = PromptTemplate.from_dict(DOCUMENT)
    special = {tokenizer.token_id(BOS_TOKEN), tokenizer.token_id(EOS_TOKEN)}
    ids = tokenizer.encode_prompt(template, f"a {EOS_TOKEN}{BOS_TOKEN} b")
    assert [token for token in ids if token in special] == [tokenizer.token_id(BOS_TOKEN)]
    assert tokenizer.decode(ids) == f"user: a {EOS_TOKEN}{BOS_TOKEN} b\n"


def test_a_special_token_the_model_lacks_is_named() -> None:
    template = PromptTemplate.default(bos_token="<s>", eos_token=EOS_TOKEN)
    with pytest.raises(ModelError, match="no token '<s>'"):
        tiny_tokenizer().encode_prompt(template, "x")
