"""tokenizer.json straight from the fields of a GGUF file.

The conversion of transformers is not used. For SmolLM2 it adds ``<|im_start|>`` to every text, takes it for the end of
a turn and decodes through ByteFallback, so a grammar engine reads every token that begins with a space as the character
U+0120. For Gemma 3 it turns a BPE vocabulary into Unigram, which splits words wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgedsl.atomic import write_json
from edgedsl.errors import ModelError

_CONTROL = 3  # token types of GGUF: never produced by ordinary text
_USER_DEFINED = 4  # matched before the merges, but ordinary text
_SPACE = "▁"


@dataclass(frozen=True)
class GGUFVocabulary:
    """The ``tokenizer.ggml.*`` fields; tokens, types and scores are indexed by token id."""

    model: str  # "gpt2": byte-level BPE with merges; "llama": SentencePiece BPE with scores
    pretokenizer: str  # the name llama.cpp gives it
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special_ids: dict[str, int]  # bos, eos, unk, pad
    chat_template: str = ""


def build_tokenizer(vocabulary: GGUFVocabulary) -> Tokenizer:
    """Build the tokenizer that the model was trained with; no post-processor: nothing is added to a text.

    Raises:
        ModelError: a vocabulary of another kind; guessing a pre-tokenizer would spoil the model without an error.
    """
    kind = (vocabulary.model, vocabulary.pretokenizer)
    if kind == ("gpt2", "smollm"):
        tokenizer = _byte_level(vocabulary)
    elif kind == ("llama", "default"):
        tokenizer = _sentencepiece(vocabulary)
    else:
        raise ModelError(f"no tokenizer can be built from a GGUF vocabulary of kind {kind[0]}/{kind[1]}")
    _add_marked_tokens(tokenizer, vocabulary)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, vocabulary: GGUFVocabulary, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and what ``transformers.AutoTokenizer`` needs to load exactly that."""
    names = {f"{name}_token": vocabulary.tokens[index] for name, index in vocabulary.special_ids.items()}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    if vocabulary.chat_template:
        settings["chat_template"] = vocabulary.chat_template
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", names)


def _byte_level(vocabulary: GGUFVocabulary) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    # A byte-level token holds no space: GGUF joins the two halves of a merge with one.
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: GGUFVocabulary) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown = vocabulary.tokens[vocabulary.special_ids["unk"]]
    model = models.BPE(
        vocab=ids, merges=_merges_from_scores(vocabulary, ids), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges_from_scores(vocabulary: GGUFVocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose result scores best; BPE needs that order spelled out."""
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            continue
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-score, left, right, (token[:cut], token[cut:])))
    ranked.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in ranked]


def _add_marked_tokens(tokenizer: Tokenizer, vocabulary: GGUFVocabulary) -> None:
    marked = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == _USER_DEFINED])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in marked if kind == _CONTROL]
    )
    if tokenizer.get_vocab_size() != len(vocabulary.tokens):
        raise ModelError("the GGUF vocabulary holds a token twice: token ids would shift")
