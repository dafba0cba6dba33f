"""Small stand-ins for the tests: a byte-level tokenizer, a random 2-layer Llama, a grammar. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer

BOS_TOKEN = "<|im_start|>"
EOS_TOKEN = "<|im_end|>"
MERGED_WORDS = ("turn", " lamp", " on", " off", " in", " to", "set", " heat")

GRAMMAR = r"""
start: command (";" command)*
command: "set" ROOM LEVEL | "off" ROOM
%declare ROOM
LEVEL: /[0-9]{1,3}/
WS: " "
%ignore WS
"""

CATALOGUE = {"ROOM": ["kitchen", "hall", "café"]}

PAIRS = (
    ("set the kitchen to 20", "set kitchen 20"),
    ("switch the hall off", "off hall"),
    ("kitchen off, hall to 5", "off kitchen; set hall 5"),
    ("café at 100", "set café 100"),
)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, in byte order (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [spelling[byte] for byte in range(256)]


def tiny_backend(words: Sequence[str] = MERGED_WORDS) -> Backend:
    """Byte-level BPE: 256 bytes, the merges that spell the words, two special tokens."""
    vocabulary = {character: n for n, character in enumerate(byte_alphabet())}
    merges: list[tuple[str, str]] = []
    for word in words:
        spelled = word.replace(" ", "Ġ")
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocabulary:
                vocabulary[spelled[:end]] = len(vocabulary)
                merges.append((spelled[: end - 1], spelled[end - 1]))
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(BOS_TOKEN, special=True), AddedToken(EOS_TOKEN, special=True)])
    return backend


def tiny_tokenizer(words: Sequence[str] = MERGED_WORDS) -> Tokenizer:
    """The tokenizer as the package sees it."""
    return Tokenizer(tiny_backend(words).to_str())


def tiny_template() -> PromptTemplate:
    """The built-in template with the tiny tokenizer's special tokens."""
    return PromptTemplate.default(bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)


def write_tokenizer(folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tiny_backend().to_str(pretty=True), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "pad_token": EOS_TOKEN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder


def write_language(folder: Path) -> Path:
    """Write grammar.lark and catalogue.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grammar.lark").write_text(GRAMMAR, encoding="utf-8")
    (folder / "catalogue.json").write_text(json.dumps(CATALOGUE, ensure_ascii=False), encoding="utf-8")
    return folder


def write_pairs(path: Path, copies: int = 1) -> Path:
    """Write PAIRS, ``copies`` times with distinct ids and groups, as JSONL; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{copy}-{n}", "prompt": prompt, "target": target, "group": f"g{n}"}
        for copy in range(copies)
        for n, (prompt, target) in enumerate(PAIRS)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_llama(folder: Path, seed: int = 0) -> Path:
    """Write a random 2-layer LlamaForCausalLM (hidden 32, 4 heads of 16, 2 kv heads) with its tokenizer.

    Returns the folder. Heads of 16 are the narrowest that GroupQueryAttention takes.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    backend = tiny_backend()
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=backend.token_to_id(BOS_TOKEN),
        eos_token_id=backend.token_to_id(EOS_TOKEN),
        pad_token_id=backend.token_to_id(EOS_TOKEN),
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(folder)
