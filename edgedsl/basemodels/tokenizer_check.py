"""Defects of a tokenizer.json that break a grammar or a model quietly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgedsl.basemodels.model import read_json
from edgedsl.errors import ModelError

# Leading and doubled spaces, digits, several scripts, an emoji of four code points, control characters.
SAMPLES = (
    "turn on the lamp",
    " leading and  doubled   spaces ",
    "12 + 345 = 357, 0x1F; 3.14",
    'let x = "a\\"b";\n\tif (x) { y(); }\n',
    "naïve Größe, 北京 東京, Привет, مرحبا, 👩‍👩‍👧",
)


def check_tokenizer(folder: Path) -> None:
    """Read ``folder/tokenizer.json`` and look for what fails without an error later on.

    A post-processor that adds tokens is no defect: texts are encoded with ``add_special_tokens=False``.

    Raises:
        ModelError: no tokenizer.json, not readable, ids that the model has no embedding for, or a byte-level vocabulary
            whose decoder is not byte-level or does not give the text back.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            hint="write one with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    tokenizer = _load(path)
    _check_ids(folder, tokenizer)
    state = read_json(path)
    if is_byte_level(state):
        _check_decoder(path, state)
        check_round_trip(path, tokenizer)


def is_byte_level(state: dict[str, Any]) -> bool:
    """Whether the vocabulary of a parsed tokenizer.json spells bytes (GPT-2's alphabet: a space is U+0120)."""
    if "ByteLevel" in _types(state.get("pre_tokenizer")) or "ByteLevel" in _types(state.get("normalizer")):
        return True
    vocabulary = state.get("model", {}).get("vocab")
    return isinstance(vocabulary, dict) and "Ġ" in vocabulary and "▁" not in vocabulary


def check_round_trip(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ModelError unless every sample comes back as it went in."""
    for sample in SAMPLES:
        ids = tokenizer.encode(sample, add_special_tokens=False).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != sample:
            raise ModelError(
                f"{path}: the text {sample!r} does not survive encoding and decoding",
                hint="take the tokenizer.json of the model's authors",
            )


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # tokenizers raises bare Exception
        raise ModelError(f"cannot read {path}: {exc}", hint="take the tokenizer.json of the model's authors") from exc


def _check_ids(folder: Path, tokenizer: Tokenizer) -> None:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = config.get("vocab_size") if isinstance(config, dict) else None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if isinstance(rows, int) and highest >= rows:
        raise ModelError(
            f"{folder}: the tokenizer has token id {highest}, the model has {rows} embeddings",
            hint="the tokenizer belongs to another model, or the embeddings were not resized when tokens were added",
        )


def _check_decoder(path: Path, state: dict[str, Any]) -> None:
    found = _types(state.get("decoder"))
    if "ByteLevel" in found and "ByteFallback" not in found:
        return
    raise ModelError(
        f"{path}: a byte-level vocabulary with the decoder {' + '.join(found) or 'none'}; expected ByteLevel alone. "
        "A grammar would reject every token that begins with a space",
        hint='set "decoder" there to {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, '
        '"use_regex": true}, or take the tokenizer.json of the model\'s authors',
    )


def _types(part: Any) -> list[str]:
    """Names of the steps of one stage, sequences flattened."""
    if not isinstance(part, dict):
        return []
    inner = next((part[key] for key in ("decoders", "pretokenizers", "normalizers") if key in part), None)
    return [name for step in inner for name in _types(step)] if inner is not None else [str(part.get("type"))]
